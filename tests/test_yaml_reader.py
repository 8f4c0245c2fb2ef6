"""A job file is read as it was written, or refused in a short message that quotes no secret."""

import time
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, JsonValue, ValidationError

from tru_core.errors import ConfigError
from tru_core.fit import FitSettings
from tru_core.settings import Settings
from workflows.cli import main
from workflows.config.job import load_job
from workflows.config.yaml_reader import load_yaml

SMALLEST = "storage: store\ndataset: baby\nmodel: baby-mgcn\n"


def refused(folder: Path, body: str | bytes) -> str:
    """The message with which a job file is refused, without its path. It is short, whatever the file."""
    path = folder / "job.yaml"
    path.write_bytes(body.encode() if isinstance(body, str) else body)
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert time.process_time() - started < 2
    message = str(caught.value).removeprefix(f"{path}: ")
    assert len(message) < 700
    assert message.isprintable()
    return message


# --- numbers as written -------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["yes", "no", "on", "Off", "true", "FALSE"])
@pytest.mark.parametrize(
    ("setting", "block"),
    [
        ("fit.max_epochs", "fit: {max_epochs: WORD}"),
        ("fit.learning_rate", "fit: {learning_rate: WORD}"),
        ("forget.count", "forget: {count: WORD}"),
        ("sweep.gate_weight.1", "sweep: {gate_weight: [0.1, WORD]}"),
        ("compare.seeds.0", "compare: {seeds: [WORD]}"),
        ("ledger.regulations.own.days", "ledger: {regulations: {own: {days: WORD}}}"),
        ("delete.stronger: reverse_steps", "delete: {stronger: {reverse_steps: WORD}}"),
        ("backbone.settings: embedding_size", "backbone: {settings: {embedding_size: WORD}}"),
        ("audit.shadow_fit: patience", "audit: {shadow_fit: {patience: WORD}}"),
    ],
)
def test_a_truth_is_no_number_wherever_the_number_stands(word: str, setting: str, block: str, tmp_path: Path) -> None:
    message = refused(tmp_path, SMALLEST + block.replace("WORD", word))
    truth = "true" if word.lower() in ("yes", "on", "true") else "false"
    assert message.startswith(f"{setting}: ")
    assert f", found {truth} (YAML reads yes, no, on and off as true and false" in message


class Shapes(Settings):
    whole: int = 0
    several: tuple[int, ...] = ()
    by_name: dict[str, list[Annotated[float, Field(ge=0)]]] = Field(default_factory=dict)
    either: int | str = 0
    flag: bool | int = False
    anything: dict[str, JsonValue] = Field(default_factory=dict)
    inner: FitSettings = Field(default_factory=FitSettings)


@pytest.mark.parametrize(
    "values",
    [
        {"whole": True},
        {"whole": 2.0},
        {"whole": "1_000"},
        {"whole": "010"},
        {"whole": " 12"},
        {"whole": "١٢"},
        {"whole": 2**63},
        {"whole": "9" * 500},
        {"several": [1, True]},
        {"several": (1, 3.0)},
        {"by_name": {"a": [0.5, False]}},
        {"by_name": {"a": ["0_1"]}},
        {"by_name": {"a": ["infinity"]}},
        {"inner": {"max_epochs": True}},
        {"inner": {"learning_rate": "0x1p-3"}},
    ],
)
def test_no_settings_model_takes_what_is_no_plain_number(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Shapes.model_validate(values)


def test_plain_numbers_and_truths_are_taken_in_every_place() -> None:
    found = Shapes.model_validate(
        {
            "whole": "-12",
            "several": [1, "2"],
            "by_name": {"a": [1, "1e-3", ".5", 0.25]},
            "either": "010",
            "flag": True,
            "anything": {"b": True, "n": [1, 1.0]},
            "inner": {"learning_rate": "5E-05"},
        }
    )
    assert (found.whole, found.several, found.either, found.flag) == (-12, (1, 2), "010", True)
    assert found.by_name == {"a": [1.0, 0.001, 0.5, 0.25]}
    assert found.anything == {"b": True, "n": [1, 1.0]}
    assert found.inner.learning_rate == 5e-05
    assert Shapes.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("010", "base 8"),
        ("-017", "base 8"),
        ("08", "base 8"),
        ("007.5", "base 8"),
        ("0o17", "base 8"),
        ("0x1F", "base 16"),
        ("0b101", "base 2"),
        ("2:15", "base 60"),
        ("1:02:03.5", "base 60"),
        ("12_000", "underscores"),
        ("0_1", "base 8"),
        ("1_0.5", "underscores"),
        (".inf", "no finite number"),
        ("-.INF", "no finite number"),
        (".NaN", "no finite number"),
        ("2027-02-30", "a date without quotes"),
        ("2026-12-01 10:00:00", "a date without quotes"),
        ("=", "are not read"),
    ],
)
@pytest.mark.parametrize("place", ["fit: {max_epochs: TEXT}", "delete: {stronger: {t: [TEXT]}}"])
def test_what_two_readers_of_yaml_understand_differently_is_refused_at_its_line(
    text: str, reason: str, place: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, f"{SMALLEST}# a comment\n{place.replace('TEXT', text)}\n")
    assert message.startswith("line 5: ")
    assert reason in message
    if "stronger" not in place:
        assert f", found {text}. " in message


@pytest.mark.parametrize("text", ["dataset: 007", "model: 2026_01", "dataset: 2026-01-01", "storage: 0x10"])
def test_a_text_that_looks_like_a_number_is_taken_in_quotes_only(text: str, tmp_path: Path) -> None:
    name, value = text.split(": ")
    lines = [line for line in SMALLEST.splitlines() if not line.startswith(f"{name}:")]
    assert "in quotes" in refused(tmp_path, "\n".join([*lines, text]))
    (tmp_path / "job.yaml").write_text("\n".join([*lines, f"{name}: '{value}'"]))
    job = load_job(tmp_path / "job.yaml")
    assert value in (job.dataset, job.model, job.storage.url)


@pytest.mark.parametrize("text", ["9" * 30, "-" + "9" * 19, "1" + "0" * 5000, "1.0e+400", "9" * 5000 + ".5"])
def test_a_number_that_is_too_long_or_too_large_is_refused_without_printing_it(text: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"{SMALLEST}fit: {{max_epochs: {text}}}\n")
    assert "line 4: fit.max_epochs: " in message
    assert len(message) < 250


def test_settings_of_an_import_are_read_as_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, target = tmp_path / "import.yaml", str(tmp_path / "store" / "datasets" / "new")
    for text in ("split_seed: 0x10", "num_neighbours: yes", "num_user_buckets: 4.0", "columns: {user: 2026-01-01}"):
        settings.write_text(text)
        assert main(["data", "import", str(tmp_path), "--to", target, "--settings", str(settings)]) == 2
        assert text.split(":", maxsplit=1)[0] in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1_0", "٣", "0x1", " 3", "9" * 5000])
def test_a_number_among_the_arguments_is_in_plain_digits(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["rollback", text])
    error = capsys.readouterr().err
    assert "whole number" in error
    assert len(error) < 1000


# --- limits -------------------------------------------------------------------------------------


def bomb(*, wide: int, high: int, start: str) -> str:
    """Lists or blocks of aliases of lists or blocks of aliases."""
    lines = [f"a0: &a0 {start}"]
    for level in range(1, high):
        inner = ", ".join(f"k{number}: *a{level - 1}" for number in range(wide))
        lines.append(f"a{level}: &a{level} {{{inner}}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SMALLEST + bomb(wide=10, high=12, start="[x, x, x]"), "too large"),
        (SMALLEST + bomb(wide=2, high=25, start="x"), "too large"),
        (SMALLEST + bomb(wide=1, high=60, start="[]"), "nested too deeply"),
        (bomb(wide=9, high=9, start="{x: 1}") + "\nstorage: *a8\n", "too large"),
        (SMALLEST + "x: &x [*x]", "an alias"),
        (SMALLEST + "x: *nowhere", "an alias"),
        (SMALLEST + "fit: " + "[" * 100_000, "nested too deeply"),
        (SMALLEST + "fit: " + "{a: " * 5_000, "nested too deeply"),
        (SMALLEST + "fit:\n" + "\n".join(f"{' ' * level}-" for level in range(400)), "nested too deeply"),
        (SMALLEST + "fit: " + "- " * 400, "not valid YAML"),
        (SMALLEST + "fit: [" + "1, " * 60_000 + "]", "too large"),
        (SMALLEST + "\n".join(f"k{number}: 1" for number in range(20_000)), "too large"),
        (SMALLEST + "model2: " + "x" * 100_000, "at most 4096 characters"),
        (SMALLEST + "#" * 400_000, "over 262144 bytes"),
    ],
)
def test_a_file_that_is_too_deep_or_too_large_is_refused_at_once(body: str, reason: str, tmp_path: Path) -> None:
    assert reason in refused(tmp_path, body)


def test_a_shared_block_is_read_once_for_each_alias(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"{SMALLEST}fit: &own {{max_epochs: 3}}\naudit: {{shadow_fit: *own}}\ncompare: {{backbones: [{{fit: *own}}]}}\n"
    )
    job = load_job(tmp_path / "job.yaml")
    assert job.fit.max_epochs == job.audit.shadow_fit["max_epochs"] == job.compare.backbones[0].fit["max_epochs"] == 3


# --- no plain YAML ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("x: !!python/object/apply:os.system ['true']", "a tag"),
        ("x: !!int '12'", "a tag"),
        ("x: !own {a: 1}", "a tag"),
        ("x: ! y", "a tag"),
        ("fit: {<<: {seed: 1}}", "merge keys"),
        ("7: seven", "the name of a setting is a text"),
        ("~: nothing", "the name of a setting is a text"),
        ("off: 1", "the name of a setting is a text"),
        ("? {a: 1}\n: 2", "the name of a setting is a text"),
        ("fit:", "fit: a block of settings by name is expected"),
        ("fit: [seed]", "fit: a block of settings by name is expected, below it and indented, found a list"),
        ("fit:\n\tseed: 1", "there is a tab"),
        ("---\nx: 1", "a second document"),
        ("fit: {seed: 1, seed: 2}", "stands twice"),
        ("x: 'open", "not valid YAML"),
        ("x: y: z", "not valid YAML"),
        ("x: a\x00b", "line 4: not valid YAML: there is a control character"),
        ("x: \x1b[31m", "line 4: not valid YAML: there is a control character"),
        ("x: \ud800".encode("utf-8", "surrogatepass"), "line 4 is not UTF-8"),
    ],
)
def test_what_is_no_plain_block_of_settings_is_refused_and_said_so(
    body: str | bytes, reason: str, tmp_path: Path
) -> None:
    whole = SMALLEST.encode() + (body if isinstance(body, bytes) else body.encode())
    assert reason in refused(tmp_path, whole)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_another_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    message = refused(tmp_path, SMALLEST.encode(encoding))
    assert "UTF-8" in message or "control character" in message


def test_a_path_with_a_nul_byte_is_no_traceback() -> None:
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_yaml(Path("job\0.yaml"))


def test_a_document_end_a_byte_order_mark_and_comments_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"\ufeff# a job\n---\n{SMALLEST}fit: {{learning_rate: 1e-3}}  # small\n...\n")
    assert load_job(tmp_path / "job.yaml").fit.learning_rate == 0.001


# --- secrets ------------------------------------------------------------------------------------

SECRET = "hunter2xyzzy"


@pytest.mark.parametrize(
    "text",
    [
        "storage: {url: 's3://bucket', secret_access_key: SECRET}",
        "storage: {url: 's3://bucket', access_key: {id: SECRET}}",
        "storage: {url: 's3://bucket/x', endpoint_url: 'https://user:SECRET@host'}",
        "storage: {url: 's3://bucket/x', endpoint_url: 'https://user:SECRET'}",
        "storage: {url: 's3://bucket/x', endpoint_url: 'https://host/?token=SECRET'}",
        "storage: {url: 's3://bucket/x', endpoint_url: 'https://host:80/SECRET'}",
        "storage: {url: 's3://bucket/x', region: 'SECRET!'}",
        "storage: {url: 's3://bucket/x', timeout_seconds: SECRET}",
        "storage: 's3://key:SECRET@bucket/x'",
        "storage: 'https://user:SECRET@host/x'",
        "storage: [SECRET]",
        "storage: {url: [SECRET]}",
        "token: SECRET",
        "fit: {seed: 1, note: SECRET}",
        "backbone: {settings: {password: SECRET}}",
        "dataset: 'https://user:SECRET@host'",
        "SECRET",
        "storage: *SECRET",
        "storage: {password: 'SECRET",
        'storage: {password: "SECRET\\q"}',
        "storage: !SECRET x",
        "%SECRET 1\n---\nx: 1",
        "SECRET: 1\nSECRET: 2",
        "- SECRET",
        "keys: {folder: [SECRET]}",
        "keys: SECRET",
    ],
)
def test_a_value_in_the_wrong_place_is_never_quoted(text: str, tmp_path: Path) -> None:
    body = text.replace("SECRET", SECRET)
    names = ("storage", "dataset", "model")
    rest = "".join(f"{line}\n" for line in SMALLEST.splitlines() if not body.startswith(line.split(":")[0]))
    body = body if body.startswith(("%", "-")) or ":" not in body else f"{rest}{body}"
    assert any(name in body for name in names) or SECRET in body
    assert SECRET not in refused(tmp_path, body)


@pytest.mark.parametrize("number", ["0123456", "2027-03-01", "4_711", "1:30"])
@pytest.mark.parametrize("name", ["pin", "storage_password", "api_token"])
def test_a_number_under_a_name_that_is_no_setting_is_not_quoted(name: str, number: str, tmp_path: Path) -> None:
    message = refused(tmp_path, f"{SMALLEST}{name}: {number}\n")
    assert number not in message
    assert f"found {len(number)} characters" in message


@pytest.mark.parametrize(
    "token",
    ["ghp_0123456789abcdef0123", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "eyJhbGciOi"],
)
@pytest.mark.parametrize("setting", ["dataset", "precision", "forget: {regime", "backbone: {name"])
def test_a_token_in_the_place_of_a_name_is_not_quoted(token: str, setting: str, tmp_path: Path) -> None:
    lines = "".join(f"{line}\n" for line in SMALLEST.splitlines() if not line.startswith(setting))
    end = "}" if "{" in setting else ""
    message = refused(tmp_path, f"{lines}{setting}: '{token}/'{end}\n")
    assert token not in message
    assert "a text of " in message
