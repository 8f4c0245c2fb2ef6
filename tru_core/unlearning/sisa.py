"""SISA: users in random shards, a model of each, scores averaged (Bourtoule et al., IEEE S&P 2021).

Exact for the parameters: what is given follows from retained pairs alone. Adapted to a recommender: shards part
users, since a user's pairs belong together; slices, which only save time inside a shard, are left out; and a user's
score in a shard that is not its own comes from the items that it retains (:func:`~.shards.guest_vectors`).
"""

from pydantic import PositiveInt

from tru_core.backbones.base import Backbone
from tru_core.hashing import hash_below, text_key
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools
from tru_core.unlearning.problem import Problem
from tru_core.unlearning.shards import add_scores, shard_schedule, train_shards


class SISASettings(Settings):
    """How to shard, and how to train each shard.

    Attributes:
        num_shards: As many as UltraRE has, so that the two differ in how users are parted and scores joined.
        epochs: Epochs of each shard at most; None takes the Original's.
        patience: Epochs without a better validation recall; None takes the Original's.
        batch_size: Rows of a shard's batch; None takes its share of the Original's
            (:func:`~tru_core.unlearning.shards.shard_schedule`).
    """

    num_shards: PositiveInt = 10
    epochs: PositiveInt | None = None
    patience: PositiveInt | None = None
    batch_size: PositiveInt | None = None


def forget(original: Backbone, problem: Problem, settings: SISASettings, tools: Tools) -> Candidate:
    """Train each shard on its retained pairs and average the shards' scores. The Original is not looked at."""
    seed, num_shards = tools.fit.seed, settings.num_shards
    shard_of_user = hash_below(num_shards, seed, text_key("sisa-shard"), problem.shard.user_rows)
    schedule = shard_schedule(
        tools.fit,
        num_shards=num_shards,
        epochs=settings.epochs,
        patience=settings.patience,
        batch_size=settings.batch_size,
    )
    ensemble = train_shards(problem, tools, shard_of_user, num_shards, settings=schedule)
    num_models = len(ensemble.users)
    users, items = add_scores(ensemble, ensemble.users.new_full((num_models,), 1.0 / num_models))
    return Candidate(
        users=users,
        items=items,
        model=None,
        history=[ensemble.row],
        seconds_before=ensemble.row["seconds_untouched"],
    )


SISA = Method(title="SISA", settings_type=SISASettings, forget=forget)
