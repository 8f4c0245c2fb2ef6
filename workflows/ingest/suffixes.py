"""What the name of a raw file says: its kind, its compression, whether it looks like data, and how to mend it."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

Kind = Literal["parquet", "text", "atomic", "matrix"]

# Every suffix that is read, in any letter case.
_KINDS: dict[str, Kind] = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "text",
    "tsv": "text",
    "inter": "atomic",  # RecBole and MMRec: text with tabs
    "item": "atomic",
    "user": "atomic",
    "npy": "matrix",
}
_COMPRESSIONS = {"gz": "gzip", "zst": "zstd"}  # of text alone: Parquet compresses itself, a matrix is read in places

_TORCH = "numpy.save({to!r}, torch.load({name!r}, weights_only=True).float().numpy())"
_JSON = "pandas.read_json({name!r}, lines=True).to_parquet({to!r})"
_ARROW = "pyarrow.parquet.write_table(pyarrow.feather.read_table({name!r}), {to!r})"
_SHEET = "Save the sheet as CSV (UTF-8)."
_UNPACK = "Unpack it."
_PICKLE = "A pickle can run code. Let the program that wrote it write {to!r}."
_WRITE = "Write {to!r} instead."
# Suffixes of data that is not read, with the line that mends it.
_UNREAD = {
    "pt": _TORCH, "pth": _TORCH, "ckpt": _TORCH,
    "npz": "with numpy.load({name!r}) as file: numpy.save({to!r}, file[file.files[0]])",
    "pkl": _PICKLE, "pickle": _PICKLE, "joblib": _PICKLE, "dill": _PICKLE,
    "h5": "with h5py.File({name!r}) as file: numpy.save({to!r}, file[next(iter(file))][:])",
    "hdf5": "with h5py.File({name!r}) as file: numpy.save({to!r}, file[next(iter(file))][:])",
    "safetensors": "numpy.save({to!r}, next(iter(safetensors.numpy.load_file({name!r}).values())))",
    "jsonl": _JSON, "ndjson": _JSON,
    "feather": _ARROW, "arrow": _ARROW, "ipc": _ARROW,
    "orc": "pyarrow.parquet.write_table(pyarrow.orc.read_table({name!r}), {to!r})",
    "xlsx": _SHEET, "xls": _SHEET, "xlsm": _SHEET, "ods": _SHEET,
    "zip": _UNPACK, "tar": _UNPACK, "tgz": _UNPACK, "7z": _UNPACK, "rar": _UNPACK, "bz2": _UNPACK, "xz": _UNPACK,
    "lz4": _UNPACK, "br": _UNPACK, "snappy": _UNPACK, "lzo": _UNPACK, "z": _UNPACK, "gz": _UNPACK, "zst": _UNPACK,
    "gzip": _UNPACK, "zstd": _UNPACK,
    "avro": _WRITE, "mat": _WRITE, "bin": _WRITE, "dat": _WRITE, "data": _WRITE, "tab": _WRITE, "psv": _WRITE,
    "db": _WRITE, "sqlite": _WRITE, "sqlite3": _WRITE, "duckdb": _WRITE, "lance": _WRITE, "tfrecord": _WRITE,
    "memmap": _WRITE, "mmap": _WRITE, "rds": _WRITE, "rda": _WRITE, "rdata": _WRITE, "dta": _WRITE, "sav": _WRITE,
    "sas7bdat": _WRITE, "parq": _WRITE, "vec": _WRITE, "emb": _WRITE, "fvecs": _WRITE,
}  # fmt: skip
_LEFT_BEHIND = ("bak", "backup", "old", "orig", "tmp", "temp", "part", "partial", "crdownload", "swp", "copy", "save")

_PEOPLE = "for people, not for an import"
_HARMLESS = (
    (re.compile(r"(readme|licen[cs]e|notice|copying|changelog|changes|citation|authors)([-_.].*)?"), _PEOPLE),
    (re.compile(r".*\.(md|rst|pdf|html?|log|tex|bib|docx?)"), _PEOPLE),
    (re.compile(r".*\.(py|sh|ipynb|r|sql|js)"), "a program, not data"),
    (re.compile(r".*\.(ya?ml|toml|cfg|ini|json|xml|lock)"), "settings or metadata, not data"),
    (re.compile(r".*\.(jpe?g|png|gif|webp|svg|bmp|tiff?|mp[34]|wav|flac|avi|webm)"), "a picture, a sound or a film"),
    (
        re.compile(r".*\.(crc|md5|sha1|sha256|sha512|asc|sig)|(md5|sha\d+)sums?(\.txt)?|checksums?(\.txt)?"),
        "a checksum",
    ),
    (
        re.compile(r"_success|_(started|committed)[-_.].*|_(common_)?metadata|.*_\$folder\$|_schema|_manifest"),
        "a marker of the program that wrote the folder",
    ),
)
_OF_SYSTEM = re.compile(r"__macosx/.*|(.*/)?(thumbs\.db|desktop\.ini|icon\r)")
_DATA_NAME = re.compile(
    r".*(interaction|id_mapping|(^|[-_.])feat(ure)?s?([-_.]|$)).*|(users?|items?|ratings|events|clicks|purchases|reviews)"
    r"|(train(ing)?|val|valid(ation)?|dev|test(ing)?)"
)
_METADATA_NAME = re.compile(r"(^|.*[-_.])(schema|meta(data)?|manifest|info|stats|config)([-_.].*|$)")


@dataclass(frozen=True)
class Suffix:
    """The kind that a file's suffix says, and how a text is compressed: ``gzip``, ``zstd`` or not."""

    kind: Kind
    compression: str = ""


def split_suffix(name: str) -> tuple[str, Suffix | None]:
    """Part ``interactions.CSV.gz`` into ``interactions`` and what its suffix says; None where it is none that is read.

    Without a known suffix the whole name is the stem.
    """
    stem, _, last = name.rpartition(".")
    compression = _COMPRESSIONS.get(last.lower(), "")
    if compression:
        stem, _, last = stem.rpartition(".")
    kind = _KINDS.get(last.lower())
    if kind is None or not stem or (compression and kind not in ("text", "atomic")):
        return name, None
    return stem, Suffix(kind, compression)


def is_table(name: str) -> bool:
    """Whether a name is that of a Parquet, CSV or TSV file that is read."""
    suffix = split_suffix(name)[1]
    return suffix is not None and suffix.kind in ("parquet", "text")


def harmless_reason(key: str, *, is_empty: bool, is_in_data: bool) -> str | None:
    """Why a file that is not used needs no attention; None if it looks like data, or its kind is unknown.

    Args:
        is_in_data: It lies in a folder of features or interactions, where a JSON file is more than metadata.
    """
    name = PurePosixPath(key).name.lower()
    if _OF_SYSTEM.fullmatch(key.lower()):
        return "a file of the operating system"
    if is_empty and "." not in name:
        return "an empty file, such as writers leave as a marker"
    if _data_suffix(name) is not None or (name.endswith(".json") and _is_data_json(name, is_in_data=is_in_data)):
        return None
    return next((reason for pattern, reason in _HARMLESS if pattern.fullmatch(name)), None)


def looks_like_data(key: str, *, is_in_data: bool) -> bool:
    """Whether a file that is not harmless could be data that somebody expects to be read, by suffix, name or folder."""
    name = PurePosixPath(key).name.lower()
    return is_in_data or _data_suffix(name) is not None or _DATA_NAME.fullmatch(name.partition(".")[0]) is not None


def how_to_mend(key: str, *, target: str) -> str | None:
    """The line that turns a file of a kind that is not read into ``target``; None where its kind is read."""
    last = PurePosixPath(key).suffix.removeprefix(".").lower()
    advice = _UNREAD.get(last)
    return None if advice is None else advice.format(name=key, to=target)


def _data_suffix(name: str) -> str | None:
    """The suffix of a lower-case name that says data, also below ``.bak`` and the like: ``a.csv.bak``, ``a.csv~``."""
    parts = name.rstrip("~#").split(".")
    while len(parts) > 1 and parts[-1] in _LEFT_BEHIND:
        parts.pop()
    return parts[-1] if len(parts) > 1 and (parts[-1] in _KINDS or parts[-1] in _UNREAD) else None


def _is_data_json(name: str, *, is_in_data: bool) -> bool:
    stem = name.removesuffix(".json")
    if name.startswith("_") or _METADATA_NAME.fullmatch(stem):
        return False
    return is_in_data or _DATA_NAME.fullmatch(stem) is not None
