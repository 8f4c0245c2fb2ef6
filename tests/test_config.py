"""A job file means what it says, or an error names the file, the setting and the mend."""

import re
from pathlib import Path
from typing import Any

import pytest

from tru_core.errors import ConfigError
from workflows.config.job import JobConfig, load_job
from workflows.config.unlearn import UnlearnConfig
from workflows.config.yaml_reader import load_yaml
from workflows.ingest import IngestConfig

SMALLEST = """storage: store
dataset: baby
model: baby-mgcn
"""


def job_file(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding=encoding)
    return path


def refused(folder: Path, text: str) -> str:
    """The message with which a job file is refused."""
    path = job_file(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_three_lines_are_a_job(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path, SMALLEST))
    assert (job.storage.url, job.storage.endpoint_url, job.dataset, job.model) == ("store", None, "baby", "baby-mgcn")
    assert job == JobConfig.model_validate({"storage": {"url": "store"}, "dataset": "baby", "model": "baby-mgcn"})


def test_storage_is_a_text_or_its_settings(tmp_path: Path) -> None:
    rest = "dataset: baby\nmodel: baby-mgcn\n"
    text = load_job(job_file(tmp_path, "storage: s3://bucket/prefix\n" + rest))
    block = load_job(job_file(tmp_path, "storage: {url: 's3://bucket/prefix', timeout_seconds: 60}\n" + rest))
    assert text == block
    assert load_job(job_file(tmp_path, "storage: {url: 's3://b-1', region: eu-west-1}\n" + rest)).storage.region


@pytest.mark.parametrize(
    ("block", "setting", "hint"),
    [
        ("fit: {max_epoch: 5}", "fit.max_epoch", "did you mean 'max_epochs'?"),
        ("unlearn: {gate_wieght: 0.1}", "unlearn.gate_wieght", "did you mean 'gate_weight'?"),
        ("scaling: {workers: 2}", "scaling.workers", "did you mean 'num_workers'?"),
        ("forgett: {share: 0.1}", "forgett", "did you mean 'forget'?"),
        ("backbone: {settings: {embeding_size: 8}}", "backbone.settings: embeding_size", "mean 'embedding_size'?"),
        ("storage: {url: store, endpoint: x}", "storage.endpoint", "did you mean 'endpoint_url'?"),
        ("delete: {zzz: 1}", "delete.zzz", "known: min_requests"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(block: str, setting: str, hint: str, tmp_path: Path) -> None:
    text = SMALLEST if not block.startswith("storage") else SMALLEST.replace("storage: store\n", "")
    message = refused(tmp_path, f"{text}{block}\n")
    assert f"{setting}: there is no such setting; " in message
    assert hint in message


def value_of(job: JobConfig, setting: str) -> Any:
    value: Any = job
    for name in setting.split("."):
        value = getattr(value.settings if isinstance(value, UnlearnConfig) else value, name)
    return value


@pytest.mark.parametrize(
    ("setting", "text", "value"),
    [
        ("fit.learning_rate", "1e-3", 0.001),  # YAML 1.1 reads these as texts
        ("unlearn.gate_weight", "5e-05", 5e-05),
        ("unlearn.reverse_learning_rate", "2E-2", 0.02),
        ("fit.learning_rate", "'0.25'", 0.25),
        ("fit.batch_size", "'128'", 128),
    ],
)
def test_a_number_written_as_text_is_that_number(setting: str, text: str, value: float, tmp_path: Path) -> None:
    block, name = setting.split(".")
    found = value_of(load_job(job_file(tmp_path, f"{SMALLEST}{block}: {{{name}: {text}}}\n")), setting)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("fit.learning_rate", ".nan"),
        ("fit.learning_rate", "nan"),
        ("fit.learning_rate", ".inf"),
        ("fit.learning_rate", "inf"),
        ("fit.learning_rate", "-1e-3"),
        ("fit.learning_rate", "0"),
        ("fit.learning_rate", "fast"),
        ("fit.max_epochs", "2.5"),
        ("fit.max_epochs", "1e3"),
        ("fit.batch_size", "0"),
        ("fit.seed", "-1"),
        ("unlearn.gate_weight", "-.inf"),
        ("unlearn.gate_weight", "-1"),
        ("unlearn.reverse_learning_rate", ".nan"),
        ("unlearn.module_share", "1.5"),
        ("unlearn.gate_sign", "NO"),
        ("forget.share", "1.0"),
        ("delete.max_share", "nan"),
        ("delete.grace_days", "8"),
        ("delete.lease_seconds", "0"),
        ("delete.min_requests", "0"),
        ("delete.on_refused", "[again]"),
        ("scaling.num_workers", "0"),
        ("scaling.start_timeout_seconds", ".inf"),
        ("sweep.gate_weight", "[0.1, .nan]"),
        ("sweep.module_share", "[]"),
        ("storage.timeout_seconds", ".nan"),
    ],
)
def test_a_number_that_no_run_can_use_is_refused(setting: str, text: str, tmp_path: Path) -> None:
    block, name = setting.split(".")
    start = SMALLEST if block != "storage" else SMALLEST.replace("storage: store\n", "")
    url = "url: store, " if block == "storage" else ""
    message = refused(tmp_path, f"{start}{block}: {{{url}{name}: {text}}}\n")
    assert f"{setting}" in message
    assert ", found " in message


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 4: the key 'model' stands twice" in refused(tmp_path, SMALLEST + "model: other\n")
    inner = SMALLEST + "fit:\n  seed: 1\n  patience: 3\n  seed: 2\n"
    assert "line 7: the key 'seed' stands twice" in refused(tmp_path, inner)
    assert "line 4: the key 'seed' stands twice" in refused(tmp_path, SMALLEST + "fit: {seed: 1, seed: 1}\n")


@pytest.mark.parametrize("setting", ["dataset", "model", "storage"])
@pytest.mark.parametrize("text", ["NO", "on", "~", "12", "1.5", "2026-11-01", "[a]"])
def test_what_yaml_reads_as_something_else_than_text_is_refused(setting: str, text: str, tmp_path: Path) -> None:
    lines = [line for line in SMALLEST.splitlines() if not line.startswith(f"{setting}:")]
    message = refused(tmp_path, "\n".join([*lines, f"{setting}: {text}"]) + "\n")
    assert f": {setting}: " in message
    assert ", found " in message


@pytest.mark.parametrize("name", ["NO WAY", "Baby", "-baby", "a/b", "../up", "x" * 64, "bébé"])
def test_a_name_that_cannot_be_part_of_a_key_is_refused(name: str, tmp_path: Path) -> None:
    message = refused(tmp_path, SMALLEST.replace("dataset: baby", f"dataset: '{name}'"))
    assert ": dataset: name " in message
    assert "a-z, 0-9" in message


def test_a_quoted_no_is_a_text(tmp_path: Path) -> None:
    assert load_job(job_file(tmp_path, SMALLEST.replace("dataset: baby", "dataset: 'no'"))).dataset == "no"


def test_an_unknown_choice_is_answered_with_the_choices(tmp_path: Path) -> None:
    message = refused(tmp_path, SMALLEST + "backbone: {name: mgcnn}\n")
    assert "backbone.name: 'mgcnn' is unknown; choose one of " in message
    assert "mgcn" in message.partition("choose one of")[2]
    message = refused(tmp_path, SMALLEST + "forget: {regime: users}\n")
    assert "forget.regime: Input should be 'user', 'item' or 'interaction', found 'users'" in message
    assert "'float32' or 'float64', found 'fp16'" in refused(tmp_path, SMALLEST + "precision: fp16\n")


@pytest.mark.parametrize("missing", ["storage", "dataset", "model"])
def test_a_missing_setting_is_named_without_printing_the_file(missing: str, tmp_path: Path) -> None:
    lines = [line for line in SMALLEST.splitlines() if not line.startswith(missing)]
    message = refused(tmp_path, "\n".join([*lines, "fit: {seed: 424242}"]))
    assert f": {missing}: this setting is needed and is not there" in message
    assert "424242" not in message


def test_several_problems_are_counted(tmp_path: Path) -> None:
    assert "(and 2 more)" in refused(tmp_path, SMALLEST + "fit: {seed: -1, batch_size: 0, patience: 0}\n")


def test_an_endpoint_against_the_policy_is_refused(tmp_path: Path) -> None:
    storage = "storage: {url: 's3://bucket', endpoint_url: 'http://169.254.169.254'}"
    message = refused(tmp_path, SMALLEST.replace("storage: store", storage))
    assert "link-local or metadata address" in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_other_line_ends_do_not_matter(encoding: str, line_end: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(SMALLEST.replace("\n", line_end).encode(encoding))
    assert load_job(path).dataset == "baby"


@pytest.mark.parametrize(
    ("text", "kind"), [("", "nothing"), ("- storage\n- store\n", "a list"), ("store", "a text"), ("42", "a number")]
)
def test_a_file_that_holds_no_settings_by_name_is_refused(text: str, kind: str, tmp_path: Path) -> None:
    assert f"expected settings by name, found {kind}" in refused(tmp_path, text)


@pytest.mark.parametrize(
    "body",
    [b"storage: [", b"\xff\xfes\x00t\x00", b"a: \x00", b"a: !!python/object/apply:os.system ['true']", b"? [a]\n: 1"],
)
def test_a_file_that_is_no_plain_yaml_is_refused_and_runs_nothing(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(body)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_job(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match=re.escape(f"{path}: cannot be read as text")) as caught:
            load_yaml(path)
        assert caught.value.exit_code == 2


def test_every_settings_model_refuses_unknown_names_and_stays_as_it_is(tmp_path: Path) -> None:
    job = load_job(job_file(tmp_path, SMALLEST))
    parts = [getattr(job, name) for name in type(job).model_fields]
    models = [job, IngestConfig(), *(part for part in parts if hasattr(part, "model_config"))]
    assert len(models) > 8
    for model in models:
        assert model.model_config.get("extra") == "forbid", type(model)
        assert model.model_config.get("frozen"), type(model)
