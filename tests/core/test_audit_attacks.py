"""The audit as a whole, in a world whose truth is known: what must fail fails, and a Retrain with a new seed passes."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import audit_cases
from tests.audit_cases import AuditWorld, audit_world, case_of, with_request
from tru_core.audits.attacks import ATTACKS, GATE_ATTACKS, audit, optimised_by
from tru_core.audits.base import AuditCase, Finding, System, Verdict
from tru_core.audits.branch_probe import BRANCH_PROBE
from tru_core.audits.forget_ranks import FORGET_RANKS
from tru_core.audits.neighbours import NEIGHBOURS
from tru_core.audits.optimizer_state import OPTIMIZER_STATE
from tru_core.audits.relearning import RELEARNING
from tru_core.audits.residue import RESIDUE
from tru_core.interactions import make_request
from tru_core.measures.residue import make_probe

NUM_NEW_SEEDS = 4


@pytest.fixture(scope="module")
def world() -> AuditWorld:
    return audit_world()


@pytest.fixture(scope="module")
def case(world: AuditWorld) -> AuditCase:
    """Nothing was done. Three Retrains and 16 shadow models stand by."""
    retrains = tuple(audit_cases.retrain_of(world, seed) for seed in (1, 2, 3))
    return case_of(world, audit_cases.original_of(world), retrains, audit_cases.shadows_of(world))


@pytest.fixture(scope="module")
def new_seeds(world: AuditWorld) -> list[System]:
    """Retrains that are no reference: perfect candidates."""
    return [audit_cases.retrain_of(world, seed) for seed in range(11, 11 + NUM_NEW_SEEDS)]


@pytest.fixture(scope="module")
def nothing_done(case: AuditCase) -> Verdict:
    return audit(case)


@pytest.fixture(scope="module")
def rows_reset(world: AuditWorld, case: AuditCase) -> Verdict:
    return audit(replace(case, candidate=audit_cases.row_reset(world, case.original)))


def findings_of(verdict: Verdict, attack: str) -> Iterator[Finding]:
    return (finding for finding in verdict.findings if finding.attack == attack)


def test_what_the_planted_user_did_to_one_item_stands_in_the_original_and_in_no_retrain(world, case):
    planted = world.planted

    def shift(system: System) -> float:
        untrained = audit_cases.new_model(world, system.seed).get_parameter("item_table").detach()
        rows = [table[planted.planted_item] for table in (system.parameters["item_table"], untrained)]
        return float((rows[0] - rows[1]).norm() / rows[1].norm())

    assert shift(case.original) > 0.5
    assert shift(audit_cases.row_reset(world, case.original)) == shift(case.original)
    assert [shift(retrain) for retrain in case.retrains] == [0.0, 0.0, 0.0]


def test_doing_nothing_fails_and_every_memory_is_seen_in_the_original(nothing_done):
    assert nothing_done.verdict == "failed"
    assert nothing_done.reference == "retrain"
    failed = {finding.attack for finding in nothing_done.findings if finding.verdict == "failed"}
    assert {"optimizer_state", "forget_ranks", "residue", "membership_lists", "membership_lira", "relearning"} <= failed
    for finding in nothing_done.findings:
        assert finding.negative_control is not False
        if finding.verdict == "failed":
            assert finding.positive_control


def test_hiding_the_items_in_the_output_only_fails(world, case):
    verdict = audit(replace(case, candidate=audit_cases.masked(world, case.original)))
    assert verdict.verdict == "failed"
    (ranks,) = findings_of(verdict, "forget_ranks")
    assert ranks.verdict == "failed"
    assert ranks.value < ranks.reference_value - ranks.margin
    assert all(found.verdict == "failed" for found in findings_of(verdict, "residue"))


def test_resetting_rows_passes_what_asks_of_the_subjects_and_fails_what_is_shared(rows_reset):
    assert rows_reset.verdict == "failed"
    verdicts = {(f.attack, f.aspect): f.verdict for f in rows_reset.findings}
    assert verdicts["optimizer_state", "exact"] == "passed"
    assert verdicts["forget_ranks", "subject"] == "passed"
    assert verdicts["membership_lira", "subject"] == "passed"
    assert verdicts["residue", "shared"] == "failed"
    assert verdicts["membership_lira", "shared"] == "failed"


@pytest.mark.parametrize("number", range(NUM_NEW_SEEDS))
def test_a_retrain_with_a_new_seed_passes(case, new_seeds, number):
    verdict = audit(replace(case, candidate=new_seeds[number]))
    assert verdict.verdict == "passed", verdict.reason
    assert not [finding for finding in verdict.findings if finding.verdict == "failed"]


def test_pushing_forgotten_scores_far_below_a_retrain_fails(world, case, new_seeds):
    quick = {"forget_ranks": FORGET_RANKS, "residue": RESIDUE}
    verdict = audit(replace(case, candidate=audit_cases.over_forgotten(world, new_seeds[0])), quick)
    (ranks,) = findings_of(verdict, "forget_ranks")
    assert (verdict.verdict, ranks.verdict) == ("failed", "failed")
    assert "below" in ranks.reason


def test_pushing_forgotten_company_apart_fails_as_what_is_left_of_it_does(world, case, new_seeds):
    pairs = make_probe(world.problem, seed=3).forgotten.pairs
    candidate = audit_cases.pushed_apart(world, new_seeds[0], pairs.first, pairs.second)
    verdict = audit(replace(case, candidate=candidate), {"residue": RESIDUE})
    output = next(findings_of(verdict, "residue"))
    assert output.verdict == "failed"
    assert "below" in output.reason


def test_without_a_retrain_the_weaker_reference_is_named_and_memory_still_fails(world, case):
    alone = replace(case, retrains=(), shadows=())
    assert audit(alone).verdict == "failed"
    verdict = audit(replace(alone, candidate=audit_cases.row_reset(world, case.original)))
    assert (verdict.verdict, verdict.reference) == ("failed", "never_seen")
    assert all(found.verdict == "failed" for found in findings_of(verdict, "residue"))


def test_what_the_method_optimised_can_fail_it_and_cannot_pass_it_alone(case, new_seeds):
    quick = {"forget_ranks": FORGET_RANKS, "residue": RESIDUE}
    fresh = replace(case, candidate=new_seeds[0])
    assert audit(fresh, quick).verdict == "passed"
    verdict = audit(replace(fresh, optimised=frozenset({"residue"})), quick)
    assert verdict.verdict == "inconclusive"
    assert "what is shared" in verdict.reason
    assert all(found.is_optimised for found in findings_of(verdict, "residue"))
    assert audit(replace(case, optimised=frozenset({"residue"})), quick).verdict == "failed"


def test_a_finding_is_plain_json_and_names_no_person(nothing_done):
    rows = json.loads(json.dumps(nothing_done.rows(), allow_nan=False))
    assert {row["attack"] for row in rows} == set(ATTACKS)
    assert all(not isinstance(value, dict | list) for row in rows for value in row.values())
    assert all(row["shows_not"].endswith(".") for row in rows)


def test_the_same_audit_gives_the_same_findings(case, nothing_done):
    again = audit(case, {name: ATTACKS[name] for name in ("membership_lists", "membership_lira", "residue")})
    before = {(f.attack, f.statistic): f.value for f in nothing_done.findings}
    for finding in again.findings:
        assert finding.value == before[finding.attack, finding.statistic]


def test_a_list_says_who_was_a_member_and_few_non_members_give_no_rate(nothing_done):
    (lists,) = findings_of(nothing_done, "membership_lists")
    assert lists.details["attack_auc_on_shadow_models"] > 0.9
    assert lists.details["balanced_accuracy"] > 0.9
    for finding in findings_of(nothing_done, "membership_lira"):
        assert finding.details["num_non_members"] == 16 * 8
        assert not [name for name in finding.details if name.startswith("tpr")]
        assert finding.details["worst_1pct_member_probability"] > 0.9


def test_relearning_needs_fewer_steps_where_something_stayed(case, rows_reset):
    (reset,) = findings_of(rows_reset, "relearning")
    assert reset.aspect == "shared"
    assert reset.details["steps"] == reset.details["steps_of_original"]
    assert 0 < reset.details["steps"] < 0.8 * reset.details["mean_steps_of_retrains"]


def test_a_kept_moment_of_a_deleted_row_is_found(world, case):
    clean = audit_cases.row_reset(world, case.original)
    assert OPTIMIZER_STATE.measure(replace(case, candidate=clean))[0].value == 0
    kept = {name: torch.zeros_like(moment) for name, moment in case.original.moments.items()}
    kept["exp_avg/user_table"][world.planted.planted_user, 3] = 1e-12
    (found,) = OPTIMIZER_STATE.measure(replace(case, candidate=replace(clean, moments=kept)))
    assert (found.details["in_tables"], found.details["in_moments"]) == (0, 1)


def test_a_deleted_row_that_is_nearly_fresh_is_not_fresh(world, case):
    clean = audit_cases.row_reset(world, case.original)
    table = clean.parameters["user_table"].clone()
    table[world.planted.planted_user, 0] += 1e-6
    (found,) = OPTIMIZER_STATE.measure(replace(case, candidate=replace(clean, parameters={"user_table": table})))
    assert found.value == 1


def test_a_candidate_without_a_single_model_is_audited_by_its_vectors(case):
    bare = {"parameters": None, "anatomy": None, "branches": None, "moments": None}
    several = replace(case, candidate=replace(case.candidate, **bare))
    assert not OPTIMIZER_STATE.measure(several)
    assert not RELEARNING.measure(several)
    assert [m.statistic.rsplit(", ", 1)[1] for m in RESIDUE.measure(several)] == ["output vectors"]
    assert [m.aspect for m in BRANCH_PROBE.measure(several)] == ["shared"]


def test_a_probe_reads_forgotten_interactions_from_the_users_vectors_and_not_from_a_retrains(world):
    planted, train = world.planted, world.part.shard.train
    drawn = np.arange(0, len(train), 12)
    request = make_request(pair_users=train.users[drawn], pair_items=train.items[drawn])
    asked = with_request(planted, world.part, request)
    retrains = tuple(audit_cases.retrain_of(asked, seed) for seed in (1, 2))
    original = audit_cases.original_of(asked)
    (found,) = (m for m in BRANCH_PROBE.measure(case_of(asked, original, retrains)) if m.aspect == "subject")
    assert found.original > 0.1 + max(found.references)
    assert abs(np.mean(found.references)) < 0.1


def test_what_a_method_optimises_depends_on_who_is_forgotten(world):
    assert optimised_by("tru", world.problem) == {"residue"}
    one = make_request(pair_users=np.array([0]), pair_items=world.part.shard.train.items[:1])
    assert optimised_by("tru", with_request(world.planted, world.part, one).problem) == {"residue", "forget_ranks"}
    assert not optimised_by("retrain", world.problem)
    assert set(GATE_ATTACKS) < set(ATTACKS)


def test_closeness_to_a_retrain_bears_no_verdict(case):
    measurements = NEIGHBOURS.measure(case)
    assert {m.aspect for m in measurements} == {"reported"}
    assert all(len(m.references) == 3 for m in measurements)
    near = [m for m in measurements if "near" in m.statistic]
    assert len(near) == 3
    assert all(np.isfinite(m.value) for m in measurements)
