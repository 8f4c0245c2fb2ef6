"""For somebody who was deleted, or asks for them: check a deletion receipt offline, with a public key alone.

    python examples/verify_receipt.py receipt.json signing.pub

`tru delete receipt REQUEST --out receipt.json` gives the first, the operator publishes the second. `tru verify` says
more: it also compares with files and with an id.
"""

import sys
from pathlib import Path

from tru_core import TruError, verify_receipt
from workflows.key_files import read_public_key


def main(receipt: Path, public_key: Path) -> int:
    """Print what was checked and what rests on the operator's word; 8 for a receipt that was changed."""
    key = read_public_key(public_key)
    body = receipt.read_bytes()
    try:
        found = verify_receipt(body, public_keys=[key], where=str(receipt))
    except TruError as error:
        print(f"not valid: {error}")
        return error.exit_code
    print(f"valid: request {found.leaf.request_id} ended as {found.leaf.outcome}, claim {found.predicate.claim.word}")
    for line in found.checked:
        print(f"  checked: {line}")
    for line in found.attested_only:
        print(f"  on the signer's word: {line}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: python {sys.argv[0]} RECEIPT PUBLIC_KEY")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
