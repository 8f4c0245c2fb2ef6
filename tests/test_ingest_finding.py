"""Every file of a source is read, or named with the reason, or refused by name: nothing is passed over in silence."""

import gzip
import os
import shutil
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workflows.ingest.interaction_files
import workflows.ingest.source_files
from tests.ingest_sources import FIRST_USER, features, interactions, write_lists, write_mmrec, write_recbole, write_tru
from tru_core.errors import AccessError, ConfigError, DataError, MissingObjectError, TruError
from workflows.data.snapshot import TEST, TRAIN, VALID, read_features
from workflows.ingest import ColumnNames, IngestConfig, import_dataset
from workflows.ingest.feature_files import find_feature_files
from workflows.ingest.interaction_files import find_interactions
from workflows.ingest.layouts import find_raw_data
from workflows.ingest.raw_files import RawData, UnusedFile
from workflows.ingest.source_files import SourceFile, list_source
from workflows.ingest.suffixes import split_suffix
from workflows.ingest.unused import account_for, summarise, warn_of_unused
from workflows.storage.local import LocalStore

TABLE = pa.table({"user_id": [1, 2], "item_id": [0, 1]})


def put(folder: Path, *keys: str, body: bytes | None = None) -> None:
    """Write a small table, matrix or text under each key, of the kind that its name says."""
    for key in keys:
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = split_suffix(path.name)[1]
        if body is not None:
            path.write_bytes(body)
        elif suffix is not None and suffix.kind == "parquet":
            pq.write_table(TABLE, path)
        elif suffix is not None and suffix.kind == "matrix":
            with path.open("wb") as file:
                np.save(file, features(3, num_items=2))
        else:
            path.write_bytes(b"user_id,item_id\n1,0\n2,1\n")


def find(folder: Path, layout: Any = "auto", **names: str) -> RawData:
    return find_raw_data(LocalStore(folder), layout, names=ColumnNames(**names))


def refused(folder: Path, *named: str, kind: type[TruError] = DataError, layout: Any = "auto", **names: str) -> str:
    """See a source refused, with all these names in the message."""
    with pytest.raises(TruError) as caught:
        find(folder, layout, **names)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert [name for name in named if name not in message] == [], message
    assert "Nothing was written." in message
    assert len(message) < 2_000
    return message


def keys_of(raw: RawData) -> list[str]:
    return [table.key for table in raw.tables]


def unused_of(raw: RawData) -> dict[str, str]:
    return {entry.file: entry.reason for entry in raw.unused}


# --- files that are not read --------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "README.md",
        "LICENSE",
        "licence.txt",
        "CHANGELOG.rst",
        ".DS_Store",
        "._interactions.parquet",
        ".interactions.parquet.crc",
        "features/.ipynb_checkpoints",
        "SHA256SUMS",
        "interactions.parquet.md5",
        "features/image.npy.sha256",
        "dataset_infos.json",
        "features/config.json",
        "settings.yaml",
        "make_features.py",
        "pictures/1.JPG",
        "__MACOSX/interactions.parquet",
        "notes.txt",
        "photo.heic",
        "Thumbs.db",
    ],
)
def test_a_file_that_is_no_data_is_a_line_with_a_reason(tmp_path: Path, key: str) -> None:
    put(tmp_path, "interactions.parquet", "features/image.npy")
    put(tmp_path, key, body=b"x")
    raw = find(tmp_path)
    assert list(unused_of(raw)) == [key]
    assert unused_of(raw)[key]
    assert (keys_of(raw), [feature.modality for feature in raw.features]) == (["interactions.parquet"], ["image"])


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("features/image.pth", "numpy.save('features/image.npy', torch.load('features/image.pth', weights_only=True)"),
        ("features/clip.PT", "torch.load('features/clip.PT'"),
        ("features/text.NPZ", "numpy.load('features/text.NPZ')"),
        ("features/text.pkl", "A pickle can run code"),
        ("features/text.h5", "h5py.File('features/text.h5')"),
        ("features/text.safetensors", "safetensors.numpy.load_file"),
        ("features/text.tsv", "numpy.loadtxt('features/text.tsv'"),
        ("features/text.npy.gz", "Unpack it."),
        ("features/text", "features/text.npy"),
        ("features/v2/deep/text.npy", "features/text.npy"),
        ("text_feat.npy", "features/text.npy"),
        ("embeddings/text.npy", "features/text.npy"),
        ("interactions_old.csv", "here interactions.parquet"),
        ("interactions (1).csv", "here interactions.parquet"),
        ("copy of interactions.csv", "here interactions.parquet"),
        ("Interactions-Backup/part-0.parquet", "here interactions.parquet"),
        ("interactions.csv.bak", "here interactions.parquet"),
        ("interactions.csv~", "here interactions.parquet"),
        ("interactions.jsonl", "here interactions.parquet"),
        ("interactions.json", "here interactions.parquet"),
        ("interactions.xlsx", "here interactions.parquet"),
        ("interactions.csv.bz2", "here interactions.parquet"),
        ("ratings.dat", "Write"),
        ("events.feather", "pyarrow.feather.read_table('events.feather')"),
        ("titles.csv", "move it out of the source"),
        ("README.csv", "move it out of the source"),
        ("notice.parquet", "move it out of the source"),
        ("sub/users.parquet", "users and items as id maps"),
        ("user_ids", "move it out of the source"),
        ("u_id_mapping.csv", "move it out of the source"),
    ],
)
def test_a_file_that_looks_like_data_and_is_not_understood_is_refused_with_what_to_do(
    tmp_path: Path, key: str, advice: str
) -> None:
    put(tmp_path, "interactions.parquet")
    assert find(tmp_path).unused == ()
    put(tmp_path, "users/note.md", key, body=b"1,2\n")
    if key == "user_ids":
        assert list(unused_of(find(tmp_path))) == ["user_ids", "users/note.md"]
        put(tmp_path, "ratings", body=b"1,2\n")
        key = "ratings"
    assert advice in refused(tmp_path, key, "interactions.parquet")


def test_many_files_that_are_not_understood_make_a_short_message(tmp_path: Path) -> None:
    put(tmp_path, "interactions.parquet")
    put(tmp_path, *(f"features/shard_{number:04}.pt" for number in range(300)), body=b"x")
    message = refused(tmp_path, "features/shard_0000.pt", "features/shard_0019.pt", " and 280 more")
    assert message.count("torch.load") == 5


def test_many_files_of_one_kind_and_folder_are_one_line_with_their_number() -> None:
    pictures = [UnusedFile(f"pictures/{number}.jpg", "a picture") for number in range(50)]
    found = summarise([UnusedFile("b.md", "text"), *pictures, UnusedFile("pictures/a.png", "a picture")])
    assert found == [
        UnusedFile("b.md", "text"),
        UnusedFile("pictures/*.jpg", "a picture", 50),
        UnusedFile("pictures/a.png", "a picture"),
    ]


def test_the_log_names_what_was_not_used_in_one_line_without_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_of_unused("small", [UnusedFile(f"{number}\n\x1b[2J.md", "for people") for number in range(30)])
    warn_of_unused("small", [])
    [record] = caplog.records
    message = record.getMessage()
    assert message.startswith(r"data set small: files not used: '0\n\x1b[2J.md' (for people), '1\n")
    assert message.endswith(" and 10 more")
    assert not set("\n\x1b") & set(message)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "interactions",
                "features",
                "train",
                "part-0",
                "image",
                "old",
                "x",
                "date=1",
                "split=test",
                ".h",
                "_m",
                "é",
            ]
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["", ".csv", ".PARQUET", ".npy", ".pt", ".json", ".md", ".csv.gz", ".zip", "_SUCCESS"]),
)
def test_any_name_beside_a_table_is_read_or_listed_or_refused(parts: list[str], suffix: str) -> None:
    """The property behind all cases here, on names alone: headers are opened afterwards."""
    key = "/".join(parts) + suffix
    if any(part.startswith(".") for part in key.split("/")):
        return  # the listing names hidden files
    files = [SourceFile("interactions.parquet", 9, "a"), SourceFile(key, 9, "b")]
    message = ""
    used, unused = set[str](), list[UnusedFile]()
    try:
        table = find_interactions(files, ColumnNames(), url="raw")
        used = {part.key for part in table.parts} if table else set()
        used |= {key for found in find_feature_files(files) for key in found.keys}
        unused = account_for(files, used, known={}, layout="tru")
    except DataError as error:
        message = str(error)
    if message:
        assert parts[0] in message
        return
    assert {*used, *(entry.file for entry in unused)} == {"interactions.parquet", key}
    assert "interactions.parquet" in used or key == "interactions.parquet"


# --- the table of interactions ------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        ["interactions.PARQUET"],
        ["Interactions.Csv"],
        ["interactions.csv.gz"],
        ["interactions.TSV.ZST"],
        ["interactions.pq"],
        [
            "interactions.parquet/part-00000-3f2a-c000.snappy.parquet",
            "interactions.parquet/part-00007-3f2a-c000.parquet",
        ],
        ["interactions/16f7_000000_000000.parquet", "interactions/16f7_000000_000001.parquet"],  # Ray Data
        ["interactions.csv/0.part", "interactions.csv/part-1.csv"][1:],
        ["interactions/2024/12/part-0.csv", "interactions/2024/part-0.csv", "interactions/part-0.csv"],
        ["interactions-0001.parquet", "interactions-0002.parquet"],
        ["interactions_2024-12.csv", "interactions_2025-01.csv"],
        ["interactions-00000-of-00002.parquet", "interactions-00001-of-00002.parquet"],
        ["part-00000-c000.csv", "part-00001-c000.csv"],  # the source is the folder that Spark wrote
        ["date=2025-01-01/part-0.parquet", "date=2025-01-02/part-0.parquet"],
    ],
)
def test_one_table_in_any_of_its_forms_is_read_whole(tmp_path: Path, keys: list[str]) -> None:
    for key in keys:
        put(tmp_path, key, body=None if key.lower().endswith(("parquet", "pq", "csv")) else b"user_id,item_id\n1,1\n")
    table = find_interactions(list_source(LocalStore(tmp_path)).files, ColumnNames(), url="raw")
    assert table is not None
    assert sorted(part.key for part in table.parts) == sorted(keys)
    assert {part.split for part in table.parts} == {None}


@pytest.mark.parametrize(
    ("key", "compression"),
    [("a.csv", ""), ("a.csv.GZ", "gzip"), ("a.inter.zst", "zstd"), ("a.tsv.gz", "gzip"), ("a.parquet", "")],
)
def test_a_name_says_how_a_text_is_compressed(key: str, compression: str) -> None:
    suffix = split_suffix(key)[1]
    assert suffix is not None
    assert suffix.compression == compression
    assert split_suffix("a.parquet.gz")[1] is split_suffix("a.csv.bz2")[1] is split_suffix("gz")[1] is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("interactions.csv", "interactions.parquet"),
        ("interactions.csv", "Interactions.csv"),
        ("interactions.tsv", "interactions.tsv.gz"),
        ("interactions.parquet", "interactions/part-0.parquet"),
        ("interactions.parquet", "interactions-1.parquet"),
        ("interactions.parquet", "interactions-train.parquet"),
        ("interactions.csv", "test.csv"),
        ("interactions.parquet", "part-00000-c000.parquet"),
        ("interactions-0.parquet", "interactions-0.csv"),
        ("interactions/part-0.csv", "interactions/part-0.csv.gz"),
        ("interactions/part-0.parquet", "interactions/part-1.csv"),
        ("interactions/interactions.parquet", "interactions/part-1.parquet"),
        ("interactions/part-0.parquet", "interactions/old/part-0.parquet"),
        ("interactions/part-0.parquet", "interactions/part-0 (1).parquet"),
        ("interactions/part-0.parquet", "interactions/backup-2024.parquet"),
        ("interactions-1.parquet", "interactions-train.parquet"),
        ("interactions-0.csv", "interactions-0/part-0.csv"),
        ("train.csv", "train/part-0.csv"),
        ("interactions-train.csv", "interactions-train-1.csv"),
        ("interactions/train.csv", "interactions/train-2.csv"),
        ("interactions/2024.csv", "interactions/2024/1.csv"),
    ],
)
def test_two_files_that_could_each_be_the_table_are_refused_by_name(tmp_path: Path, first: str, second: str) -> None:
    put(tmp_path, first)
    put(tmp_path, second)
    message = refused(tmp_path)
    assert second.split("/")[0] in message
    assert "put aside" in message or "Keep one" in message or "all files by train" in message


def test_a_part_that_the_names_count_and_that_is_missing_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "interactions/x-00000-of-00003.parquet", "interactions/x-00002-of-00003.parquet")
    assert "expected 3 parts" in refused(tmp_path)


def test_a_table_in_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workflows.ingest.interaction_files, "MAX_PARTS", 3)
    put(tmp_path, *(f"interactions/part-{number}.csv" for number in range(4)))
    refused(tmp_path, "at most 3 files, found 4")


def test_a_table_one_folder_below_is_named(tmp_path: Path) -> None:
    put(tmp_path, "raw/interactions.csv")
    refused(tmp_path, "raw/interactions.csv lies in a folder below")


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("interactions.jsonl", "pandas.read_json('interactions.jsonl', lines=True).to_parquet('interactions.parquet')"),
        ("interactions.xlsx", "Save the sheet as CSV"),
        ("interactions.parquet.gz", "Unpack it."),
        ("interactions-final.csv", "name it interactions.parquet"),
        ("interactions", "name it interactions.parquet"),
    ],
)
def test_a_table_of_interactions_that_is_not_read_is_named_with_what_to_do(
    tmp_path: Path, key: str, advice: str
) -> None:
    put(tmp_path, key)
    refused(tmp_path, f"{key}: {advice}")


def test_a_table_of_another_name_is_named_with_the_name_that_is_read(tmp_path: Path) -> None:
    put(tmp_path, "ratings.csv", "movies.csv")
    refused(tmp_path, "ratings.csv", "name the table of interactions interactions.parquet")


# --- splits and partitions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        ("interactions-train.csv", "interactions-valid.csv", "interactions-test.csv"),
        ("interactions_train.parquet", "interactions_val.parquet", "interactions_test.parquet"),
        ("interactions.train.csv", "interactions.dev.csv", "interactions.test.csv"),
        ("train.csv.gz", "validation.csv.gz", "test.csv.gz"),
        ("Train.tsv", "Valid.tsv", "Test.tsv"),
        ("train/part-0.parquet", "valid/part-0.parquet", "test/part-0.parquet"),
        ("train-00000-of-00001.parquet", "valid-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("interactions/split=train/0.parquet", "interactions/split=val/0.parquet", "interactions/split=test/0.parquet"),
        ("interactions/x_label=0/0.csv", "interactions/x_label=1/0.csv", "interactions/x_label=2/0.csv"),
        ("interactions/train/0.parquet", "interactions/valid/0.parquet", "interactions/test/0.parquet"),
        ("interactions/train.parquet", "interactions/valid.parquet", "interactions/test.parquet"),
        ("split=train/part-0.parquet", "split=valid/part-0.parquet", "split=test/part-0.parquet"),
    ],
)
def test_a_split_that_names_say_is_kept(tmp_path: Path, keys: Sequence[str]) -> None:
    put(tmp_path, *keys)
    table = find_interactions(list_source(LocalStore(tmp_path)).files, ColumnNames(), url="raw")
    assert table is not None
    assert {part.key: part.split for part in table.parts} == dict(zip(keys, (TRAIN, VALID, TEST), strict=True))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (("interactions/split=train/0.csv", "interactions/1.csv"), "Name all files"),
        (("interactions/split=train/0.csv", "interactions/split=holdout/0.csv"), "split=holdout/0.csv"),
        (("interactions/split=train/test/0.csv", "interactions/split=test/0.csv"), "more than one split"),
        (("interactions-train.csv", "interactions-val.csv", "interactions-dev.csv"), "interactions-dev.csv"),
        (("interactions-train.csv", "test.csv"), "Keep one"),
        (("interactions-train.csv",), "expected a train part with a valid or a test part"),
        (("interactions-valid.csv", "interactions-test.csv"), "expected a train part"),
    ],
)
def test_a_split_that_is_not_whole_or_not_clear_is_refused(tmp_path: Path, keys: Sequence[str], expected: str) -> None:
    put(tmp_path, *keys)
    refused(tmp_path, expected)


def test_a_column_of_the_split_that_names_overrule_is_named(tmp_path: Path) -> None:
    for word in ("train", "test"):
        pq.write_table(TABLE.append_column("split", [["train"] * 2]), tmp_path / f"interactions-{word}.parquet")
    reasons = unused_of(find(tmp_path))
    assert list(reasons) == ["interactions-test.parquet", "interactions-train.parquet"]
    assert "column split is not read" in reasons["interactions-test.parquet"]


def test_partition_columns_are_named_without_their_values(tmp_path: Path) -> None:
    put(tmp_path, "interactions/year=2024/shop=anna/0.parquet", "interactions/year=2025/shop=bea/0.parquet")
    raw = find(tmp_path)
    assert len(raw.tables) == 2
    assert list(unused_of(raw)) == ["interactions/year=*", "interactions/year=*/shop=*"]
    assert "partition column shop" in unused_of(raw)["interactions/year=*/shop=*"]


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("interactions/user_id=48213/0.parquet", {}),
        ("user_id=48213/part-0.parquet", {}),
        ("interactions/day=1/customer=48213/0.parquet", {"user": "customer"}),
        ("interactions.parquet/timestamp=48213/0.parquet", {}),
    ],
)
def test_ids_in_folder_names_are_refused_and_not_quoted(tmp_path: Path, key: str, names: dict[str, str]) -> None:
    put(tmp_path, key)
    assert "48213" not in refused(tmp_path, "expected them in a column of the files", **names)


def test_a_partition_of_a_column_that_the_settings_name_as_split_is_a_split(tmp_path: Path) -> None:
    put(tmp_path, "interactions/fold=train/0.parquet", "interactions/fold=test/0.parquet")
    assert [table.part for table in find(tmp_path).tables] == [None, None]
    assert [table.part for table in find(tmp_path, split="fold").tables] == [TEST, TRAIN]


# --- tables with a log of their own -------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("interactions/_delta_log/00000000000000000000.json", "Delta"),
        ("_delta_log/00000000000000000000.json", "Delta"),
        ("interactions/.hoodie/hoodie.properties", "Hudi"),
        ("interactions/metadata/v3.metadata.json", "Iceberg"),
        ("interactions/metadata/00001-3f.metadata.json", "Iceberg"),
    ],
)
def test_a_table_whose_files_may_hold_deleted_rows_is_refused(tmp_path: Path, key: str, kind: str) -> None:
    put(tmp_path, "interactions/part-0.parquet")
    put(tmp_path, key, body=b"{}")
    refused(tmp_path, kind, '.write.parquet("new/interactions")')


@pytest.mark.parametrize(
    ("keys", "is_whole"),
    [
        (("_SUCCESS", "_common_metadata"), True),
        (("_started_1", "_committed_1"), True),
        (("_started_1",), False),
        (("_started_1", "_committed_1", "_started_2", "_committed_2"), False),
        (("_temporary/0/task_1/part-3.parquet",), False),
    ],
)
def test_a_folder_that_is_still_written_is_refused(tmp_path: Path, keys: Sequence[str], is_whole: bool) -> None:
    put(tmp_path, "interactions.parquet/part-0.parquet")
    put(tmp_path, *(f"interactions.parquet/{key}" for key in keys), body=b"")
    if is_whole:
        raw = find(tmp_path)
        assert len(raw.unused) == len(keys)
        assert keys_of(raw) == ["interactions.parquet/part-0.parquet"]
    else:
        refused(tmp_path, "interactions.parquet: ")


# --- features and id maps -----------------------------------------------------------------------


def test_features_are_found_in_any_letter_case(tmp_path: Path) -> None:
    put(tmp_path, "interactions.parquet", "features/text.NPY", "Features/sound.npy")
    assert [(feature.modality, feature.key) for feature in find(tmp_path).features] == [
        ("sound", "Features/sound.npy"),
        ("text", "features/text.NPY"),
    ]


@pytest.mark.parametrize("folder", ["image.parquet", "image"])
def test_a_folder_of_parts_is_one_modality(tmp_path: Path, folder: str) -> None:
    put(tmp_path, "interactions.parquet")
    for number, rows in enumerate(([None, [1.0, 2.0]], [[3.0, 4.0]])):
        path = tmp_path / "features" / folder / f"{number:06}_000000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = [0, 1] if number == 0 else [2]
        pq.write_table(pa.table({"item_id": ids, "v": pa.array(rows, pa.list_(pa.float32()))}), path)
    [feature] = find(tmp_path).features
    assert (feature.modality, feature.num_columns, len(feature.more)) == ("image", 2, 1)
    other = tmp_path / "features" / folder / "000002_000000.parquet"
    pq.write_table(pa.table({"item_id": [3], "v": pa.array([[1.0, 2.0]], pa.list_(pa.float64()))}), other)
    refused(tmp_path, "000000_000000.parquet", "000002_000000.parquet", "differ in their columns or types")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("features/image.npy", "features/Image.npy"),
        ("features/clip_b32.npy", "features/clip-b32.npy"),
        ("features/ima\u0301ge.npy", "features/imáge.npy"),
        ("features/image.npy", "FEATURES/image.npy"),
        ("features/image.npy", "features/image (1).npy"),
        ("features/image.npy", "features/image-backup.npy"),
        ("features/image.npy", "features/old_image.npy"),
    ],
)
def test_one_modality_in_two_spellings_or_a_copy_of_one_is_refused(tmp_path: Path, first: str, second: str) -> None:
    put(tmp_path, "interactions.parquet", first, second)
    refused(tmp_path, first, second)


@pytest.mark.parametrize("name", ["a\\b", "a\u200bb", "a\nb", "\x1b[2J"])
def test_a_modality_whose_name_cannot_be_stored_is_refused_as_data(tmp_path: Path, name: str) -> None:
    put(tmp_path, "interactions.parquet", f"features/{name}.npy")
    assert "cannot be part of a storage key" in refused(tmp_path)


def test_a_modality_that_a_column_names_with_a_slash_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "interactions.parquet")
    (tmp_path / "features").mkdir()
    columns = {name: pa.array([[1.0]], pa.list_(pa.float32())) for name in ("image/clip", "text")}
    pq.write_table(pa.table({"item_id": [0], **columns}), tmp_path / "features" / "all.parquet")
    refused(tmp_path, "features/all.parquet", "'image/clip'")


@pytest.mark.parametrize(
    ("key", "body", "column"),
    [
        ("users.parquet", None, "user_id"),
        ("items.csv", b"id,title\n1,a\n", "item_id"),
        ("users.tsv.gz", None, "user_id"),
        ("Items/part-0.csv", b"id,title\n1,a\n", "item_id"),
    ],
)
def test_an_id_map_without_its_column_is_refused(tmp_path: Path, key: str, body: bytes | None, column: str) -> None:
    put(tmp_path, "interactions.parquet")
    if key.endswith(".gz"):
        put(tmp_path, key, body=gzip.compress(b"id\tage\n1\t30\n"))
    else:
        put(tmp_path, key, body=body)
    if key == "users.parquet":
        pq.write_table(pa.table({"secret_header": [1]}), tmp_path / key)
    message = refused(tmp_path, key, f"expected a column {column}")
    assert "secret_header" not in message


def test_an_id_map_has_the_column_that_the_settings_name(tmp_path: Path) -> None:
    for name in ("interactions", "users", "items"):
        pq.write_table(pa.table({"person": [1], "item_id": [0]}), tmp_path / f"{name}.parquet")
    raw = find(tmp_path, user="person")
    assert [side.column for side in (raw.user_map, raw.item_map) if side] == ["person", "item_id"]
    refused(tmp_path, "users.parquet", "expected a column customer or user_id", user="customer")


def test_an_id_map_may_be_text_or_in_parts_but_not_two(tmp_path: Path) -> None:
    put(tmp_path, "interactions.parquet", "users.csv", "items.parquet/part-0.parquet", "items.parquet/part-1.parquet")
    raw = find(tmp_path)
    assert raw.user_map is not None
    assert raw.item_map is not None
    assert (raw.user_map.key, len(raw.item_map.tables)) == ("users.csv", 2)
    put(tmp_path, "users.parquet")
    refused(tmp_path, "users.csv and users.parquet")


# --- the other layouts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("features/sound.npy", "sound_feat.npy"),
        ("sound.npy", "sound_feat.npy"),
        ("sound_feat.npz", "numpy.load('sound_feat.npz')"),
        ("old/small.inter", "old/small.inter"),
        ("small.inter.bak", "small.inter.bak"),
        ("other.inter", "other.inter"),
        ("interactions.csv", "--layout"),
        ("U_ID_MAPPING.csv", "expected a column userID"),
    ],
)
def test_mmrecs_files_are_accounted_for(tmp_path: Path, key: str, expected: str) -> None:
    write_mmrec(tmp_path)
    put(tmp_path, "user_graph_dict.npy", "mm_adj_freedomdsp_10_0.9.pt", "Sound_feat.NPY")
    raw = find(tmp_path)
    assert sorted(feature.modality for feature in raw.features) == ["Sound", "image", "text"]
    assert list(unused_of(raw)) == ["mm_adj_freedomdsp_10_0.9.pt", "user_graph_dict.npy"]
    put(tmp_path, key)
    refused(tmp_path, key, expected)


@pytest.mark.parametrize(
    "key", ["image_feat.npy", "features/image.npy", "other.user", "small.item.csv", "small.user.gz"]
)
def test_recboles_files_are_accounted_for(tmp_path: Path, key: str) -> None:
    write_recbole(tmp_path, in_parts=True)
    put(tmp_path, "small.user", body=b"user_id:token\n770001\n")
    put(tmp_path, "small.kg", "small.link")
    assert list(unused_of(find(tmp_path))) == ["small.kg", "small.link"]
    put(tmp_path, key)
    refused(tmp_path, key)


@pytest.mark.parametrize("suffix", ["user", "item"])
def test_recboles_maps_need_their_column(tmp_path: Path, suffix: str) -> None:
    write_recbole(tmp_path, in_parts=False)
    put(tmp_path, f"small.{suffix}", body=b"id:token\n1\n")
    refused(tmp_path, f"small.{suffix}", f"expected a column {suffix}_id")


def test_of_two_layouts_the_one_that_is_asked_for_is_read_and_the_other_named(tmp_path: Path) -> None:
    write_mmrec(tmp_path)
    for name in ("image_feat.npy", "text_feat.npy"):
        (tmp_path / name).unlink()
    put(tmp_path, "interactions.parquet")
    refused(tmp_path, "interactions.parquet", "small.inter", "--layout")
    assert unused_of(find(tmp_path, "tru")).keys() == {"small.inter"}
    assert unused_of(find(tmp_path, "mmrec")).keys() == {"interactions.parquet"}


# --- links and special files --------------------------------------------------------------------


@pytest.fixture
def linked(tmp_path: Path) -> tuple[Path, Path]:
    """A source with a table, and a folder on "another disk"."""
    source, disk = tmp_path / "source", tmp_path / "disk"
    put(source, "interactions.parquet")
    disk.mkdir()
    return source, disk


def test_links_to_files_and_folders_anywhere_are_followed(linked: tuple[Path, Path]) -> None:
    source, disk = linked
    put(disk, "image.npy", "all/text.npy", "parts/part-0.parquet")
    (source / "features").symlink_to(disk / "all")
    (disk / "all" / "image.npy").symlink_to(disk / "image.npy")
    (source / "interactions.parquet").unlink()
    (source / "interactions").symlink_to(disk / "parts")
    raw = find(source)
    assert sorted(feature.modality for feature in raw.features) == ["image", "text"]
    assert keys_of(raw) == ["interactions/part-0.parquet"]
    assert raw.unused == ()


def test_a_second_name_of_a_file_that_is_read_is_a_line(linked: tuple[Path, Path]) -> None:
    source, _ = linked
    put(source, "interactions-2025.csv", "store/image.npy")
    (source / "interactions.parquet").unlink()
    (source / "features").mkdir()
    (source / "interactions.csv").symlink_to("interactions-2025.csv")
    (source / "features" / "image.npy").symlink_to("../store/image.npy")
    raw = find(source)
    assert keys_of(raw) == ["interactions.csv"]
    assert {file: "under another name" in reason for file, reason in unused_of(raw).items()} == {
        "interactions-2025.csv": True,
        "store/image.npy": True,
    }


@pytest.mark.parametrize("target", [".", "..", "self", "../../source/features", "/"])
def test_a_link_that_leads_in_a_circle_is_refused(linked: tuple[Path, Path], target: str) -> None:
    source, _ = linked
    (source / "features").mkdir()
    (source / "features" / "self").symlink_to(target if target != "/" else source)
    refused(source, "features/self: is a link that leads back to itself or to a folder above")


def test_links_that_multiply_folders_are_stopped(linked: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    source, disk = linked
    monkeypatch.setattr(workflows.ingest.source_files, "MAX_ENTRIES", 500)
    for level in range(12):
        (disk / str(level)).mkdir()
        for side in "ab":
            (disk / str(level) / side).symlink_to(disk / str(level + 1))
    (disk / "12").mkdir()
    (source / "deep").symlink_to(disk / "0")
    refused(source, "at most 500 files and folders")


def test_a_link_to_nothing_is_refused_unless_it_is_hidden(linked: tuple[Path, Path]) -> None:
    source, disk = linked
    (source / ".#interactions.parquet").symlink_to("somebody@host.1234")  # an editor's lock
    assert list(unused_of(find(source))) == [".#interactions.parquet"]
    (source / "features").mkdir()
    (source / "features" / "image.npy").symlink_to(disk / "unmounted.npy")
    refused(source, "features/image.npy", "leads to no file")


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe"])
def test_a_special_file_is_named_and_never_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "interactions.parquet")
    monkeypatch.chdir(tmp_path)
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("users.csv")
    elif kind == "pipe":
        os.mkfifo("users.csv")
    else:
        os.mkfifo(".pipe")
        (tmp_path / "users.csv").symlink_to(".pipe")
    refused(tmp_path, "users.csv", "a pipe, a socket or a device")


def test_a_folder_whose_listing_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "interactions.parquet", "features/image.npy")
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("features"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(tmp_path, "features/", "Permission denied", kind=AccessError)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "interactions.parquet")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/features-\xff.npy")).write_bytes(b"")
    assert refused(tmp_path, r"features-\xff.npy", "not UTF-8").encode()


def test_a_source_that_is_a_file_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    put(tmp_path, "interactions.csv")
    refused(tmp_path / "interactions.csv", "is a file, expected a folder", kind=ConfigError)
    refused(tmp_path / "nothing", "does not exist or is empty", kind=MissingObjectError)
    refused(tmp_path / "other.csv", "not a file", kind=MissingObjectError)


class _Objects:
    """A source that lists objects, as a bucket does."""

    def __init__(self, folder: Path, keys: Iterable[str]) -> None:
        self._store = LocalStore(folder)
        put(folder, *keys)
        self.url = "s3://bucket/raw"
        self.filesystem = self._store.filesystem

    def list(self, prefix: str) -> Any:
        return self._store.list(prefix)


def test_a_bucket_is_listed_by_the_same_rules(tmp_path: Path) -> None:
    keys = ["interactions/part-0.parquet", "interactions/.part-0.crc", ".git/a/b", ".git/c", "README.md"]
    source: Any = _Objects(tmp_path, keys)
    raw = find_raw_data(source, "auto")
    assert keys_of(raw) == ["interactions/part-0.parquet"]
    assert list(unused_of(raw)) == [".git/", "README.md", "interactions/.part-0.crc"]
    put(tmp_path, "features/image.pt", body=b"x")
    with pytest.raises(DataError, match=r"features/image\.pt: looks like data"):
        find_raw_data(source, "auto")


# --- whole imports ------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_links_parts_and_a_split_by_folder_give_the_same_snapshot_as_plain_files(
    tmp_path: Path, local_store: LocalStore
) -> None:
    plain = write_tru(tmp_path / "plain", modalities=["image"])
    expected = import_dataset(str(plain), local_store, "plain", IngestConfig(num_neighbours=3))
    source, disk = tmp_path / "source", tmp_path / "disk"
    table = pa.table(interactions())
    for label, word in enumerate(("train", "valid", "test")):
        folder = source / "interactions" / f"split={word}"
        folder.mkdir(parents=True)
        part = table.filter(pa.compute.equal(table.column("x_label"), label)).drop_columns(["x_label"])
        half = part.num_rows // 2
        pq.write_table(part.slice(0, half), folder / "part-0.parquet")
        pq.write_table(part.slice(half), folder / "part-1.parquet")
    rows = features(4).tolist()
    (disk / "features").mkdir(parents=True)
    write_lists(disk, rows[:5], name="0")
    write_lists(disk, rows[5:], items=list(range(5, len(rows))), name="1")
    (source / "features").mkdir()
    (source / "features" / "image.parquet").symlink_to(disk / "features")
    users = pa.table({"user_id": [FIRST_USER + user for user in range(20)]})
    for number in range(2):
        (source / "users").mkdir(exist_ok=True)
        pq.write_table(users.slice(number * 10, 10), source / "users" / f"part-{number}.parquet")
    seen: list[UnusedFile] = []
    put(source, "README.md")
    found = import_dataset(str(source), local_store, "found", IngestConfig(num_neighbours=3), on_unused=seen.extend)
    assert seen == [UnusedFile("README.md", "for people, not for an import")]
    assert found.split.kind == "given"
    assert found.counts == expected.counts
    assert found.report == expected.report
    assert [entry.sha256 for entry in (found.user_vocabulary, found.item_vocabulary)] == [
        entry.sha256 for entry in (expected.user_vocabulary, expected.item_vocabulary)
    ]
    for own, other in zip(found.interactions, expected.interactions, strict=True):
        assert own.file.sha256 == other.file.sha256
    np.testing.assert_array_equal(read_features(local_store, found, "image", range(8)), features(4))
    write_lists(disk, rows[4:], items=list(range(4, len(rows))), name="1")
    with pytest.raises(
        DataError, match=r"features/image\.parquet/1\.parquet, column item_id: expected each item in one"
    ):
        import_dataset(str(source), local_store, "twice", IngestConfig())
    shutil.rmtree(disk)
    with pytest.raises(DataError, match="leads to no file"):
        import_dataset(str(source), local_store, "gone", IngestConfig())
