"""A receipt in words for the person whose request it answers."""

from tru_core.errors import IntegrityError
from tru_core.receipts.claims import claim_text, find_forbidden_word
from tru_core.receipts.receipt import Verification
from tru_core.receipts.statement import Predicate, ReceiptRequest

OUTCOMES = {
    "published": "What the request names was taken out of the data set, and model version {version} now serves.",
    "not_found": "No data was held under what the request names. It is on the list of what must not come back.",
}
HEAD = "Receipt {receipt_id} for request {request_id} ({kind}), issued {issued_at}."
AUDIT = "Audit {name}, {statistic}: {value:.4g} (95 % interval {low:.4g} to {high:.4g}); {verdict}."
AUDIT_LIMIT = "Not shown by it: {shows_not}."
PURGE = "Purge inventory: {counts}."
SINGLE_WRITER = "The version was published on a storage that was not tested for two writers at once."


def receipt_text(verification: Verification) -> list[str]:
    """The lines of a verified receipt: what was done, how strong the claim is, what it does not say.

    Raises:
        IntegrityError: If a line about an approximate method holds a word that is never said of one.
    """
    lines = describe(verification.predicate, verification.leaf)
    words = [word for line in lines if (word := find_forbidden_word(line))]
    if words and verification.predicate.claim.is_approximate:
        raise IntegrityError(
            f"receipt {verification.predicate.receipt_id} describes an approximate method with the word {words[0]!r}. "
            "It is not shown in words; read its file."
        )
    return lines


def describe(predicate: Predicate, leaf: ReceiptRequest) -> list[str]:
    """The lines of a receipt's content, unchecked."""
    counts: dict[str, int] = {}
    for item in predicate.purge:
        counts[item.outcome] = counts.get(item.outcome, 0) + 1
    lines = [
        HEAD.format(
            receipt_id=predicate.receipt_id,
            request_id=leaf.request_id,
            kind=leaf.kind,
            issued_at=predicate.times.issued_at,
        ),
        OUTCOMES[leaf.outcome].format(version=predicate.model_after.version),
    ]
    if leaf.outcome == "published":
        lines.append(claim_text(predicate.claim))
        for audit in predicate.audits:
            lines.append(AUDIT.format(**audit.model_dump()))
            lines.append(AUDIT_LIMIT.format(shows_not=audit.shows_not.rstrip(".")))
    if counts:
        lines.append(PURGE.format(counts=", ".join(f"{number} {word}" for word, number in sorted(counts.items()))))
    if predicate.unsafe_single_writer:
        lines.append(SINGLE_WRITER)
    return lines + predicate.known_limits
