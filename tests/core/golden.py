"""The losses of the first steps of every backbone, stored: a change of the mathematics cannot go unseen.

Write them anew, after a change that is meant: ``.venv/bin/python -m tests.core.golden``
"""

import json
from pathlib import Path

from tru_core.backbones import BACKBONES
from tru_core.fit import make_adam, train_step
from tru_core.testing.models import batches_of, build_model, train_graph
from tru_core.testing.worlds import shards_of, tiny_world

STORED = Path(__file__).with_name("golden_losses.json")
NUM_STEPS = 5


def first_losses(backbone: str) -> list[dict[str, float]]:
    """Each term of the loss before each of the first steps of Adam, in float64."""
    part = shards_of(tiny_world(), 1)[0]
    model, graph = build_model(part, backbone), train_graph(part)
    optimizer = make_adam(model, 0.01)
    losses = []
    for batch in batches_of(part, batch_size=20)[:NUM_STEPS]:
        terms = model.loss(graph, batch)
        losses.append({name: getattr(terms, name).item() for name in ("ranking", "regulariser", "auxiliary")})
        train_step(model, graph, batch, optimizer)
    return losses


def main() -> None:
    """Write the losses of every backbone."""
    found = {backbone: first_losses(backbone) for backbone in BACKBONES}
    STORED.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
