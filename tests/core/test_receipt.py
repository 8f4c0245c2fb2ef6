"""Receipts: anybody can verify one offline, nobody can change one, and it names nobody else."""

import base64
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from tests.receipt_samples import (
    IDENTITY,
    OUTSIDE_IDS,
    SIGNING,
    nonces,
    receipts,
    requests,
    statement,
    statement_values,
)
from tru_core.canonical import canonical_json
from tru_core.errors import (
    ChainGapError,
    ChainOrderError,
    ConfigError,
    EditedReceiptError,
    ExpiredKeyError,
    IntegrityError,
    NumericsError,
    PredicateTypeError,
    UnknownKeyError,
)
from tru_core.identity import PublicKey, SigningKey
from tru_core.receipts.envelope import pre_authentication_encoding, sign_payload
from tru_core.receipts.receipt import (
    NO_CHAIN,
    NO_FILES,
    NO_SUBJECT,
    Verification,
    check_chain,
    envelope_digest,
    sign_batch,
    verify_receipt,
)
from tru_core.receipts.tree import build_tree, leaf_hash, root_of_path

PUBLIC = SIGNING.public_key


def verify(body: bytes, *keys: PublicKey) -> Verification:
    return verify_receipt(body, public_keys=keys or (PUBLIC,))


def payload_of(body: bytes) -> dict[str, Any]:
    return json.loads(base64.b64decode(json.loads(body)["envelope"]["payload"]))


def with_payload(body: bytes, payload: dict[str, Any], *, key: SigningKey | None) -> bytes:
    """The receipt with another payload: signed anew, or (None) under the old signature."""
    value = json.loads(body)
    packed = canonical_json(payload, where="test")
    if key is None:
        value["envelope"]["payload"] = base64.b64encode(packed).decode()
    else:
        value["envelope"] = sign_payload(packed, key).model_dump(mode="json")
    return canonical_json(value, where="test")


# --- what a receipt shows -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_every_request_of_a_batch_has_a_receipt_that_verifies(count: int) -> None:
    found = [verify(body).leaf for body in receipts(count)]
    assert found == requests(count)


def test_what_is_checked_and_what_is_only_said_are_told_apart() -> None:
    found = verify(receipts()[0])
    assert any("signed by key" in line for line in found.checked)
    assert any("Method tru" in line for line in found.attested_only)
    assert "Items of the purge inventory: 3." in found.attested_only
    assert {NO_FILES, NO_CHAIN, NO_SUBJECT} <= set(found.attested_only)
    assert not set(found.checked) & set(found.attested_only)


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert receipts() == receipts()


def test_a_receipt_names_no_outside_id_no_other_request_and_no_key() -> None:
    bodies = receipts(8)
    texts = [body.decode() + canonical_json(payload_of(body), where="test").decode() for body in bodies]
    for place, text in enumerate(texts):
        for secret in (*OUTSIDE_IDS, "sentinel", IDENTITY.secret.hex(), SIGNING.secret.hex()):
            assert secret not in text
        for other, (request, nonce) in enumerate(zip(requests(8), nonces(8), strict=True)):
            is_own = other == place
            assert (request.request_id in text) is is_own
            assert (request.subject_digest in text) is is_own
            assert (nonce.hex() in text) is is_own


def test_a_neighbours_digest_cannot_be_tried_out_against_guesses() -> None:
    """Whoever knows every field of the other request, and not its nonce, finds nothing in the path that fits."""
    path = json.loads(receipts(2)[0])["path"]
    content = canonical_json(requests(2)[1].model_dump(mode="json"), where="test")
    guesses = {hashlib.sha256(prefix + content).hexdigest() for prefix in (b"", b"\x00", b"\x00" + bytes(32))}
    assert leaf_hash(nonces(2)[1], content).hex() == path[0]
    assert path[0] not in guesses


def test_places_in_the_tree_do_not_follow_the_order_of_requests() -> None:
    places = [json.loads(body)["index"] for body in receipts(8)]
    assert sorted(places) == list(range(8))
    assert places != list(range(8))


# --- the tree -----------------------------------------------------------------------------------


def rfc6962_root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, section 2.1, by recursion."""
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + rfc6962_root(leaves[:left]) + rfc6962_root(leaves[left:])).digest()


@pytest.mark.parametrize("count", range(1, 34))
def test_the_tree_is_that_of_rfc_6962_and_every_path_leads_to_its_root_from_one_place_only(count: int) -> None:
    leaves = [hashlib.sha256(bytes([place])).digest() for place in range(count)]
    tree = build_tree(leaves)
    assert tree.root == rfc6962_root(leaves)
    for place, leaf in enumerate(leaves):
        roots = [root_of_path(leaf, index=i, num_leaves=count, path=tree.path(place)) for i in range(-1, count + 1)]
        assert [i - 1 for i, root in enumerate(roots) if root == tree.root] == [place]
        assert root_of_path(leaf, index=place, num_leaves=count, path=[*tree.path(place), leaf]) is None


def test_the_signed_bytes_are_those_of_the_dsse_specification() -> None:
    found = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


# --- changed receipts (R3) ----------------------------------------------------------------------


def refused(body: bytes, *keys: PublicKey) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        verify(body, *keys)
    assert caught.value.exit_code == 8
    return caught.value


@pytest.mark.many_calls
def test_every_flipped_byte_is_refused() -> None:
    body, draws = receipts()[0], random.Random(3)
    for place in range(len(body)):
        changed = bytearray(body)
        changed[place] ^= 1 << draws.randrange(8)
        refused(bytes(changed))


@pytest.mark.many_calls
def test_every_byte_cut_out_or_doubled_is_refused() -> None:
    body = receipts()[0]
    for place in range(0, len(body), 7):
        refused(body[:place] + body[place + 1 :])
        refused(body[:place] + body[place : place + 1] + body[place:])
    for place in (0, 1, len(body) // 2, len(body) - 1):
        refused(body[:place])


def places_of(value: Any) -> Iterator[list[str | int]]:
    """The way to every field and every entry of a JSON value, also inside others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield [name]
        yield from ([name, *rest] for rest in places_of(part))


def without(value: Any, place: list[str | int]) -> Any:
    copied = json.loads(json.dumps(value))
    target = copied
    for name in place[:-1]:
        target = target[name]
    del target[place[-1]]
    return copied


def test_every_dropped_field_of_the_file_is_refused() -> None:
    value = json.loads(receipts()[0])
    places = list(places_of(value))
    assert len(places) > 20
    for place in places:
        refused(canonical_json(without(value, place), where="test"))


def test_every_dropped_field_of_the_statement_is_refused_even_when_the_signer_dropped_it() -> None:
    body = receipts()[0]
    payload = payload_of(body)
    free = {"settings", "seeds", "versions", "known_limits", "audits", "purge", "files"}  # holds any number of entries
    places = list(places_of(payload))
    assert len(places) > 90
    for place in places:
        changed = without(payload, place)
        refused(with_payload(body, changed, key=None))
        if len(place) < 2 or place[-2] not in free:
            refused(with_payload(body, changed, key=SIGNING))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body + b"\n",
        lambda body: b" " + body,
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: json.dumps(json.loads(body)).encode(),
        lambda body: json.dumps(json.loads(body), indent=2).encode(),
        lambda body: body.replace(b'"index":', b'"index":0,"index":'),
        lambda body: re.sub(rb'"index":(\d)', rb'"index":\1.0', body),
        lambda body: re.sub(rb'"index":\d', b'"index":true', body),
        lambda body: re.sub(rb'"index":\d', b'"index":NaN', body),
        lambda body: body.replace(b'"sig":"', b'"sig":" '),
        lambda body: body.replace(b'=="', b'"'),
        lambda body: re.sub(rb'"payload":"', b'"payload":"\\\\n', body),
        lambda body: b"",
        lambda body: b"null",
        lambda body: b"[]",
        lambda body: b"[" * 100_000,
        lambda body: b" " * (16 * 2**20 + 1),
    ],
)
def test_another_writing_of_the_same_receipt_is_refused(change: Callable[[bytes], bytes]) -> None:
    assert isinstance(refused(change(receipts()[0])), EditedReceiptError)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" * 70 + b"]" * 70,
        b"7" * 10_000,
        b'{"a":1e999}',
        b'"\\ud800"',
        b"\xff\xfe",
        b"\x1b[31m",
        b'{"' + b"x" * 100_000 + b'":1}',
        b"",
    ],
)
def test_a_file_that_was_made_to_break_a_reader_is_no_receipt_and_the_message_is_short(body: bytes) -> None:
    with pytest.raises(EditedReceiptError) as caught:
        verify_receipt(body, public_keys=[], where="receipt.json")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_the_spare_bits_of_base64_cannot_carry_another_receipt() -> None:
    """``AA==`` and ``AB==`` decode to the same byte. Only the first is what an encoder writes."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    value = json.loads(receipts()[0])
    signature = value["envelope"]["signatures"][0]["sig"]
    assert signature.endswith("==")  # 64 bytes leave four spare bits
    last = signature[-3]
    for letter in letters:
        changed = signature[:-3] + letter + "=="
        if letter != last and base64.b64decode(changed) == base64.b64decode(signature):
            value["envelope"]["signatures"][0]["sig"] = changed
            assert isinstance(refused(canonical_json(value, where="test")), EditedReceiptError)


def test_parts_of_two_receipts_do_not_fit_together() -> None:
    first, second = (json.loads(body) for body in receipts()[:2])
    for name in ("leaf", "nonce", "index", "path"):
        refused(canonical_json(first | {name: second[name]}, where="test"))
    other = json.loads(receipts(retain_count=99_999)[0])
    assert verify(canonical_json(first | {"envelope": other["envelope"]}, where="test"))  # the same requests


def test_each_reason_has_an_error_of_its_own() -> None:
    body = receipts()[0]
    stranger = SigningKey(b"x" * 32)
    assert isinstance(refused(body, stranger.public_key), UnknownKeyError)
    expired = PublicKey(PUBLIC.raw, not_after=datetime(2026, 11, 26, 2, 10, tzinfo=UTC))
    assert isinstance(refused(body, expired), ExpiredKeyError)
    payload = payload_of(body) | {"predicateType": "https://slsa.dev/provenance/v1"}
    assert isinstance(refused(with_payload(body, payload, key=SIGNING)), PredicateTypeError)
    assert isinstance(refused(with_payload(body, payload, key=None)), EditedReceiptError)
    forged = with_payload(body, payload_of(body), key=stranger).replace(
        stranger.key_id.encode(), SIGNING.key_id.encode()
    )
    assert isinstance(refused(forged), EditedReceiptError)
    messages = [str(refused(*case)) for case in ((body, stranger.public_key), (body, expired), (forged,))]
    assert len({message.split(",")[0] for message in messages}) == 3


# --- keys are replaced (S4) ---------------------------------------------------------------------


def test_old_receipts_stay_valid_after_the_signing_key_was_replaced() -> None:
    old = receipts()[0]
    new_key = SigningKey(b"n" * 32)
    new = sign_batch(statement(), requests(), key=new_key, nonces=nonces()).receipt(0)
    replaced = PublicKey(PUBLIC.raw, not_after=datetime(2026, 11, 26, 2, 11, tzinfo=UTC) + timedelta(hours=1))
    for body, signer in ((old, SIGNING), (new, new_key)):
        found = verify(body, new_key.public_key, replaced)
        assert found.predicate.signing_key_id == signer.key_id


# --- the chain ----------------------------------------------------------------------------------


def chain(length: int) -> tuple[list[bytes], Verification]:
    """The envelopes of a chain, and its last receipt."""
    envelopes, previous = [], None
    for number in range(1, length + 1):
        signed = sign_batch(
            statement(), requests(), key=SIGNING, nonces=nonces(), number=number, prev_receipt_digest=previous
        )
        previous = envelope_digest(signed.envelope)
        envelopes.append(signed.envelope)
    return envelopes, verify(signed.receipt(0))


def test_a_whole_chain_is_checked_back_to_its_first_receipt() -> None:
    envelopes, last = chain(4)
    found = check_chain(envelopes, last)
    assert "The chain of 4 receipts up to this one has no gap." in found.checked
    assert NO_CHAIN not in found.attested_only
    later = chain(6)[0]
    assert "The chain of 4 receipts up to this one has no gap." in check_chain(later, last).checked


@pytest.mark.parametrize("places", [[0, 1, 3], [1, 2, 3], [0, 1, 2], []])
def test_a_chain_with_a_gap_is_refused(places: list[int]) -> None:
    envelopes, last = chain(4)
    with pytest.raises((ChainGapError, ChainOrderError)) as caught:
        check_chain([envelopes[place] for place in places], last)
    assert caught.value.exit_code == 8


def test_a_gap_that_was_filled_with_another_receipt_is_refused() -> None:
    envelopes, last = chain(4)
    other = sign_batch(statement(retain_count=1), requests(), key=SIGNING, nonces=nonces()).envelope
    for place in range(4):
        with pytest.raises(ChainGapError):
            check_chain([*envelopes[:place], other, *envelopes[place + 1 :]], last)


@pytest.mark.parametrize("places", [[1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2], [0, 0, 1, 2, 3], [3, 2, 1, 0]])
def test_a_chain_in_another_order_is_refused_with_an_error_of_its_own(places: list[int]) -> None:
    envelopes, last = chain(4)
    with pytest.raises(ChainOrderError) as caught:
        check_chain([envelopes[place] for place in places], last)
    assert caught.value.exit_code == 8


def test_the_first_receipt_and_no_other_has_none_before_it() -> None:
    for number, previous in ((1, "0" * 64), (2, None)):
        with pytest.raises(ValidationError, match="has none before"):
            receipts(number=number, previous=previous)


# --- what may not be said -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_never_gets_into_a_receipt(number: float) -> None:
    with pytest.raises(NumericsError):
        canonical_json({"rate": number}, where="a receipt")
    with pytest.raises(ValidationError):
        receipts(method=statement_values()["method"] | {"settings": {"rate": [number]}})
    audit = statement_values()["audits"][0]
    for name in ("value", "low", "high", "margin", "reference_value"):
        with pytest.raises(ValidationError):
            statement(audits=[audit | {name: number}])


def test_an_unknown_field_never_gets_into_a_receipt() -> None:
    values = statement_values()
    for part in (values, values["times"], values["audits"][0], values["purge"][0], values["model_after"]):
        part["extra"] = 1
        with pytest.raises(ValidationError, match="extra"):
            statement(**values)
        del part["extra"]


def test_crypto_shredding_is_said_of_backups_only() -> None:
    item = statement_values()["purge"][1]
    for kind in ("model version", "interactions", "checkpoint"):
        with pytest.raises(ValidationError, match="key_destroyed is for a backup"):
            statement(purge=[item | {"kind": kind}])


@pytest.mark.parametrize(("count", "used"), [(0, 0), (3, 2), (3, 4)])
def test_every_request_needs_a_nonce_of_its_own(count: int, used: int) -> None:
    with pytest.raises(ConfigError, match="Nothing was signed"):
        sign_batch(statement(), requests(count), key=SIGNING, nonces=nonces(used))
    for bad in ([nonces()[0]] * 3, [b"short", *nonces()[1:]]):
        with pytest.raises(ConfigError, match="Nothing was signed"):
            sign_batch(statement(), requests(), key=SIGNING, nonces=bad)
