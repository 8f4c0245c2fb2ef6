"""Examining one candidate: read the systems of a case from storage, run every attack on all of them, judge.

One process that holds all users and items. What it hands back is plain JSON: verdict, findings with every statistic,
interval, band and control, and the digests of everything that was looked at, so that an auditor can do it again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from tru_core.audits.attacks import ATTACKS, optimised_by
from tru_core.audits.base import AuditCase, Measurement, Shadow, System, Trainer, system_of
from tru_core.audits.controls import masked, over_forgotten
from tru_core.audits.injection import INJECTION, injection_measurement
from tru_core.audits.shadows import draw_members
from tru_core.audits.verdict import judge
from tru_core.errors import ConfigError, DataError, IntegrityError
from tru_core.problem import measure
from tru_core.settings import Settings
from workflows.config.audit import MASKED, OVER_FORGOTTEN
from workflows.running.measuring import outcome_figures
from workflows.running.shadow_models import Look, members_digest, read_look
from workflows.running.worker import TaskRun
from workflows.storage import FileEntry

Figures = dict[str, Any]
BROKEN = {MASKED: masked, OVER_FORGOTTEN: over_forgotten}


class Kept(Settings):
    """What a run kept of a system.

    Attributes:
        name, seed: What tables call it, and its training's seed.
        model: The model's manifest; None where several models' scores are added.
        look: The manifest of what was kept where there is no whole model.
        broken: What is done to it on purpose: a name of :data:`BROKEN`.
    """

    name: str
    seed: NonNegativeInt
    model: FileEntry | None = None
    look: FileEntry | None = None
    broken: Literal["", "masked", "over_forgotten"] = ""


class ExamineSettings(Settings):
    """One examination.

    Attributes:
        original, candidate, retrains: The systems.
        shadows: What was kept of the shadow models, in the order of their numbers, drawn with ``seed``.
        method: What made the candidate, by name; empty where nobody says.
        is_retrained: It was trained without the data: it saw nothing that is planted either.
        fresh_seeds: Seeds from which the method says that it drew the fresh rows of deleted subjects.
        attacks: Names; empty: all.
        seed: The auditor's.
        planted_original, planted_candidate: What was trained on planted data, and what the method made of it.
    """

    original: Kept
    candidate: Kept
    retrains: list[Kept] = Field(default_factory=list)
    shadows: list[FileEntry] = Field(default_factory=list)
    method: str = ""
    is_retrained: bool = False
    fresh_seeds: list[NonNegativeInt] = Field(default_factory=list)
    attacks: list[str] = Field(default_factory=list)
    seed: NonNegativeInt
    planted_original: Kept | None = None
    planted_candidate: Kept | None = None


def check_attacks(names: Sequence[str]) -> None:
    """Check that there are attacks of these names.

    Raises:
        ConfigError: If one is unknown.
    """
    for name in names:
        if name not in ATTACKS:
            raise ConfigError(f"audit.attacks: {name!r} is unknown; choose of {', '.join(sorted(ATTACKS))}")


def read_system(run: TaskRun, kept: Kept) -> System:
    """Read what was kept of a system and look at it on the graph without the deleted edges.

    Raises:
        DataError: If nothing was kept, or the model is of other data or another backbone.
        IntegrityError: If a file differs from its digest.
    """
    if kept.model is not None:
        system = system_of(run.load_model(kept.model), run.problem, name=kept.name, seed=kept.seed)
    elif kept.look is not None:
        look = read_look(run.store, kept.look, user_rows=run.data.shard.user_rows, collective=run.collective)
        system = _system_of_look(run, look, name=kept.name, seed=kept.seed)
    else:
        raise DataError(f"audit: nothing was kept of {kept.name}. Run the same command again.")
    return BROKEN[kept.broken](system, run.problem) if kept.broken else system


def _system_of_look(run: TaskRun, look: Look, *, name: str, seed: int) -> System:
    tables = dict(look.user_tables) | dict(look.item_tables)
    anatomy = run.new_model(seed).anatomy if tables else None
    return System(name, seed, *look.vectors, look.branches or None, parameters=tables or None, anatomy=anatomy)


def _read_shadows(run: TaskRun, asked: ExamineSettings) -> tuple[Shadow, ...]:
    if not asked.shadows:
        return ()
    members = draw_members(run.problem, num_shadows=len(asked.shadows), seed=asked.seed)
    found = []
    for number, entry in enumerate(asked.shadows):
        look = read_look(run.store, entry, user_rows=run.data.shard.user_rows, collective=run.collective)
        if look.members_sha256 != members_digest(run.problem, members[number]):
            raise IntegrityError(
                f"{entry.key}: shadow model {number + 1} was trained on other subjects than today's draw says. Nothing "
                "was judged. Change audit.seed, so that shadow models are trained anew."
            )
        found.append(Shadow(_system_of_look(run, look, name=f"shadow {number + 1}", seed=number), members[number]))
    return tuple(found)


def make_case(run: TaskRun, asked: ExamineSettings) -> AuditCase:
    """Read every system of an examination."""
    return AuditCase(
        problem=run.problem,
        original=read_system(run, asked.original),
        candidate=read_system(run, asked.candidate),
        retrains=tuple(read_system(run, kept) for kept in asked.retrains),
        shadows=_read_shadows(run, asked),
        optimised=optimised_by(asked.method, run.problem),
        trainer=Trainer(new_model=run.new_model, fit=run.task.job.fit),
        fresh_seeds=tuple(asked.fresh_seeds),
        seed=asked.seed,
    )


def _injection(run: TaskRun, case: AuditCase, asked: ExamineSettings, planted: TaskRun) -> list[Measurement]:
    """Ask the planted models for what was planted, and those of the real data, which never saw it."""
    if asked.planted_original is None or asked.planted_candidate is None or planted.planting is None:
        return []
    return injection_measurement(
        planted.planting,
        original=read_system(planted, asked.planted_original),
        candidate=case.candidate if asked.is_retrained else read_system(planted, asked.planted_candidate),
        never_seen=(case.original, *case.retrains),
        masked=planted.problem.retain,
        optimised=INJECTION in case.optimised,
    )


def _recalls(case: AuditCase) -> Figures:
    """What each system is good for, beside what it knows: the price of forgetting."""

    def recalls(system: System) -> Figures:
        collective = case.problem.graph_without.collective
        figures = outcome_figures(measure(system.users, system.items, case.problem, collective))
        return {name: figures[name] for name in ("test_recall20", "forget_recall20")}

    return {
        "original": recalls(case.original),
        "candidate": recalls(case.candidate),
        "retrains": [recalls(system) for system in case.retrains],
    }


def _inputs(run: TaskRun, asked: ExamineSettings) -> Figures:
    """Digests of all that was looked at, by what it is."""
    systems: Mapping[str, Kept | None] = {
        "original": asked.original,
        "candidate": asked.candidate,
        "planted_original": asked.planted_original,
        "planted_candidate": asked.planted_candidate,
    } | {f"retrain_seed_{kept.seed}": kept for kept in asked.retrains}
    entries = {name: kept.model or kept.look for name, kept in systems.items() if kept is not None}
    entries |= {f"shadow_{number}": entry for number, entry in enumerate(asked.shadows)}
    entries["snapshot"] = run.task.snapshot
    if run.task.request is not None:
        entries["request"] = run.task.request
    return {name: entry.model_dump(mode="json") for name, entry in entries.items() if entry is not None}


def examine(run: TaskRun, asked: ExamineSettings, planted: TaskRun | None = None) -> Figures:
    """Run the attacks on a case and judge.

    Args:
        run: The real data, in one process.
        planted: The planted data, where the injection audit is asked for.

    Returns:
        ``verdict``, ``reference``, ``reason``, ``findings`` (flat), ``recalls`` of each system, ``inputs`` with
        digests, ``seconds`` by attack, and counts.

    Raises:
        ConfigError: If an attack is unknown.
        DataError: If a system or measurement cannot be judged.
    """
    check_attacks(asked.attacks)
    case = make_case(run, asked)
    attacks: dict[str, Callable[[], list[Measurement]]] = {
        name: lambda attack=attack: attack.measure(case)
        for name, attack in ATTACKS.items()
        if not asked.attacks or name in asked.attacks
    }
    if planted is not None:
        attacks[INJECTION] = lambda: _injection(run, case, asked, planted)
    measurements, seconds = [], {}
    for name, attack in attacks.items():
        started = time.perf_counter()
        measurements += attack()
        seconds[name] = time.perf_counter() - started
    verdict = judge(measurements, num_retrains=len(case.retrains), num_shadows=len(case.shadows))
    return {
        "candidate": asked.candidate.name,
        "method": asked.method,
        "verdict": verdict.verdict,
        "reference": verdict.reference,
        "reason": verdict.reason,
        "findings": verdict.rows(),
        "recalls": _recalls(case),
        "num_forget": case.problem.num_forget,
        "num_retrains": verdict.num_retrains,
        "num_shadows": verdict.num_shadows,
        "optimised": sorted(case.optimised),
        "audit_seed": asked.seed,
        "audit_version": verdict.version,
        "inputs": _inputs(run, asked),
        "seconds_by_attack": seconds,
        "seconds": sum(seconds.values()),
    }
