"""The statistics behind a verdict, where the right answer is known without any model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.audit_cases import audit_world, with_request
from tru_core.audits.base import AUDIT_VERSION, AuditCase, Measurement, System
from tru_core.audits.neighbours import jaccard, rank_biased_overlap
from tru_core.audits.pair_ranks import pair_ranks, rank_among
from tru_core.audits.shadows import draw_members, shadow_train_pairs, subjects_of
from tru_core.audits.statistics import clustered_error, placements
from tru_core.audits.verdict import judge
from tru_core.errors import ConfigError, DataError
from tru_core.interactions import make_request, select
from tru_core.student import student_quantile

MEMORY = Measurement(
    attack="memory",
    paper="none",
    statistic="memory",
    aspect="shared",
    value=0.5,
    original=0.9,
    references=(0.49, 0.5, 0.52),
    error=0.01,
    num_cases=100,
    shows_not="Nothing.",
    seed_error=0.015,
)
SUBJECT = replace(MEMORY, attack="subject", aspect="subject")


def verdict_of(*measurements: Measurement) -> str:
    return judge(measurements, num_retrains=3, num_shadows=0).verdict


def test_a_value_among_the_retrains_passes_and_one_outside_fails_on_either_side():
    assert verdict_of(MEMORY, SUBJECT) == "passed"
    for value in (0.9, 0.7, 0.3, 0.1):
        verdict = judge([replace(MEMORY, value=value), SUBJECT], num_retrains=3, num_shadows=0)
        assert verdict.verdict == "failed"
        assert ("above" if value > 0.5 else "below") in verdict.findings[0].reason


def test_the_margin_is_that_of_the_version_s_rules():
    """Two Retrains' worth of freedom and four of the prior; 0.05 shared by two statistics, on two sides.

    Where this fails, AUDIT_VERSION has to be raised: stored audits and committed rows are told apart by it alone.
    """
    squares = float(np.square(MEMORY.references - np.mean(MEMORY.references)).sum())
    spread = ((squares + 4 * (0.015**2 + MEMORY.floor**2)) / 6) ** 0.5
    quantile = 2.9687  # Student's t, 6 degrees of freedom, 1 - 0.05 / 4
    finding = judge([MEMORY, SUBJECT], num_retrains=3, num_shadows=0).findings[0]
    assert (AUDIT_VERSION, finding.margin) == (2, pytest.approx(quantile * spread * (4 / 3) ** 0.5, rel=1e-4))


def test_an_attack_that_does_not_see_the_original_never_passes_anybody():
    blind = replace(MEMORY, original=0.51)
    verdict = judge([blind, SUBJECT], num_retrains=3, num_shadows=0)
    assert verdict.findings[0].verdict == "inconclusive"
    assert verdict.findings[0].positive_control is False
    assert verdict.verdict == "inconclusive"


def test_a_verdict_needs_the_subjects_and_what_is_shared():
    assert verdict_of(MEMORY) == "inconclusive"
    assert verdict_of(SUBJECT) == "inconclusive"
    assert judge([], num_retrains=3, num_shadows=0).verdict == "inconclusive"


def test_three_retrains_that_happen_to_agree_are_no_proof_of_a_narrow_band():
    agreeing = replace(MEMORY, references=(0.5, 0.5, 0.5))
    finding = judge([agreeing], num_retrains=3, num_shadows=0).findings[0]
    assert finding.margin > 2 * agreeing.seed_error
    assert finding.smallest_effect > finding.margin


def test_shadow_models_narrow_a_band_that_few_retrains_leave_wide():
    wide = judge([MEMORY], num_retrains=3, num_shadows=0).findings[0]
    narrow = judge([replace(MEMORY, deviations=(0.015, -0.015) * 8)], num_retrains=3, num_shadows=16).findings[0]
    assert narrow.margin < wide.margin


def test_shadow_models_that_lie_elsewhere_as_a_whole_widen_no_band():
    shadows = (0.015, -0.015) * 8
    near = replace(MEMORY, deviations=shadows)
    far = replace(MEMORY, deviations=tuple(value + 0.4 for value in shadows))
    margins = [judge([m], num_retrains=3, num_shadows=16).findings[0].margin for m in (near, far)]
    assert margins[0] == pytest.approx(margins[1])


def test_the_more_statistics_bear_a_verdict_the_wider_each_margin():
    alone = judge([MEMORY], num_retrains=3, num_shadows=0).findings[0]
    among = judge([MEMORY] * 10, num_retrains=3, num_shadows=0).findings[0]
    assert among.margin > alone.margin


def test_a_retrain_outside_the_others_band_makes_the_attack_tell_nothing():
    finding = judge([replace(MEMORY, references=(0.49, 0.5, 0.8, 0.5, 0.5))], num_retrains=5, num_shadows=0).findings[0]
    assert finding.negative_control is False
    assert finding.verdict == "inconclusive"


def test_at_most_one_retrain_in_ten_is_alarmed_about_and_a_shift_of_five_deviations_is_seen():
    generator = np.random.default_rng(0)
    alarms = seen = 0
    for _ in range(200):
        draws = generator.normal(0.5, 0.03, size=(6, 4))
        fair = [
            replace(MEMORY, value=v, references=tuple(r), seed_error=0.03)
            for v, r in zip(draws[:, 3], draws[:, :3], strict=True)
        ]
        alarms += any(f.verdict == "failed" for f in judge(fair, num_retrains=3, num_shadows=0).findings)
        shifted = [replace(m, value=m.value + 0.3) for m in fair]
        seen += judge(shifted, num_retrains=3, num_shadows=0).verdict == "failed"
    assert alarms <= 20
    assert seen >= 190


def test_few_retrains_and_numbers_that_are_none_are_refused():
    with pytest.raises(DataError, match="2 Retrains give no band"):
        judge([MEMORY], num_retrains=2, num_shadows=0)
    with pytest.raises(DataError, match="not finite"):
        judge([replace(MEMORY, value=float("nan"))], num_retrains=3, num_shadows=0)


def test_the_privacy_of_those_who_stay_may_not_fall():
    stay = replace(MEMORY, aspect="retained", value=0.71, original=0.7, references=(0.69, 0.7, 0.7), seed_error=0.002)
    worse = replace(stay, value=0.8)
    better = replace(stay, value=0.5)
    found = judge([stay, worse, better], num_retrains=3, num_shadows=0).findings
    assert [finding.verdict for finding in found] == ["passed", "failed", "passed"]


def test_student_quantiles_are_those_of_the_tables():
    for probability, degrees, expected in ((0.975, 2, 4.3027), (0.975, 10, 2.2281), (0.995, 5, 4.0321)):
        assert student_quantile(probability, degrees) == pytest.approx(expected, rel=1e-3)
    assert student_quantile(0.975, 1e4) == pytest.approx(1.96, abs=1e-3)


def test_values_of_one_subject_count_as_one():
    values = np.array([0.0, 1.0, 1.0, 0.0])
    apart = clustered_error(values, np.arange(4))
    assert apart == pytest.approx(values.std(ddof=1) / 2)
    assert clustered_error(np.repeat(values, 5), np.repeat(np.arange(4), 5)) == pytest.approx(apart)
    assert clustered_error(values, np.zeros(4, dtype=np.int64)) == 0.0


def test_pairs_that_share_a_row_hang_together():
    generator = np.random.default_rng(1)
    first, second = np.triu_indices(40, k=1)
    means, errors = [], []
    for _ in range(300):
        rows = generator.normal(size=40)
        values = rows[first] + rows[second]
        means.append(values.mean())
        errors.append(clustered_error(values, np.stack([first, second], axis=1)))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_placements_average_to_the_auc():
    assert placements(np.array([1.0, 2.0, 3.0]), np.array([2.0])).tolist() == [0.0, 0.5, 1.0]
    assert placements(np.array([1.0]), np.zeros(0)).tolist() == [0.5]


def test_rank_biased_overlap_weighs_the_top_and_jaccard_does_not():
    lists = np.array([[0, 1, 2, 3]] * 3)
    others = np.array([[0, 1, 2, 3], [0, 1, 8, 9], [8, 9, 2, 3]])
    overlap = rank_biased_overlap(lists, others)
    assert overlap[0] == pytest.approx(1.0)
    assert overlap[1] > 2 * overlap[2]
    assert jaccard(lists, others).tolist() == pytest.approx([1.0, 1 / 3, 1 / 3])


def test_each_subject_is_whole_in_half_of_the_shadow_models():
    world = audit_world()
    problem = world.problem
    members, subjects = draw_members(problem, num_shadows=6, seed=1), subjects_of(world.problem)
    assert (members.sum(axis=0) == 3).all()
    for subject in np.unique(subjects):
        own = members[:, subjects == subject]
        assert (own == own[:, :1]).all()
    assert len(np.unique(members, axis=1).T) > 5
    pairs = shadow_train_pairs(problem, members[0])
    assert len(pairs) == len(problem.retain) + members[0].sum()
    with pytest.raises(ConfigError, match="even number"):
        draw_members(problem, num_shadows=5, seed=1)


def test_the_subjects_of_deleted_items_are_the_items():
    world = audit_world()
    of_items = with_request(world.planted, world.part, make_request(items=np.array([4, 9])))
    assert sorted(set(subjects_of(of_items.problem))) == [4, 9]


def test_a_rank_is_among_items_as_popular_that_the_user_never_had(case_of_scores):
    system, case, pairs = case_of_scores
    ranked = rank_among(pairs, case)
    ranks = pair_ranks(system, ranked)
    assert ranks == pytest.approx(np.full(len(pairs), 1.0))
    hidden = replace(system, hidden=select(pairs, np.arange(len(pairs)) == 0))
    assert pair_ranks(hidden, ranked)[0] == 0.0
    even = replace(system, users=system.users * 0.0)
    assert pair_ranks(even, ranked) == pytest.approx(np.full(len(pairs), 0.5))


@pytest.fixture
def case_of_scores():
    """A system that puts each user's own items first: one column for each item."""
    world = audit_world()
    shard = world.part.shard
    users = torch.zeros((shard.num_users, shard.num_items))
    for part in (shard.train, shard.valid, shard.test):
        users[torch.from_numpy(part.users), torch.from_numpy(part.items)] = 1.0
    system = System("knows all", 0, users, torch.eye(shard.num_items))
    return system, AuditCase(world.problem, system, system), world.problem.forget


def test_a_system_of_other_data_is_refused(case_of_scores):
    system, case, _ = case_of_scores
    with pytest.raises(DataError, match="the data set has"):
        replace(case, candidate=replace(system, users=system.users[:-1]))
