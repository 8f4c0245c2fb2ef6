"""What a receipt claims follows from the method and its audits, and its words say no more than that."""

import ast
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.receipt_samples import SIGNING, receipts, statement, statement_values
from tru_core.errors import IntegrityError
from tru_core.receipts import claims, receipt
from tru_core.receipts import words as receipt_text
from tru_core.receipts.claims import CLAIM_TEXTS, STANDING_LIMITS, Claim, claim_for, claim_text, find_forbidden_word
from tru_core.receipts.receipt import verify_receipt

APPROXIMATE = [word for word in CLAIM_TEXTS if word.startswith("approximate")]


@pytest.mark.parametrize(
    "text",
    [
        "We proved it",
        "this is guaranteed",
        "a Guarantee",
        "fully erased",
        "Fully Erased",
        "completely deleted",
        "provably",
        "certified",
        "no trace",
    ],
)
def test_words_that_are_never_said_of_an_approximate_method_are_found(text: str) -> None:
    assert find_forbidden_word(text)


def test_the_words_that_receipts_use_are_not_taken_for_others() -> None:
    for text in ("The provider improved it.", "The audits passed.", "It was taken out.", "approved", *STANDING_LIMITS):
        assert find_forbidden_word(text) is None


@pytest.mark.parametrize("module", [claims, receipt, receipt_text])
def test_no_template_of_any_text_promises_what_an_approximate_method_cannot(module: object) -> None:
    """Every string literal of the modules that write for people, docstrings and the exact claims' own texts apart."""
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8"))
    owners = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    spared = {ast.get_docstring(owner, clean=False) for owner in owners}
    spared |= {CLAIM_TEXTS["certified"], "certified", claims.FORBIDDEN.pattern}
    spared |= {"a certified claim names epsilon, delta and its assumptions"}
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    assert len(texts) > 10
    found = {text: word for text in texts if text not in spared and (word := find_forbidden_word(text))}
    assert not found


@pytest.mark.parametrize("word", APPROXIMATE)
def test_a_receipt_of_an_approximate_method_is_told_without_such_words(word: str) -> None:
    claim = {"word": word, "epsilon": None, "delta": None, "assumptions": None}
    for single_writer in (False, True):
        body = receipts(claim=claim, unsafe_single_writer=single_writer)[0]
        lines = receipt_text.receipt_text(verify_receipt(body, public_keys=[SIGNING.public_key]))
        assert not [line for line in lines if find_forbidden_word(line)]
        assert CLAIM_TEXTS[word] in lines  # pyright: ignore[reportArgumentType]
        assert any("two writers" in line for line in lines) is single_writer


def test_words_that_the_operator_puts_in_are_refused_when_signing_and_when_telling() -> None:
    with pytest.raises(ValidationError, match="'guaranteed' is not said of an approximate method"):
        statement(known_limits=["Deletion is guaranteed."])
    retrain = statement_values()["method"] | {"name": "sisa-guaranteed", "settings": {}}
    audit = statement_values()["audits"][0] | {"statistic": "guaranteed forgetting"}
    body = receipts(method=retrain, audits=[audit])[0]
    with pytest.raises(IntegrityError, match="not shown in words"):
        receipt_text.receipt_text(verify_receipt(body, public_keys=[SIGNING.public_key]))


def test_only_a_passed_audit_makes_an_approximate_method_audited() -> None:
    assert claim_for("retrain", None).word == "exact_retrain"
    assert claim_for("sisa", "passed").word == "exact_shard_retrain"
    assert claim_for("tru", "passed").word == "approximate_audited"
    for verdict in (None, "failed", "inconclusive"):
        assert claim_for("tru", verdict).word == "approximate_unaudited"
    with pytest.raises(ValidationError, match="exact_retrain is not what method tru does"):
        statement(claim=claim_for("retrain", None).model_dump())
    audit = statement_values()["audits"][0]
    for audits in ([], [audit | {"verdict": "inconclusive"}], [audit, audit | {"verdict": "failed"}]):
        with pytest.raises(ValidationError, match="needs audits"):
            statement(audits=audits)


def test_a_bound_belongs_to_a_certified_claim_and_to_no_other() -> None:
    bound = {"epsilon": 0.5, "delta": 1e-5, "assumptions": "the loss is convex"}
    assert "epsilon 0.5, delta 1e-05" in claim_text(Claim.model_validate({"word": "certified"} | bound))
    for name in bound:
        with pytest.raises(ValidationError):
            Claim.model_validate({"word": "certified"} | bound | {name: None})
    for word in CLAIM_TEXTS:
        if word != "certified":
            with pytest.raises(ValidationError, match="has no epsilon"):
                Claim.model_validate({"word": word} | bound)
