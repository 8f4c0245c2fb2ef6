"""What an import does not read, and why. A file that looks like data and is not understood stops the import."""

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

from tru_core.errors import DataError
from workflows.ingest.interaction_files import is_interaction_folder
from workflows.ingest.problems import NOTHING_WRITTEN
from workflows.ingest.raw_files import Layout, UnusedFile
from workflows.ingest.source_files import SourceFile
from workflows.ingest.suffixes import Suffix, harmless_reason, how_to_mend, looks_like_data, split_suffix

logger = logging.getLogger(__name__)

_WHAT_IS_READ: dict[Layout, str] = {
    "tru": "read are one table of interactions, features/<modality>.npy or .parquet, and users and items as id maps.",
    "mmrec": "read are one .inter file, <modality>_feat.npy, and u_id_mapping.csv and i_id_mapping.csv.",
    "recbole": "read are <name>.inter, .item (with features as float_seq columns) and .user, all of one name.",
}
MAX_FILES_ADVISED = 5  # in an error, with what to do about each
MAX_FILES_NAMED = 20  # in an error or a line of the log, and in the figures of one folder and kind


def account_for(
    files: Sequence[SourceFile], used: Collection[str], *, known: dict[str, str], layout: Layout
) -> list[UnusedFile]:
    """Say of every file that is not used why it is not.

    Args:
        used: The keys of the files that are read.
        known: Keys of other files that a layout knows and leaves out, with the reason.

    Raises:
        DataError: Files look like data and are not understood; they are named with what to do about them.
    """
    owners = {file.real_path: file.key for file in files if file.key in used}
    unused: list[UnusedFile] = []
    strange: list[str] = []
    for file in files:
        if file.key in used:
            continue
        is_in_data = _is_in_data(file.key)
        reason = known.get(file.key) or harmless_reason(file.key, is_empty=file.size_bytes == 0, is_in_data=is_in_data)
        if file.real_path in owners:
            reason = f"is {owners[file.real_path]} under another name, which is read"
        if reason is None and looks_like_data(file.key, is_in_data=is_in_data):
            strange.append(file.key)
        else:
            unused.append(UnusedFile(file.key, reason or "of no kind that an import reads"))
    if strange:
        raise _not_understood(strange, sorted(used), layout)
    return unused


def summarise(unused: Iterable[UnusedFile]) -> list[UnusedFile]:
    """Put many files of one folder, suffix and reason together, so that a folder of pictures is one line."""
    groups: dict[tuple[str, str, str], list[UnusedFile]] = {}
    for entry in unused:
        path = PurePosixPath(entry.file)
        groups.setdefault((str(path.parent), path.suffix, entry.reason), []).append(entry)
    lines = []
    for (folder, suffix, reason), entries in groups.items():
        if len(entries) <= MAX_FILES_NAMED:
            lines += entries
        else:
            name = f"*{suffix}" if folder == "." else f"{folder}/*{suffix}"
            lines.append(UnusedFile(name, reason, sum(entry.num_files for entry in entries)))
    return sorted(lines, key=lambda entry: entry.file)


def warn_of_unused(dataset: str, unused: Sequence[UnusedFile]) -> None:
    """Log what was not used, in one line. Names are quoted, so that a name cannot forge a line of the log."""
    if unused:
        named = ", ".join(f"{entry.file!r} ({entry.reason})" for entry in unused[:MAX_FILES_NAMED])
        rest = f" and {len(unused) - MAX_FILES_NAMED} more" if len(unused) > MAX_FILES_NAMED else ""
        logger.warning("data set %s: files not used: %s%s", dataset, named, rest)


def strange_files(files: Iterable[SourceFile]) -> list[str]:
    """The keys of files that look like data, whatever the layout."""
    return [
        file.key
        for file in files
        if harmless_reason(file.key, is_empty=file.size_bytes == 0, is_in_data=_is_in_data(file.key)) is None
        and looks_like_data(file.key, is_in_data=_is_in_data(file.key))
    ]


def _is_in_data(key: str) -> bool:
    folders = key.split("/")[:-1]
    return bool(folders) and (folders[0].lower() == "features" or is_interaction_folder(folders[0]))


def _not_understood(strange: Sequence[str], used: Sequence[str], layout: Layout) -> DataError:
    verb = "looks" if len(strange) == 1 else "look"
    advice = "".join(f"\n{key}: {advise(key, used, layout)}" for key in strange[:MAX_FILES_ADVISED])
    return DataError(
        f"{_listed(strange)}: {verb} like data and would not be read (layout {layout}). {NOTHING_WRITTEN} Turn each "
        f"into a file that is read, or move it out of the source. These would be read: {_listed(used)}.{advice}"
    )


def _listed(keys: Sequence[str]) -> str:
    rest = f" and {len(keys) - MAX_FILES_NAMED} more" if len(keys) > MAX_FILES_NAMED else ""
    return ", ".join(keys[:MAX_FILES_NAMED]) + rest


def advise(key: str, used: Sequence[str], layout: Layout) -> str:
    """What to do about a file that looks like data and is not understood."""
    name = PurePosixPath(key).name
    stem, suffix = split_suffix(name)
    if "interaction" in key.lower():
        table = next((other for other in used if "interaction" in other.lower() or ".inter" in other.lower()), None)
        if table is not None:
            return f"one table of interactions is read, here {table}; parts of it belong into a folder interactions/."
        line = how_to_mend(key, target="interactions.parquet")
        return line or "name it interactions.parquet (or .csv), at the top of the source."
    modality = stem.lower().partition(".")[0].removesuffix("_feat") or "image"
    target = {"tru": f"features/{modality}.npy", "mmrec": f"{modality}_feat.npy", "recbole": "the .item file"}[layout]
    line = None if layout == "recbole" else how_to_mend(key, target=target)
    if line is None and layout != "recbole" and _is_feature(key, suffix):
        is_text = suffix is not None and suffix.kind == "text"
        line = (
            f"numpy.save({target!r}, numpy.loadtxt({key!r}, delimiter=',', dtype='float32', ndmin=2))"
            if is_text
            else (f"move it to {target}, with the name of its modality.")
        )
    return line or _WHAT_IS_READ[layout]


def _is_feature(key: str, suffix: Suffix | None) -> bool:
    return (suffix is not None and suffix.kind == "matrix") or "feat" in key.lower()
