"""Judges of the cases about job files and keys."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.cases.reading import held, store_of
from tests.cases.worlds import Trial

_SAYS_NOTHING = re.compile(r"\b0 open\b|nothing due|verified: 0 entries|\b0 of 0 shown", re.IGNORECASE)
_TYPOS = {"dataset": "tinny", "model": "tiny-mgnc"}


def _mistyped(trial: Trial, *, what: str) -> Iterator[str]:
    """Every command says that the named thing does not exist; what does exist and is empty is no error."""
    name = _TYPOS.get(what, f"{trial.place.store}-typo")
    for said in trial.said:
        lacking = [word for word in (name, "does not exist") if word not in said.text]
        if lacking:
            yield f"{said.words} does not say {lacking}"
        if not re.search(r"[Cc]orrect|[Cc]heck|[Mm]end|[Nn]ame|did you mean", said.text):
            yield f"{said.words} does not say what to do"
        if _SAYS_NOTHING.search(said.text):
            yield f"{said.words} calls it empty"
    if what == "storage" and trial.place.store.with_name("store-typo").exists():
        yield "a store was made on the way"
    if made := [info.key for info in store_of(trial).list("") if what in _TYPOS and name in info.key]:
        yield f"something was made on the way: {made[:2]}"
    due = trial.run("tru delete due --job {job}")
    if due.exit != 0 or "0 open" not in due.text:
        yield f"where all is there and no request yet, it ended with {due.exit} and without '0 open'"


def _refused_setting(trial: Trial, *, words: Sequence[str]) -> Iterator[str]:
    """Refused with all of some words, in a message of a few lines, and quickly."""
    text = trial.text
    if lacking := [word for word in words if not re.search(word, text)]:
        yield f"the message lacks {lacking}"
    if text.strip().count("\n") > 3 or len(text) > 1000:
        yield f"a message of {text.strip().count(chr(10)) + 1} lines and {len(text)} letters"
    if trial.said[0].cpu_seconds > 2:
        yield f"{trial.said[0].cpu_seconds:.1f} s of processor"


def _relative_folders(trial: Trial) -> Iterator[str]:
    for said in trial.said:
        if lacking := [word for word in ("submitted job", "absolute") if word not in said.text]:
            yield f"{said.words} does not say {lacking}"
    left = [path.name for path in trial.place.work.iterdir() if path.name != "raw"]
    if left:
        yield f"in the working folder there is {left}"
    variable = "RAY_JOB_CONFIG_JSON_ENV_VAR={}"
    lines = (
        f"{variable} tru data import {{work}}/raw --to {{store}}/datasets/new --keys {{keys}}",
        f"{variable} tru keys new {{out}}/mykeys",
    )
    for line in lines:
        said = trial.run(line)
        if said.exit != 0:
            yield f"with absolute paths it ended with {said.exit}: {said.err[-200:]}"
    if held(trial, "new") is None or not (trial.place.out / "mykeys" / "signing.key").is_file():
        yield "with absolute paths nothing was made"


def _versions_shown(trial: Trial) -> Iterator[str]:
    for word in ("version", "serving", "tiny-mgcn"):
        if word not in trial.text:
            yield f"the table lacks {word}"


def _expired_or_refused(trial: Trial) -> Iterator[str]:
    if not re.search(r"expired|not-after", trial.text, re.IGNORECASE):
        yield "not a word of the limit"
    if "CHECKED" in trial.text:
        yield "the receipt counts as checked"


def _checked(trial: Trial) -> Iterator[str]:
    if "CHECKED" not in trial.text:
        yield "the receipt is not checked"


JOBS: dict[str, Callable[[Trial], Iterator[str]]] = {
    "jobs/mistyped_storage": partial(_mistyped, what="storage"),
    "jobs/mistyped_dataset": partial(_mistyped, what="dataset"),
    "jobs/mistyped_model": partial(_mistyped, what="model"),
    "jobs/yes_for_a_number": partial(
        _refused_setting, words=(r"fit\.max_epochs", "whole number|integer", "[Tt]rue|yes")
    ),
    "jobs/octal_number": partial(_refused_setting, words=(r"fit\.max_epochs|line 6", "010")),
    "jobs/base_sixty": partial(_refused_setting, words=(r"fit\.max_epochs|line 6", "1:30")),
    "jobs/deep_nesting": partial(_refused_setting, words=("nest|deep",)),
    "jobs/huge_number": partial(_refused_setting, words=(r"fit\.max_epochs|line 6",)),
    "jobs/impossible_date": partial(_refused_setting, words=("default_regulation|line 6",)),
    "jobs/alias_bomb": partial(_refused_setting, words=("dataset|alias",)),
    "jobs/relative_folders_in_a_job": _relative_folders,
    "jobs/control_yaml": _versions_shown,
    "keys/limit_in_capitals": _expired_or_refused,
    "keys/limit_with_blanks": _expired_or_refused,
    "keys/control_limit_ahead": _checked,
}
