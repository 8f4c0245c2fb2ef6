"""How often does the audit err? Of 20 Retrains with new seeds, how many fail; of 20 broken candidates, how many pass?

    PYTHONPATH=. python benchmarks/audit_power.py --json FILE
    PYTHONPATH=. python benchmarks/audit_power.py --data ../shared/data/tiktok --count 5 --json FILE

Without ``--data`` in the small world of the tests, where the truth is known: LightGCN, 16 users to forget, 3 Retrains,
16 shadow models, all in one process. With it, MGCN on real data through ``tru audit``, resumable, with everything in
``--store``. A broken candidate did nothing, hides the forgotten pairs in the output only, or is a Retrain that was
pushed too far. The bar: at most 2 of 20 Retrains fail, and no broken candidate passes. ``ci_seconds`` is one whole
audit of the small world: an Original, 3 Retrains, 16 shadow models, every attack. Zero of 20 still allows a true rate
of up to 0.14 (95 %, one-sided): what is printed is a count, not a proof.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import write_figures

from tru_core.errors import TruError

KINDS = ("retrain", "nothing", "masked", "over_forgotten")
COUNTED = {"retrain": "failed", "nothing": "passed", "masked": "passed", "over_forgotten": "passed"}
REFERENCE_SEEDS, NUM_SHADOWS = (1, 2, 3), 16
FIRST_RETRAIN, FIRST_ORIGINAL = 1001, 2001

Verdicts = Iterator[tuple[str, str, str]]


def small_world(count: int, timings: dict[str, float]) -> Verdicts:
    """Examine candidates in the small world. Yields kind, verdict and reason, and notes the seconds of one audit."""
    from tests import audit_cases
    from tru_core.audits.attacks import audit
    from tru_core.audits.controls import masked, over_forgotten

    torch.set_num_threads(1)  # tables this small are slower on several
    world = audit_cases.audit_world()
    started = time.perf_counter()
    retrains = tuple(audit_cases.retrain_of(world, seed) for seed in REFERENCE_SEEDS)
    shadows = audit_cases.shadows_of(world, num_shadows=NUM_SHADOWS)
    case = audit_cases.case_of(world, audit_cases.original_of(world), retrains, shadows)
    audit(case)
    timings["ci_seconds"] = time.perf_counter() - started
    for number in range(count):
        retrain = audit_cases.retrain_of(world, FIRST_RETRAIN + number)
        train = world.part.shard.train
        original = audit_cases.trained(world, train, name="Original", seed=FIRST_ORIGINAL + number)
        candidates = {
            "retrain": retrain,
            "nothing": original,
            "masked": masked(original, world.problem),
            "over_forgotten": over_forgotten(retrain, world.problem),
        }
        for kind, candidate in candidates.items():
            verdict = audit(replace(case, original=original, candidate=candidate))
            yield kind, verdict.verdict, verdict.reason


def real_data(count: int, data: Path, store: str) -> Verdicts:
    """Examine candidates on a real data set, Original by Original, through ``tru audit``."""
    from audits import FIT, SHADOW_EPOCHS, import_once
    from results_plan import BACKBONE_SETTINGS, data_digest

    from workflows.config.job import JobConfig, ScalingConfig
    from workflows.config.parsing import parse
    from workflows.experiments.audit.audit import audit
    from workflows.running.cluster import connected

    storage, values = str(Path(store).absolute()), BACKBONE_SETTINGS["mgcn"]
    dataset = f"{data.name}-{data_digest(data)[:8]}"
    with connected(ScalingConfig()):
        import_once(data, storage, dataset)
        for number in range(count):
            seed = FIRST_RETRAIN + number
            candidates = [
                {"name": "retrain", "seed": seed, "label": "retrain"},
                {"name": "original", "label": "nothing"},
                {"name": "masked", "label": "masked"},
                {"name": "over_forgotten", "seed": seed, "label": "over_forgotten"},
            ]
            asked = {
                "storage": storage,
                "dataset": dataset,
                "model": "audit-power",
                "fit": values["fit"] | FIT[data.name] | {"seed": FIRST_ORIGINAL + number},
                "forget": {"regime": "user", "share": 0.05},
                "audit": {
                    "candidates": candidates,
                    "seeds": list(REFERENCE_SEEDS),
                    "shadows": NUM_SHADOWS,
                    "shadow_fit": {"max_epochs": SHADOW_EPOCHS},
                },
            }
            for found in audit(parse(JobConfig, values | asked, where=data.name))["audits"]:
                yield found["candidate"], found["verdict"], found["reason"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="candidates of each kind")
    parser.add_argument("--data", type=Path, help="folder of a real data set; left out: the small world")
    parser.add_argument("--store", default="store/audit-power", help="with --data: where models and results lie")
    parser.add_argument("--json", type=Path, help="write the figures and the machine here")
    arguments = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    timings: dict[str, float] = {}
    found = (
        small_world(arguments.count, timings)
        if arguments.data is None
        else real_data(arguments.count, arguments.data, arguments.store)
    )
    try:
        for kind, verdict, reason in found:
            counts[kind, verdict] += 1
            if (verdict == COUNTED[kind]) or (kind == "retrain" and verdict != "passed"):
                print(f"{kind}: {verdict}: {reason}", file=sys.stderr, flush=True)
    except TruError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    figures: dict[str, Any] = {f"{kind}_{COUNTED[kind]}": counts[kind, COUNTED[kind]] for kind in KINDS}
    figures |= {f"{kind}_inconclusive": counts[kind, "inconclusive"] for kind in KINDS}
    figures |= {"num_each": arguments.count} | {name: round(value, 1) for name, value in timings.items()}
    for name, value in figures.items():
        print(f"{name:<28} {value}")
    if arguments.json is not None:
        command = "PYTHONPATH=. python benchmarks/audit_power.py"
        command += f" --data {arguments.data}" if arguments.data is not None else ""
        write_figures(arguments.json, "audit_power", command=f"{command} --count {arguments.count}", figures=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
