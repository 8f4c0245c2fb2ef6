"""A method applied batch after batch: what each batch is given, and where the sequence ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tru_core.backbones import Backbone
from tru_core.collective import Collective
from tru_core.errors import AuditError, ConfigError
from tru_core.fit import FitSettings, TrainingState, parameter_values
from tru_core.forget_sets import split_request
from tru_core.graph import build_graph
from tru_core.interactions import Pairs, Request, make_request, split_by_request, without_subjects
from tru_core.problem import Problem, measure
from tru_core.settings import Settings
from tru_core.testing.models import ALONE, build_model, builder, fitted, problem_of
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.baselines.edge_deletion import EDGE_DELETION, EdgeDeletionSettings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of, run_method
from tru_core.unlearning.sequence import forget_in_sequence
from tru_core.unlearning.tru.method import unlearn
from tru_core.unlearning.tru.settings import TRUSettings

FIT = FitSettings(max_epochs=2, patience=2, batch_size=48, learning_rate=0.02)
REQUEST = make_request(
    users=np.array([1, 4, 7, 11, 20]),
    items=np.array([0, 3, 5]),
    pair_users=tiny_world().train[[30, 60], 0],
    pair_items=tiny_world().train[[30, 60], 1],
)


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


@pytest.fixture(scope="module")
def problem(part: Part) -> Problem:
    return problem_of(part, REQUEST)


def tools_of(part: Part) -> Tools:
    return Tools(new_model=builder(part), fit=FIT)


def batches(part: Part, num_batches: int, collective: Collective = ALONE) -> list[Request]:
    return split_request(REQUEST, part.shard, collective, num_batches=num_batches, seed=4)


def unlearn_once(original: Backbone, problem: Problem, settings: TRUSettings, tools: Tools) -> Candidate:
    unlearn(original, problem, settings, state=tools.state, on_epoch=tools.on_epoch)
    return candidate_of(original, problem, [{"epoch": 1.0}])


TRU = Method(title="TRU", settings_type=TRUSettings, forget=unlearn_once)
TRU_SETTINGS = TRUSettings(batch_size=32)


def recorder(seen: list[Problem]) -> Method:
    """A method that does nothing and remembers what it was given."""

    def forget(original: Backbone, problem: Problem, settings: Settings, tools: Tools) -> Candidate:
        seen.append(problem)
        return candidate_of(original, problem)

    return Method(title="Recorder", settings_type=EdgeDeletionSettings, forget=forget)


def seen_by(part: Part, problem: Problem, requests: list[Request]) -> list[Problem]:
    seen: list[Problem] = []
    forget_in_sequence(
        recorder(seen),
        build_model(part),
        requests,
        problem,
        EdgeDeletionSettings(),
        tools_of(part),
        item_neighbours=part.item_neighbours,
    )
    return seen


def as_set(pairs: Pairs) -> set[int]:
    return set(pairs.keys.tolist())


def merged(requests: list[Request]) -> Request:
    users, items, pair_users, pair_items = (
        np.concatenate([getattr(request, name) for request in requests])
        for name in ("users", "items", "pair_users", "pair_items")
    )
    return make_request(users=users, items=items, pair_users=pair_users, pair_items=pair_items)


def test_a_sequence_of_one_batch_is_the_method_applied_once(part: Part, problem: Problem) -> None:
    models = [build_model(part), build_model(part)]
    for model in models:
        fitted(part, model=model, settings=FIT)
    once = run_method(TRU, models[0], problem, TRU_SETTINGS, tools_of(part))
    found = forget_in_sequence(
        TRU, models[1], [REQUEST], problem, TRU_SETTINGS, tools_of(part), item_neighbours=part.item_neighbours
    )
    assert torch.equal(found.users, once.users)
    assert torch.equal(found.items, once.items)
    assert found.model is models[1]
    for name, value in parameter_values(models[0]).items():
        assert torch.equal(models[1].get_parameter(name), value)
    outcome = measure(once.users, once.items, problem, ALONE)
    (row,) = found.history
    assert row.pop("seconds") == found.seconds > 0
    assert row == {
        "batch": 1.0,
        "valid_recall20": outcome.valid.recall,
        "test_recall20": outcome.test.recall,
        "forget_recall20": outcome.forget.recall,
    }


def test_each_batch_starts_from_the_model_of_the_one_before(part: Part, problem: Problem) -> None:
    requests, model = batches(part, 3), build_model(part)
    found = forget_in_sequence(
        TRU, model, requests, problem, TRU_SETTINGS, tools_of(part), item_neighbours=part.item_neighbours
    )
    by_hand = build_model(part)
    for step in seen_by(part, problem, requests):
        unlearn(by_hand, step, TRU_SETTINGS)
    for name, value in parameter_values(by_hand).items():
        assert torch.equal(model.get_parameter(name), value)
    assert torch.equal(found.users, candidate_of(by_hand, problem).users)
    assert found.seconds == pytest.approx(sum(row["seconds"] for row in found.history))


def test_a_method_that_gives_a_new_model_is_given_that_one_next(part: Part, problem: Problem) -> None:
    given: list[Backbone] = []
    made = [build_model(part, seed=seed) for seed in (1, 2, 3)]

    def forget(original: Backbone, problem: Problem, settings: Settings, tools: Tools) -> Candidate:
        given.append(original)
        return candidate_of(made[len(given) - 1], problem)

    original = build_model(part)
    found = forget_in_sequence(
        Method("New", EdgeDeletionSettings, forget),
        original,
        batches(part, 3),
        problem,
        EdgeDeletionSettings(),
        tools_of(part),
        item_neighbours=part.item_neighbours,
    )
    assert [id(model) for model in given] == [id(model) for model in (original, made[0], made[1])]
    assert found.model is made[2]


def test_a_batch_is_put_to_what_earlier_batches_retained(part: Part, problem: Problem) -> None:
    requests = batches(part, 3)
    seen = seen_by(part, problem, requests)
    left = part.shard.train
    for request, step in zip(requests, seen, strict=True):
        forget, retain = split_by_request(left, part.shard, request)
        assert len(forget) > 0
        assert as_set(step.shard.train) == as_set(left)
        assert as_set(step.forget) == as_set(forget)
        assert as_set(step.retain) == as_set(retain)
        left = retain
    assert as_set(left) == as_set(problem.retain)
    assert sum(step.num_forget for step in seen) == problem.num_forget


def test_the_graphs_of_a_batch_are_those_of_what_is_left_without_items_deleted_earlier(
    part: Part, problem: Problem
) -> None:
    requests = [make_request(items=REQUEST.items[:2]), replace(REQUEST, items=REQUEST.items[2:])]
    seen = seen_by(part, problem, requests)
    assert not len(seen[1].graph_with.item_item["text"].forward.to_dense()[REQUEST.items[:2]].nonzero())
    gone = np.zeros(0, dtype=np.int64)
    for request, step in zip(requests, seen, strict=True):
        after = np.union1d(gone, request.items)
        for graph, pairs, deleted in (
            (step.graph_with, step.shard.train, gone),
            (step.graph_without, step.retain, after),
        ):
            expected = build_graph(
                pairs, part.shard, part.item_neighbours, ALONE, deleted_items=deleted, dtype=torch.float64
            )
            assert torch.equal(graph.user_item.forward.to_dense(), expected.user_item.forward.to_dense())
            for modality, matrix in expected.item_item.items():
                assert torch.equal(graph.item_item[modality].forward.to_dense(), matrix.forward.to_dense())
        gone = after


def test_who_was_deleted_by_an_earlier_batch_is_out_of_the_lists_of_later_ones(part: Part, problem: Problem) -> None:
    requests = batches(part, 3)
    assert all(len(request.users) for request in requests[:2])
    seen = seen_by(part, problem, requests)
    for place, step in enumerate(seen):
        so_far = merged(requests[: place + 1])
        assert not np.isin(step.valid.users, so_far.users).any()
        assert not np.isin(step.test.items, so_far.items).any()
        assert as_set(step.valid) == as_set(without_subjects(part.shard.valid, part.shard, so_far))
        assert as_set(step.test) == as_set(without_subjects(part.shard.test, part.shard, so_far))
        assert as_set(step.shard.valid) == as_set(
            without_subjects(part.shard.valid, part.shard, merged(requests[:place] or [make_request()]))
        )


def test_edges_deleted_batch_by_batch_end_where_edges_deleted_at_once_do(part: Part, problem: Problem) -> None:
    model = build_model(part)
    once = candidate_of(model, problem)
    found = forget_in_sequence(
        EDGE_DELETION,
        model,
        batches(part, 4),
        problem,
        EdgeDeletionSettings(),
        tools_of(part),
        item_neighbours=part.item_neighbours,
    )
    assert torch.equal(found.users, once.users)
    assert torch.equal(found.items, once.items)
    outcome = measure(once.users, once.items, problem, ALONE)
    last = found.history[-1]
    assert last["valid_recall20"] == pytest.approx(outcome.valid.recall)
    assert last["test_recall20"] == pytest.approx(outcome.test.recall)
    assert last["forget_recall20"] == pytest.approx(outcome.forget.recall)
    assert [row["batch"] for row in found.history] == [1, 2, 3, 4]


def test_the_history_counts_all_pairs_forgotten_so_far(part: Part, problem: Problem) -> None:
    requests, model = batches(part, 3), build_model(part)
    found = forget_in_sequence(
        EDGE_DELETION,
        model,
        requests,
        problem,
        EdgeDeletionSettings(),
        tools_of(part),
        item_neighbours=part.item_neighbours,
    )
    for place, row in enumerate(found.history):
        so_far = problem_of(part, merged(requests[: place + 1]))
        candidate = candidate_of(model, so_far)
        outcome = measure(candidate.users, candidate.items, so_far, ALONE)
        assert row["forget_recall20"] == pytest.approx(outcome.forget.recall)
        assert row["test_recall20"] == pytest.approx(outcome.test.recall)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_drift_does_not_depend_on_the_workers(world_size: int) -> None:
    def drift(num_workers: int) -> list[list[dict[str, float]]]:
        parts = shards_of(tiny_world(), num_workers)

        def body(collective: Collective) -> list[dict[str, float]]:
            own = parts[collective.rank]
            found = forget_in_sequence(
                EDGE_DELETION,
                build_model(own),
                batches(own, 3, collective),
                problem_of(own, REQUEST, collective),
                EdgeDeletionSettings(),
                tools_of(own),
                item_neighbours=own.item_neighbours,
            )
            return [{name: value for name, value in row.items() if name != "seconds"} for row in found.history]

        return in_threads(num_workers, body)

    (alone,) = drift(1)
    assert len(alone) == 3
    for found in drift(world_size):
        assert found == [pytest.approx(row) for row in alone]


def test_a_method_of_several_models_cannot_go_on(part: Part, problem: Problem) -> None:
    several = Method(
        title="Shards",
        settings_type=EdgeDeletionSettings,
        forget=lambda original, problem, settings, tools: replace(candidate_of(original, problem), model=None),
    )
    with pytest.raises(ConfigError, match="Shards adds the scores of several models"):
        forget_in_sequence(
            several,
            build_model(part),
            [REQUEST],
            problem,
            EdgeDeletionSettings(),
            tools_of(part),
            item_neighbours=part.item_neighbours,
        )


def test_batches_of_another_request_are_refused(part: Part, problem: Problem) -> None:
    for requests in (batches(part, 3)[:2], [REQUEST, make_request(items=np.array([8]))]):
        with pytest.raises(AuditError, match="Part the same request"):
            seen_by(part, problem, requests)
    with pytest.raises(ConfigError, match="at least one batch"):
        seen_by(part, problem, [])


def test_the_state_of_an_interrupted_run_is_no_batchs(part: Part, problem: Problem) -> None:
    given: list[Tools] = []

    def forget(original: Backbone, problem: Problem, settings: Settings, tools: Tools) -> Candidate:
        given.append(tools)
        return candidate_of(original, problem)

    tools = replace(tools_of(part), state=TrainingState(seconds=100.0), on_epoch=lambda state: None)
    found = forget_in_sequence(
        Method("Recorder", EdgeDeletionSettings, forget),
        build_model(part),
        batches(part, 2),
        problem,
        EdgeDeletionSettings(),
        tools,
        item_neighbours=part.item_neighbours,
    )
    assert [(found.state, found.on_epoch) for found in given] == [(None, None)] * 2
    assert found.seconds < 100
