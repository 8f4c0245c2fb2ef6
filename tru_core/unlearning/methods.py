"""Every unlearning method by name. A new one is one short file and one line here."""

from tru_core.unlearning.edge_deletion import EDGE_DELETION
from tru_core.unlearning.method import Method

METHODS: dict[str, Method] = {
    "edge_deletion": EDGE_DELETION,
}
