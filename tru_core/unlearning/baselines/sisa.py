"""SISA: users in random shards, a model of each, scores averaged (Bourtoule et al., IEEE S&P 2021).

Exact for the parameters: what is given follows from retained pairs alone. Adapted to a recommender: shards part
users, since a user's pairs belong together; slices, which only save time inside a shard, are left out; and a user's
score in a shard that is not its own comes from the items that it retains (:func:`~.shards.guest_vectors`).
"""

from pydantic import PositiveInt

from tru_core.backbones.base import Backbone
from tru_core.hashing import hash_below, text_key
from tru_core.problem import Problem
from tru_core.unlearning.baselines.shards import ShardSettings, add_scores, train_shards
from tru_core.unlearning.method import Candidate, Method, Tools


class SISASettings(ShardSettings):
    """How to shard, and how to train each shard.

    Attributes:
        patience: Epochs without a better validation recall; None takes the Original's.
    """

    patience: PositiveInt | None = None


def forget(original: Backbone, problem: Problem, settings: SISASettings, tools: Tools) -> Candidate:
    """Train each shard on its retained pairs and average the shards' scores. The Original is not looked at."""
    seed, num_shards = tools.fit.seed, settings.num_shards
    shard_of_user = hash_below(num_shards, seed, text_key("sisa-shard"), problem.shard.user_rows)
    schedule = settings.schedule(tools.fit, patience=settings.patience)
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


SISA = Method(title="SISA", settings_type=SISASettings, forget=forget, has_one_model=False)
