"""What a receipt claims, in one of five words, and the sentences that people read.

How strong a word is follows from the algorithm that ran, never from how close two models look: the same weights can
be reached from other data (arXiv:2110.11891). What an approximate method did is never called proved or guaranteed.
"""

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from tru_core.settings import Settings

ClaimWord = Literal["exact_retrain", "exact_shard_retrain", "certified", "approximate_audited", "approximate_unaudited"]

# Methods that train anew, without what was deleted, everything that had seen it.
EXACT_METHODS: Mapping[str, ClaimWord] = {"retrain": "exact_retrain", "sisa": "exact_shard_retrain"}

FORBIDDEN = re.compile(
    r"\b(prov(e|es|ed|en|ably|ing)|proofs?|guarant\w*|certif\w*|(fully|completely|entirely|totally|irreversibly|"
    r"permanently) (erased?|deleted?|removed?|forgot(ten)?|forgets?)|no trace)\b",
    re.IGNORECASE,
)

CLAIM_TEXTS: Mapping[ClaimWord, str] = {
    "exact_retrain": (
        "The model was trained again from the start on the data without what was asked to be deleted. Nothing of the "
        "earlier model was used."
    ),
    "exact_shard_retrain": (
        "Every part of the model that had been trained on what was asked to be deleted was trained again from the "
        "start without it."
    ),
    "certified": (
        "The method's authors prove a bound on how far the model can differ from one trained without the data: "
        "epsilon {epsilon:g}, delta {delta:g}, under these assumptions: {assumptions}."
    ),
    "approximate_audited": (
        "The model was changed so that it no longer uses what was asked to be deleted, and audits compared it with "
        "models that had not seen it. The audits passed. They are evidence, and they cover the attacks that they name."
    ),
    "approximate_unaudited": (
        "The model was changed so that it no longer uses what was asked to be deleted. No audit supports this: whether "
        "the model still tells something about it was not measured."
    ),
}

STANDING_LIMITS: tuple[str, ...] = (
    "A signature shows who made this statement and that it was not changed. It does not protect against an operator "
    "who holds the signing key and says what is not so.",
    "Closeness of a model to a retrained one does not show by itself that data was not used.",
    "Copies outside the storage that the inventory lists are not covered.",
)


class Claim(Settings):
    """What the operator says about the model after the deletion.

    Attributes:
        epsilon, delta, assumptions: Of ``certified`` alone.
    """

    word: ClaimWord
    epsilon: PositiveFloat | None = None
    delta: float | None = Field(default=None, ge=0, lt=1)
    assumptions: str | None = None

    @model_validator(mode="after")
    def _bound_belongs_to_certified(self) -> "Claim":
        bound = (self.epsilon, self.delta, self.assumptions)
        if self.word == "certified" and (None in bound or not self.assumptions):
            raise ValueError("a certified claim names epsilon, delta and its assumptions")
        if self.word != "certified" and any(value is not None for value in bound):
            raise ValueError(f"a claim {self.word} has no epsilon, delta or assumptions")
        return self

    @property
    def is_approximate(self) -> bool:
        """Whether words such as "guaranteed" are out of place."""
        return self.word.startswith("approximate")


def claim_for(method: str, verdict: Literal["passed", "failed", "inconclusive"] | None) -> Claim:
    """The claim that a method and its audit's verdict allow. Only a passed audit makes an approximate method audited.

    Args:
        method: Name of the unlearning method.
        verdict: None where there was no audit.
    """
    if method in EXACT_METHODS:
        return Claim(word=EXACT_METHODS[method])
    return Claim(word="approximate_audited" if verdict == "passed" else "approximate_unaudited")


def claim_text(claim: Claim) -> str:
    """The claim in plain sentences."""
    bound = {"epsilon": claim.epsilon, "delta": claim.delta, "assumptions": claim.assumptions}
    return CLAIM_TEXTS[claim.word].format(**bound)


def find_forbidden_word(text: str) -> str | None:
    """The first word of a text that an approximate method must not be described with; None if there is none."""
    match = FORBIDDEN.search(text)
    return match[0] if match else None
