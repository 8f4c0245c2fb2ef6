"""How each stage of a task is carried out: training, any method through its one contract, measuring, shadow models."""

import time
from collections.abc import Callable
from typing import Any, assert_never

import torch
from torch import Tensor

from tru_core.artifact import sha256_hex
from tru_core.backbones import Backbone
from tru_core.errors import ConfigError, DataError
from tru_core.fit import FitSettings, TrainingState, fit, parameter_values
from tru_core.problem import evaluate
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Tools
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.parsing import parse
from workflows.running.checkpoints import fresh_suffix
from workflows.running.measuring import (
    cost_figures,
    forget_batches,
    inside_figures,
    judge,
    outcome_figures,
    pack_lists,
    sampled_lists,
    warm_up,
)
from workflows.running.results import Results, StageResult
from workflows.running.shadow_models import Look, train_shadow
from workflows.running.task_context import TaskContext
from workflows.running.worker_data import read_batches
from workflows.storage import FileEntry, put_file
from workflows.storage.object_keys import stage_lists_key
from workflows.tasks import Fit, Forget, Measure, Shadow, Stage

OnProgress = Callable[[str, TrainingState, int], None]
"""``(stage, state, epochs at most)``, on every worker after each epoch."""


def run_stage(context: TaskContext, stage: Stage, *, earlier: Results, on_progress: OnProgress) -> StageResult:
    """Carry out a stage.

    Args:
        earlier: The results of the task's earlier stages.

    Raises:
        ConfigError: If it starts from a model that nobody made.
        DataError: If a model is to be published that forgets nothing.
        Whatever training or the method raises.
    """
    match stage:
        case Fit():
            return _fit(context, stage, on_progress)
        case Forget():
            return _forget(context, stage, earlier, on_progress)
        case Measure():
            return _measure(context, stage, earlier)
        case Shadow():
            return _shadow(context, stage)
        case _:
            assert_never(stage)


def most_epochs(settings: Settings, fit_settings: FitSettings) -> int:
    """After how many epochs or rounds a method ends at the latest, for whoever watches."""
    if isinstance(settings, TRUSettings):
        return -(-settings.reverse_steps // settings.round_steps)
    own = getattr(settings, "epochs", None) if "epochs" in type(settings).model_fields else None
    return own or fit_settings.max_epochs


def _fit(context: TaskContext, stage: Fit, on_progress: OnProgress) -> StageResult:
    problem, settings, shard = context.problem, context.task.job.fit, context.data.shard
    model = context.new_model(settings.seed)
    resumed, keep = context.checkpoints(stage, model)

    def on_epoch(state: TrainingState) -> None:
        keep(state)
        on_progress(stage.name, state, settings.max_epochs)

    state = fit(
        model,
        problem.graph_with,
        shard,
        shard.train,
        settings,
        valid=shard.valid,
        state=resumed,
        on_epoch=on_epoch,
    )
    return StageResult(
        seconds=state.seconds,
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        history=state.history,
        model=context.save_model(stage, model),
        **_recalls(context, model, edges_in=True),
    )


def _forget(context: TaskContext, stage: Forget, earlier: Results, on_progress: OnProgress) -> StageResult:
    """Run a method on the model that a stage starts from."""
    job, problem = context.task.job, context.problem
    has_subjects = len(problem.request.users) + len(problem.request.items) > 0
    if not stage.is_compared and not problem.num_forget and not has_subjects:
        raise DataError("the request names no training interaction of this snapshot: there is nothing to forget")
    method = METHODS[stage.method]
    settings = parse(method.settings_type, stage.settings, where=f"settings of {stage.method}")
    original = context.source(stage, earlier)
    before = parameter_values(original) if stage.is_compared and stage.source is not None else None
    resumed, keep = context.checkpoints(stage, original)
    seconds_aside, max_epochs = 0.0, most_epochs(settings, job.fit)

    def on_epoch(state: TrainingState) -> None:
        nonlocal seconds_aside
        started = time.perf_counter()
        keep(state)
        on_progress(stage.name, state, max_epochs)
        seconds_aside += time.perf_counter() - started

    tools = Tools(new_model=context.new_model, fit=job.fit, state=resumed, on_epoch=on_epoch)
    in_batches = stage.is_compared and stage.method != "retrain"
    batches = read_batches(context.task, problem) if in_batches else [problem.request]
    warm_up()
    candidate = forget_batches(
        method, original, batches, problem, settings, tools, neighbours=context.data.item_neighbours
    )
    if stage.is_compared:
        return _compared(context, stage, candidate, before, seconds_aside=seconds_aside)
    return _publishable(context, stage, candidate, seconds_aside=seconds_aside)


def _publishable(context: TaskContext, stage: Forget, candidate: Candidate, *, seconds_aside: float) -> StageResult:
    """Keep the model that a method left, and measure what a person asks for."""
    if candidate.model is None:
        raise ConfigError(
            f"{METHODS[stage.method].title} left no single model: nothing can be published. Its has_one_model says "
            "otherwise. Nothing was published."
        )
    cost = cost_figures(candidate, seconds_aside=seconds_aside)
    history = candidate.history
    epochs = int(history[-1].get("epoch", len(history))) if history else 0
    best = {} if candidate.best_epoch is None else {"best_epoch": candidate.best_epoch}
    return StageResult(
        **cost | {"epochs": epochs} | best,
        model=context.save_model(stage, candidate.model),
        **_recalls(context, candidate.model, edges_in=False),
    )


def _compared(
    context: TaskContext,
    stage: Forget,
    candidate: Candidate,
    before: dict[str, Tensor] | None,
    *,
    seconds_aside: float,
) -> StageResult:
    """Measure a method's candidate by all that a comparison asks for.

    Args:
        before: The Original's values; None where there is none.
    """
    inside = inside_figures(candidate.model, before, context.problem.graph_without, context.collective)
    kept: dict[str, FileEntry] = {}
    if stage.keeps and candidate.model is not None:
        kept["model"] = context.save_model(stage, candidate.model)
    elif stage.keeps:
        kept["look"] = context.save_look(stage, Look((candidate.users, candidate.items)))
    judged = _judged(context, stage, candidate.users, candidate.items)
    cost = cost_figures(candidate, seconds_aside=seconds_aside)
    return StageResult(**cost, **inside, **kept, **judged)


def _measure(context: TaskContext, stage: Measure, earlier: Results) -> StageResult:
    graph = context.problem.graph_with
    model = context.source(stage, earlier)
    with torch.no_grad():
        users, items = model.embeddings(graph)
    inside = inside_figures(model, None, graph, context.collective)
    return StageResult(seconds=0.0, history=[], **inside, **_judged(context, stage, users, items))


def _shadow(context: TaskContext, stage: Shadow) -> StageResult:
    """Train one of an audit's shadow models and keep a look at it."""
    look, figures = train_shadow(
        stage,
        context.problem,
        context.data.item_neighbours,
        new_model=context.new_model,
        settings=context.task.job.fit,
    )
    entry = context.save_look(stage, look, members_sha256=figures["members_sha256"])
    return StageResult(**figures, look=entry)


def _judged(context: TaskContext, stage: Stage, users: Tensor, items: Tensor) -> dict[str, Any]:
    """Measure output vectors, and keep the lists that they give to a sample of retained users."""
    key = stage_lists_key(context.task.run_id, stage.name, fresh_suffix(context.collective))
    body = pack_lists(sampled_lists(users, items, context.problem))
    entry = FileEntry(key=key, size_bytes=len(body), sha256=sha256_hex(body))
    if context.collective.rank == 0:
        put_file(context.store, key, body)
    return judge(users, items, context.problem, context.probe) | {"lists": entry}


def _recalls(context: TaskContext, model: Backbone, *, edges_in: bool) -> dict[str, Any]:
    """Recalls of held-out pairs, and of those to be forgotten where there are some."""
    figures: dict[str, Any] = outcome_figures(evaluate(model, context.problem, edges_in=edges_in))
    figures["num_forget"] = context.problem.num_forget
    if not context.problem.num_forget:
        figures = {name: value for name, value in figures.items() if not name.startswith("forget")}
    return figures
