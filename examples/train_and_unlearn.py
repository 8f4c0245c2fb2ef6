"""For those who use the algorithm as a library: train on arrays, forget some users, compare. No Ray, no storage.

python examples/train_and_unlearn.py
"""

import numpy as np

from tru_core import Dataset, FitSettings, evaluate, forget, make_dataset, make_request, train

NUM_USERS, NUM_ITEMS, NUM_TASTES, PAIRS_PER_USER = 300, 120, 8, 14


def make_world(seed: int = 0) -> Dataset:
    """Users and items with tastes that make both the pairs and the features; two pairs of each user are held out."""
    numbers = np.random.default_rng(seed)
    user_tastes = numbers.dirichlet(np.full(NUM_TASTES, 0.15), size=NUM_USERS)
    item_tastes = numbers.dirichlet(np.full(NUM_TASTES, 0.1), size=NUM_ITEMS)
    pairs = []
    for user, tastes in enumerate(user_tastes):
        chance = item_tastes @ tastes + 0.005
        items = numbers.choice(NUM_ITEMS, PAIRS_PER_USER, replace=False, p=chance / chance.sum())
        pairs.append(np.stack([np.full(PAIRS_PER_USER, user), items], axis=1))
    table = np.stack(pairs)  # user, pair, (user row, item row)
    features = {
        name: item_tastes @ numbers.normal(size=(NUM_TASTES, width)) + 0.2 * numbers.normal(size=(NUM_ITEMS, width))
        for name, width in (("image", 24), ("text", 16))
    }
    return make_dataset(
        table[:, 2:].reshape(-1, 2),
        valid=table[:, 0],
        test=table[:, 1],
        features=features,
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
    )


def main() -> None:
    """Train, forget fifteen users by three methods, and print what each left."""
    dataset = make_world()
    original = train(dataset, "mgcn", schedule=FitSettings(max_epochs=12, batch_size=256, learning_rate=5e-3))
    request = make_request(users=np.arange(0, NUM_USERS, 20))
    found = {name: forget(original, request, method=name) for name in ("edge_deletion", "tru", "retrain")}
    before = evaluate(original.model, found["tru"].problem, edges_in=True)
    print(f"{len(request.users)} of {NUM_USERS} users, {found['tru'].problem.num_forget} pairs to forget")
    print(f"{'':14} test recall@20   forgotten pairs   seconds")
    print(f"{'original':14} {before.test.recall:14.3f} {before.forget.recall:17.3f}")
    for name, one in found.items():
        outcome, seconds = one.outcome, one.candidate.seconds
        print(f"{name:14} {outcome.test.recall:14.3f} {outcome.forget.recall:17.3f} {seconds:9.2f}")


if __name__ == "__main__":
    main()
