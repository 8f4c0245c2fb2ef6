"""Membership of a user from recommended lists alone (Zhang et al., CCS 2021, arXiv:2109.08045).

The attacker sees only a user's history and what is recommended: the mean item vector of the one minus that of the
other, item vectors from factorising the interaction matrix. A network with two hidden layers learns from shadow
recommenders which differences belong to members. It learns from half of the users and judges the other half.

The network is given the absolute difference in each column. Members' lists lie near their history on whichever side,
and a few hundred shadow users do not teach a network that; the paper's shadow recommenders have thousands.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.shadows import subjects_of
from tru_core.audits.statistics import Cases, FloatArray, compare, placements
from tru_core.backbones.base import uniform_rows
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray, Pairs, make_pairs
from tru_core.ranking import BLOCK_USERS, top_items

NAME = "membership_lists"
PAPER = "Zhang et al., CCS 2021, arXiv:2109.08045"
LIST_LENGTH = 20
MIN_SHADOWS = 4
_FACTORS = 16
_HIDDEN = (32, 8)
_ITERATIONS = 8
_STEPS = 100
_FOLDS = 2


def factor_items(train: Pairs, num_users: int, *, size: int, seed: int) -> Float[Tensor, "item factor"]:
    """Give item vectors: the leading right singular vectors of the interaction matrix, by subspace iteration."""
    size = min(size, train.num_items, num_users)
    users, items = torch.from_numpy(train.users), torch.from_numpy(train.items)
    rows = np.arange(train.num_items)
    vectors = uniform_rows("factors", rows, size, bound=1.0, seed=seed, dtype=torch.float64)

    def by_user(vectors: Tensor) -> Tensor:
        return vectors.new_zeros((num_users, size)).index_add(0, users, vectors[items])

    for _ in range(_ITERATIONS):
        products = torch.zeros_like(vectors).index_add(0, items, by_user(vectors)[users])
        vectors = torch.linalg.qr(products).Q
    return vectors * by_user(vectors).norm(dim=0)


def features(system: System, case: AuditCase, item_vectors: Tensor, users: IntArray) -> Float[Tensor, "user factor"]:
    """Distance, by column, of the mean item vector of a user's forgotten pairs from that of the user's list."""
    problem = case.problem
    masked = problem.retain
    if system.hidden is not None:
        hidden = system.hidden
        both = [np.concatenate([getattr(part, side) for part in (masked, hidden)]) for side in ("users", "items")]
        masked = make_pairs(both[0], both[1], num_items=masked.num_items)
    lists = np.concatenate(
        [
            top_items(system.users, system.items, users[start : start + BLOCK_USERS], masked, k=LIST_LENGTH)
            for start in range(0, len(users), BLOCK_USERS)
        ]
    )
    listed = torch.from_numpy(lists)
    is_item = (listed >= 0).double()[:, :, None]
    recommended = (item_vectors[listed.clamp_min(0)] * is_item).sum(dim=1) / is_item.sum(dim=1).clamp_min(1.0)
    place = torch.from_numpy(np.searchsorted(users, problem.forget.users))
    history = torch.zeros_like(recommended).index_add(0, place, item_vectors[torch.from_numpy(problem.forget.items)])
    return (history / torch.bincount(place, minlength=len(users))[:, None] - recommended).abs()


class AttackModel(torch.nn.Module):
    """A network with two hidden layers on standardised features; gives the log odds of being a member."""

    def __init__(self, examples: Tensor, *, seed: int) -> None:
        super().__init__()
        self.middle, self.scale = examples.mean(dim=0), examples.std(dim=0).clamp_min(1e-9)
        layers, before = [], examples.shape[1]
        for number, width in enumerate((*_HIDDEN, 1)):
            layer = torch.nn.Linear(before, width, dtype=torch.float64)
            bound = before**-0.5
            rows = np.arange(width)
            with torch.no_grad():
                layer.weight.copy_(
                    uniform_rows(f"attack{number}", rows, before, bound=bound, seed=seed, dtype=torch.float64)
                )
                layer.bias.zero_()
            layers += [layer, torch.nn.ReLU()]
            before = width
        self.layers = torch.nn.Sequential(*layers[:-1])

    def forward(self, examples: Tensor) -> Tensor:
        return self.layers((examples - self.middle) / self.scale)[:, 0]


def train_attack(examples: Tensor, labels: Tensor, *, seed: int) -> AttackModel:
    """Train the attack model on labelled differences: full batches, Adam, weight decay."""
    model = AttackModel(examples, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
    loss = torch.nn.BCEWithLogitsLoss()
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss(model(examples), labels).backward()
        optimizer.step()
    return model


def measure(case: AuditCase) -> list[Measurement]:
    """Train the attack on the shadow models and turn it on every system. Users only."""
    problem = case.problem
    subjects = subjects_of(problem)
    rows, first = np.unique(subjects, return_index=True)
    if len(case.shadows) < MIN_SHADOWS or subjects is problem.forget.items or len(rows) < 2 * _FOLDS:
        return []
    users = problem.forget.users[first]
    members = np.stack([shadow.members[first] for shadow in case.shadows])
    vectors = factor_items(problem.shard.train, len(problem.shard.user_rows), size=_FACTORS, seed=case.seed)
    seen = torch.stack([features(shadow.system, case, vectors, users) for shadow in case.shadows])
    # Alternating folds of a hashed order: as many users in each.
    fold = np.argsort(np.argsort(hash_below(2**31, case.seed, text_key("attack-fold"), rows), kind="stable")) % _FOLDS
    models = []
    for number in range(_FOLDS):
        other = torch.from_numpy(np.flatnonzero(fold != number))
        labels = torch.from_numpy(members[:, fold != number].astype(np.float64)).flatten()
        models.append(train_attack(seen[:, other].flatten(0, 1), labels, seed=case.seed + number))

    def odds(examples: Tensor) -> FloatArray:
        found = np.zeros(len(users))
        with torch.no_grad():
            for number, model in enumerate(models):
                found[fold == number] = model(examples[torch.from_numpy(np.flatnonzero(fold == number))]).numpy()
        return found

    shadow_odds = [odds(examples) for examples in seen]
    null = np.concatenate([own[~inside] for own, inside in zip(shadow_odds, members, strict=True)])
    candidate = odds(features(case.candidate, case, vectors, users))
    known = np.concatenate([own[inside] for own, inside in zip(shadow_odds, members, strict=True)])
    fields = compare(
        case,
        Cases(clusters=rows, unseen=~members),
        lambda system: placements(odds(features(system, case, vectors, users)), null),
        shadow_scores=[placements(own, null) for own in shadow_odds],
    )
    details = {
        "num_shadows": len(members),
        "num_non_members": len(null),
        "balanced_accuracy": float(((candidate > 0).mean() + (null <= 0).mean()) / 2),
        "attack_auc_on_shadow_models": float(placements(known, null).mean()),
    }
    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic="AUC of the attack model's odds on lists, against models that never saw the users",
            aspect="subject",
            never_seen=0.5,
            never_seen_error=fields["error"],
            shows_not="It sees lists alone: what tables still hold without showing it in a list it does not see.",
            details=details,
            **fields,
        )
    ]


MEMBERSHIP_LISTS = Attack(NAME, PAPER, measure)
