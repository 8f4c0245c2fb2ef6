"""What ``results.py`` measures: data sets x backbones x forget sets x seeds x methods, and what names a run's content.

No Ray: the page and its tests read the plan without starting anything.
"""

import fnmatch
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tru_core.artifact import sha256_hex
from tru_core.errors import ConfigError
from tru_core.settings import Settings
from tru_core.unlearning.ablations import ABLATIONS
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.compare import ORIGINAL, RETRAIN, CompareMethod, ForgetConfig
from workflows.config.job import JobConfig
from workflows.config.parsing import parse
from workflows.config.unlearn import named_settings
from workflows.running.measuring import JUDGE_SEED, MEASURES_VERSION
from workflows.running.runs import job_settings
from workflows.storage import canonical_json

Group = Literal["main", "shares", "selections", "single", "sequence"]

DATA_SETS = ("tiktok", "ml-latest-small-mm")
IMPORT_SETTINGS = {"neighbour_features": "standardised"}
BACKBONE_TITLES = {"mgcn": "MGCN", "mig_gt": "MIG-GT"}
BACKBONE_SETTINGS: dict[str, dict[str, Any]] = {
    "mgcn": {
        "backbone": {"name": "mgcn", "settings": {"contrastive_weight": 0.01, "regulariser_weight": 1e-4}},
        "fit": {"max_epochs": 80, "patience": 10, "batch_size": 2048},
    },
    "mig_gt": {
        "backbone": {"name": "mig_gt", "settings": {"hidden_size": 128, "regulariser_weight": 0.03}},
        "fit": {
            "learning_rate": 0.01,
            "decay_factor": 0.99,
            "decay_epochs": 1,
            "batch_size": 4096,
            "patience": 12,
            "max_epochs": 120,
        },
    },
}
GROUP_TITLES: dict[Group, str] = {
    "main": "5 % at random",
    "shares": "Smaller shares",
    "selections": "Who is forgotten",
    "single": "A single user",
    "sequence": "Ten batches, one after the other",
}

TRU, LITERAL = (
    CompareMethod(name="tru"),
    CompareMethod(name="algorithm_one"),
)
NUM_RETRAINS = 8
"""Retrains that span the band of a cell at 5 % at random. A further one falls inside in seven of nine cases."""
NUM_SHARDS = 5
"""Of SISA, RecEraser and UltraRE. Their sources have 10, for larger data: a tenth of TikTok is 6,000 pairs."""
_SHARDED = ("sisa", "rec_eraser", "ultra_re")
OTHERS = tuple(
    CompareMethod(name=name, settings={"num_shards": NUM_SHARDS} if name in _SHARDED else {})
    for name in (
        "edge_deletion",
        "row_reset",
        "row_refit",
        "repair_only",
        "gradient_ascent",
        "mmrecun",
        "multi_delete",
        "scale_gun",
        "scif",
        *_SHARDED,
    )
)
MAIN_METHODS = (*OTHERS, TRU, LITERAL)
FEW_METHODS = (*(method for method in OTHERS if method.name in ("edge_deletion", "row_reset", "row_refit")), TRU)
CHEAP_NAMES = ("edge_deletion", "row_reset", "row_refit", "gradient_ascent", "multi_delete")
CHEAP_METHODS = (*(method for method in OTHERS if method.name in CHEAP_NAMES), TRU)
ALONE = "alone"
"""The folder, beside the rows, of those that were measured for their seconds: one after the other, in one seed."""
SPEED_GROUPS: tuple[Group, ...] = ("main", "shares")
SPEED_WORDS = ("original", "retrain", *CHEAP_NAMES, "tru")
ABLATION_METHODS = tuple(
    CompareMethod(name=ablation.method, label=label, settings=ablation.settings)
    for label, ablation in ABLATIONS.items()
    if label != LITERAL.title
)


@dataclass(frozen=True)
class Cell:
    """One block of the page: a data set, a backbone and a forget set.

    Attributes:
        methods: Rows besides Original and Retrain, in the order of the page.
        ablations: Whether TRU without each of its parts is measured too.
        band_seeds: Seeds of further Retrains, of no other row: three span a band that a new Retrain misses half of
            the time, in one figure alone.
    """

    group: Group
    data: str
    backbone: str
    forget: ForgetConfig
    methods: tuple[CompareMethod, ...]
    seeds: tuple[int, ...]
    ablations: bool = False
    band_seeds: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.data} · {BACKBONE_TITLES[self.backbone]} · {self.forget.label}"

    @property
    def slug(self) -> str:
        """The forget set in file names: ``user-5pct``."""
        return re.sub(r"[^a-z0-9.]+", "-", self.forget.label.replace(" %", "pct"))

    @property
    def all_methods(self) -> tuple[CompareMethod, ...]:
        return (*self.methods, *ABLATION_METHODS) if self.ablations else self.methods

    @property
    def labels(self) -> list[str]:
        """The names of all rows."""
        return [ORIGINAL, *(method.title for method in self.all_methods), RETRAIN]

    @property
    def retrain_seeds(self) -> tuple[int, ...]:
        """The seeds that have a Retrain: all."""
        return (*self.seeds, *self.band_seeds)

    def labels_of(self, seed: int) -> list[str]:
        """The names of the rows that one seed has."""
        return [RETRAIN] if seed in self.band_seeds else self.labels

    def path(self, folder: Path, seed: int) -> Path:
        """Where the rows of one seed are kept."""
        return folder / f"{self.data}-{self.backbone}-{self.slug}-seed{seed}.json"


def _cells() -> tuple[Cell, ...]:
    forgets: dict[Group, list[dict[str, Any]]] = {
        "shares": [{"regime": regime, "share": share} for regime in ("user", "interaction") for share in (0.001, 0.01)],
        "selections": [
            {"regime": "user", "selection": "core"},
            {"regime": "user", "selection": "edge"},
            {"regime": "item", "selection": "popular"},
            {"regime": "interaction", "selection": "popular"},
        ],
        "single": [{"regime": "user", "count": 1}],
        "sequence": [{"regime": "user", "batches": 10}],
    }
    cells = [
        Cell(
            group="main",
            data=data,
            backbone=backbone,
            forget=ForgetConfig(regime=regime),
            methods=MAIN_METHODS,
            seeds=(0, 1, 2),
            band_seeds=tuple(range(3, NUM_RETRAINS)),
            ablations=data == "tiktok" and regime != "item",
        )
        for data in DATA_SETS
        for backbone in BACKBONE_SETTINGS
        for regime in ("user", "item", "interaction")
    ]
    cells += [
        Cell(
            group=group,
            data="tiktok",
            backbone="mgcn",
            forget=ForgetConfig.model_validate(values),
            methods=FEW_METHODS,
            seeds=(0, 1),
        )
        for group, asked in forgets.items()
        for values in asked
    ]
    return tuple(cells)


CELLS = _cells()


def chosen_cells(cells: Sequence[Cell], patterns: Iterable[str]) -> list[Cell]:
    """The cells that any pattern means: ``tiktok``, ``tiktok:mgcn``, ``*:mig_gt:item``, ``tiktok:mgcn:shares``.

    The third part is a regime (of the cells at 5 % at random), the forget set as in file names, or a group.

    Raises:
        ConfigError: If a pattern means no cell.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(_is_meant(cell, pattern) for cell in cells):
            known = sorted({f"{cell.data}:{cell.backbone}:{cell.slug}" for cell in cells})
            raise ConfigError(f"--only {pattern}: no such cell; there are {', '.join(known)}")
    return [cell for cell in cells if not patterns or any(_is_meant(cell, pattern) for pattern in patterns)]


def _is_meant(cell: Cell, pattern: str) -> bool:
    data, backbone, forget = (*pattern.split(":", 2), "*", "*")[:3]
    names = [cell.slug, cell.group, *([cell.forget.regime] if cell.group == "main" else [])]
    is_place = fnmatch.fnmatch(cell.data, data) and fnmatch.fnmatch(cell.backbone, backbone)
    return is_place and any(fnmatch.fnmatch(name, forget) for name in names)


def chosen_labels(cell: Cell, words: Sequence[str], seed: int) -> list[str]:
    """The rows of a seed that words mean: a method's name, ``original``, ``retrain``, a label, or ``ablations``."""
    labels = cell.labels_of(seed)
    if not words:
        return labels
    meant = {ORIGINAL: {"original"}, RETRAIN: {"retrain"}}
    meant |= {method.title: {method.name} if not method.label else {"ablations"} for method in cell.all_methods}
    if LITERAL.title in meant:
        meant[LITERAL.title] = {LITERAL.name, "ablations"}
    return [label for label in labels if {label, *meant[label]} & set(words)]


def known_words(cells: Sequence[Cell]) -> set[str]:
    """Every word that :func:`chosen_labels` understands."""
    words = {"original", "retrain", LITERAL.name, "ablations"}
    return words.union(*(({*cell.labels} | {method.name for method in cell.methods}) for cell in cells))


def job_of(
    cell: Cell,
    seeds: Sequence[int],
    *,
    methods: Sequence[CompareMethod],
    storage: str = "store",
    dataset: str = "data",
    band: bool = False,
    retrain: bool = True,
    side_by_side: bool = False,
) -> JobConfig:
    """The job that carries out a part of a cell."""
    values = BACKBONE_SETTINGS[cell.backbone]
    values = values | {
        "storage": storage,
        "dataset": dataset,
        "model": "results",
        "fit": values["fit"] | {"seed": seeds[0]},
        "forget": cell.forget.model_dump(mode="json"),
        "compare": {
            "methods": [method.model_dump(mode="json") for method in methods],
            "seeds": [seed for seed in seeds if seed not in cell.band_seeds],
            "band_seeds": [seed for seed in seeds if seed in cell.band_seeds],
            "band": band,
            "retrain": retrain,
            "max_concurrent_runs": None if side_by_side else 1,
        },
    }
    return parse(JobConfig, values, where=cell.title)


def data_digest(folder: Path) -> str:
    """Name a data set by the digests of its files, its README aside, and how it is imported.

    Raises:
        ConfigError: If there is no data.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.md"]
    if not files:
        raise ConfigError(
            f"{folder}: no data set is there. Nothing was started. Name the folder of the data by --data."
        )
    digests = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return sha256_hex(canonical_json({"files": digests, "import": IMPORT_SETTINGS}, where=str(folder)))[:16]


def _as_first_named(method: str, settings: Settings) -> dict[str, Any]:
    """A method and its settings as committed rows are named by them: Algorithm 1 was first a setting of TRU."""
    values = named_settings(method, settings)
    if method != LITERAL.name:
        return {"method": method, "settings": values}
    rate = {"reverse_learning_rate": values.pop("ascent_learning_rate")}
    earlier = named_settings(TRU.name, TRUSettings())
    return {"method": TRU.name, "settings": earlier | values | rate | {"paper_literal": True}}


def row_digest(cell: Cell, seed: int, label: str, *, data: str) -> str:
    """Name what decides a row's figures: data, settings of backbone, training, forget set, judge and method.

    Args:
        data: :func:`data_digest` of its data set.
    """
    job = job_of(cell, [seed], methods=[])
    settings = job_settings(job, "fit", "forget")
    del settings["dataset"]
    row: dict[str, Any] = {"label": label}
    for method in cell.all_methods:
        if method.title == label:
            row = _as_first_named(method.name, method.parsed(job.unlearn, seed=seed))
    content = {"data": data, "job": settings, "row": row, "judge": JUDGE_SEED, "measures": MEASURES_VERSION}
    return sha256_hex(canonical_json(content, where=cell.title))[:16]
