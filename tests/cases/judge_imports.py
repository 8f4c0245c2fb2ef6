"""Judges of the cases about imports: read rightly, or refused by name with nothing written; nothing left out unsaid."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from tests.cases.reading import Held, held, places_named, says_unchanged, store_of
from tests.cases.worlds import Trial, cases_folder
from workflows.data.snapshot import read_features

_DIGITS = [str(number) for number in range(10)]


def _refusal(trial: Trial, *words: str) -> Iterator[str]:
    """What is wrong with a refusal: a word that it lacks, nothing said of what is safe, or a data set all the same."""
    if lacking := [word for word in words if word not in trial.text]:
        yield f"refused without naming {lacking}"
    if not says_unchanged(trial.text):
        yield "refused without a word on what is safe"
    if held(trial, "new") is not None:
        yield "refused, and the data set is there"


def _imported(trial: Trial) -> Held | None:
    return held(trial, "new")


def _has_ids(found: Held | None, users: Sequence[str], items: Sequence[str]) -> Iterator[str]:
    if found is None:
        yield "there is no data set"
    elif (sorted(found.users), sorted(found.items)) != (sorted(users), sorted(items)):
        yield f"other ids: {len(found.users)} users and {len(found.items)} items"


def _ids_or_refused(trial: Trial, *, word: str) -> Iterator[str]:
    """Ten users 0 to 9 and eight items 0 to 7, or refused with a word and a row."""
    if not trial.is_refused:
        yield from _has_ids(_imported(trial), _DIGITS, _DIGITS[:8])
        return
    yield from _refusal(trial, word)
    if not places_named(trial.text):
        yield "refused without naming a row"


def _modalities_or_named(trial: Trial, *, files: dict[str, str]) -> Iterator[str]:
    """Each file is a modality of the data set, or is named.

    Args:
        files: The modality that each is, by path.
    """
    if trial.is_refused:
        if not any(path in trial.text for path in files):
            yield "refused without naming a file"
        yield from _refusal(trial)
    found = _imported(trial)
    modalities = {} if found is None else found.modalities
    for path, modality in files.items():
        if modality not in modalities and path not in trial.text:
            yield f"{path} was neither read nor named"


def _nested_part(trial: Trial) -> Iterator[str]:
    if trial.is_refused:
        yield from _refusal(trial, "interactions/2025/part-1.parquet")
        return
    found = _imported(trial)
    if found is None or (len(found.users) != 5 and "interactions/2025/part-1.parquet" not in trial.text):
        yield "the part of 2025 was neither read nor named"


def _map_without_column(trial: Trial) -> Iterator[str]:
    if lacking := [word for word in ("u_id_mapping.csv", "userID") if word not in trial.text]:
        yield f"not a word of {lacking}"
    if trial.is_refused:
        yield from _refusal(trial)


def _no_header(trial: Trial) -> Iterator[str]:
    yield from _refusal(trial, "interactions.csv", "user_id")
    if not re.search(r"\b(2|two) columns", trial.text):
        yield "not a word of how many columns there are"


def _escape_in_header(trial: Trial) -> Iterator[str]:
    yield from _refusal(trial, "interactions.csv")
    if "[2J" in trial.text and not re.search(r"\\x1b(\\x1b)?\[2J|\\u001b\[2J|\\\\x1b\[2J", trial.text):
        yield "the escape is quoted in another way than as \\x1b"


def _spark_folder(trial: Trial) -> Iterator[str]:
    if "layout" in trial.text:
        yield "the advice to name a layout"
    if not trial.is_refused:
        found = _imported(trial)
        if found is None or len(found.users) != 10:
            yield "the folder was not read"
        return
    yield from _refusal(trial, "interactions.parquet", "folder")


def _two_tables(trial: Trial) -> Iterator[str]:
    yield from _refusal(trial, "interactions.csv", "interactions.parquet")
    if not re.search(r"[Kk]eep one|one of them|[Rr]emove|[Mm]ove", trial.text):
        yield "no advice"


def _backup_beside(trial: Trial) -> Iterator[str]:
    if trial.is_refused:
        yield from _refusal(trial, "interactions-backup.parquet", "interactions.parquet")
        return
    found = _imported(trial)
    yield from _has_ids(found, _DIGITS, found.items if found else [])
    if "interactions-backup.parquet" not in trial.text:
        yield "the backup was left out without a word"


def _split_by_file(trial: Trial) -> Iterator[str]:
    if trial.is_refused:
        yield from _refusal(trial, "interactions-train.csv", "split")
        return
    found = _imported(trial)
    if found is None:
        yield "there is no data set"
    elif found.splits != (12, 6, 12) and not ("interactions-train.csv" in trial.text and "split" in trial.text):
        yield f"merged and drawn anew as {found.splits} without a word"


def _excel_scientific(trial: Trial) -> Iterator[str]:
    yield from _refusal(trial, "user_id")
    if not places_named(trial.text):
        yield "refused without naming rows"


def _dates_as_integers(trial: Trial) -> Iterator[str]:
    is_said = re.search(r"yyyymmdd|YYYYMMDD|20240115|2024-01", trial.text)
    if trial.is_refused:
        yield from _refusal(trial, "timestamp")
    if not is_said:
        yield "not a word of dates of the form yyyymmdd"
    if "1970" in str(trial.said[0].figures.get("report", "")):
        yield "times of 1970"


def _source_here_target_there(trial: Trial) -> Iterator[str]:
    if "127.0.0.1:9" not in trial.text:
        yield "the message is not about the endpoint"
    if "is a folder and has no endpoint" in trial.text:
        yield "refused because the source is a folder"


def _csv_text(trial: Trial) -> Iterator[str]:
    found = _imported(trial)
    yield from _has_ids(found, [f"{n:05d}" for n in range(10)], [f"{n:03d}" for n in range(8)])


def _parquet_types(trial: Trial) -> Iterator[str]:
    found = _imported(trial)
    yield from _has_ids(found, [f"u{digit}" for digit in _DIGITS], _DIGITS[:8])
    if found is not None and found.modalities != {"image": 4, "sound": 4, "text": 4}:
        yield f"modalities {found.modalities}"


def _parts_folder(trial: Trial) -> Iterator[str]:
    found = _imported(trial)
    if found is None or (len(found.users), sum(found.splits)) != (5, 10):
        yield "not 5 users with 10 interactions"


def _fortran_order(trial: Trial) -> Iterator[str]:
    if trial.is_refused:
        yield from _refusal(trial, "ascontiguousarray")
        return
    found = _imported(trial)
    if found is None:
        yield "there is no data set"
        return
    expected = np.load(cases_folder() / "imports" / "control_fortran_order" / "features" / "image.npy")
    own = read_features(store_of(trial), found.manifest, "image", range(found.manifest.num_item_buckets))
    if own.shape != expected.shape or not np.allclose(own, expected, atol=1e-3):
        yield "other features than in the file"


_OTHER_KINDS = {"features/audio.csv": "audio", "features/image.pt": "image", "features/text.npz": "text"}
_OTHER_PLACES = {
    "features/v1/image.npy": "image",
    "features/text.NPY": "text",
    "Features/sound.npy": "sound",
    "style_feat.npy": "style",
}

IMPORTS: dict[str, Callable[[Trial], Iterator[str]]] = {
    "imports/tsv_all_quoted": partial(_ids_or_refused, word="interactions.tsv"),
    "imports/padded_ids": partial(_ids_or_refused, word="user_id"),
    "imports/feature_of_other_kinds": partial(_modalities_or_named, files=_OTHER_KINDS),
    "imports/feature_in_other_places": partial(_modalities_or_named, files=_OTHER_PLACES),
    "imports/linked_feature": partial(_modalities_or_named, files={"features/image.npy": "image"}),
    "imports/nested_part": _nested_part,
    "imports/map_without_its_column": _map_without_column,
    "imports/no_header": _no_header,
    "imports/escape_in_header": _escape_in_header,
    "imports/spark_folder": _spark_folder,
    "imports/two_tables": _two_tables,
    "imports/backup_beside": _backup_beside,
    "imports/split_by_file": _split_by_file,
    "imports/excel_scientific": _excel_scientific,
    "imports/dates_as_integers": _dates_as_integers,
    "imports/source_here_target_there": _source_here_target_there,
    "imports/control_csv_text": _csv_text,
    "imports/control_parquet_types": _parquet_types,
    "imports/control_parts_folder": _parts_folder,
    "imports/control_fortran_order": _fortran_order,
}
