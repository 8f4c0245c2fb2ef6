"""Which methods pass the audits on real data? Examines each from several Originals; writes the table of docs/audits.md.

    python benchmarks/audits.py --data ../shared/data --store store/audits --minutes 60
    python benchmarks/audits.py --page

Resumable: what is trained lies in the store, named by content, and every examined candidate is a line of a file in
``benchmarks/audit_results``, to be committed; a row of today's settings and rules is not examined again. A surprise
would be a candidate that forgets nothing and passes, or a Retrain that fails.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audits_page import write_page
from machine import REPOSITORY, describe_machine
from results_plan import BACKBONE_SETTINGS, DATA_SETS, IMPORT_SETTINGS, data_digest
from results_rows import rounded

from tru_core.artifact import sha256_hex
from tru_core.audits.attacks import ATTACKS
from tru_core.audits.base import AUDIT_VERSION
from tru_core.errors import TruError
from workflows.config.audit import CONTROLS
from workflows.config.job import JobConfig
from workflows.config.parsing import parse
from workflows.config.unlearn import named_settings
from workflows.running.runs import job_settings
from workflows.storage import canonical_json

ROWS_FOLDER = REPOSITORY / "benchmarks" / "audit_results"
PAGE = REPOSITORY / "docs" / "audits.md"
REFERENCE_SEEDS, ORIGINAL_SEEDS = (0, 1, 2), (0, 1, 2)
RETRAIN_OFFSET = 10  # the candidate Retrain of Original n has seed n + 10: no reference's
NUM_SHADOWS = {"ml-latest-small-mm": 8, "tiktok": 0}
FIT: dict[
    str, dict[str, Any]
] = {  # larger steps than on the results page, so that a training takes 15 epochs and not 80
    "ml-latest-small-mm": {"learning_rate": 0.01, "max_epochs": 15, "patience": 15},
    "tiktok": {"learning_rate": 0.005, "max_epochs": 15, "patience": 15},
}
RELEARNED = "ml-latest-small-mm"
SHADOW_EPOCHS = 8
ITEM_ROWS_STAY = "item_rows_stay"
CANDIDATES = ("original", "masked", "row_reset", "row_refit", ITEM_ROWS_STAY, "tru", "retrain")


@dataclass(frozen=True)
class Piece:
    """One candidate from one Original on one data set."""

    data: str
    seed: int
    candidate: str

    @property
    def path(self) -> Path:
        return ROWS_FOLDER / f"{self.data}-mgcn-user-5pct-seed{self.seed}.json"


def _asked(candidate: str, seed: int) -> dict[str, Any]:
    """What a job calls a candidate."""
    if candidate == ITEM_ROWS_STAY:
        return {"name": "tru", "label": "TRU, touched items' rows stay", "settings": {"replace_items": "none"}}
    return {"name": candidate} | ({"seed": seed + RETRAIN_OFFSET} if candidate == "retrain" else {})


def job_of(pieces: Sequence[Piece], *, storage: str, dataset: str) -> JobConfig:
    """The audit of some candidates from one Original. What trains (injection, relearning) goes with the first only.

    Relearning takes nine tenths of an examination's time, so it is asked on the small data set alone.
    """
    seed, values = pieces[0].seed, BACKBONE_SETTINGS["mgcn"]
    candidates = [_asked(piece.candidate, seed) for piece in pieces]
    audit: dict[str, Any] = {
        "candidates": candidates,
        "seeds": list(REFERENCE_SEEDS),
        "shadows": NUM_SHADOWS[pieces[0].data],
        "shadow_fit": {"max_epochs": SHADOW_EPOCHS},
        "max_concurrent_runs": 2,
    }
    if seed == ORIGINAL_SEEDS[0]:
        audit["injection"] = {}
    if seed != ORIGINAL_SEEDS[0] or pieces[0].data != RELEARNED:
        audit["attacks"] = [name for name in ATTACKS if name != "relearning"]
    return parse(
        JobConfig,
        values
        | {
            "storage": storage,
            "dataset": dataset,
            "model": "audits",
            "fit": values["fit"] | FIT[pieces[0].data] | {"seed": seed},
            "forget": {"regime": "user", "share": 0.05},
            "audit": audit,
        },
        where=f"{pieces[0].data}, seed {seed}",
    )


def row_digest(piece: Piece, data: str) -> str:
    """Name what decides a row: data, settings, the candidate, the audit's rules."""
    job = job_of([piece], storage="store", dataset="data")
    settings, [candidate] = job_settings(job, "fit", "forget", "audit"), job.audit.candidates
    own = None if candidate.name in CONTROLS else named_settings(candidate.name, candidate.parsed(job.unlearn))
    content = {"data": data, "settings": settings, "method": own, "audit_version": AUDIT_VERSION}
    return sha256_hex(canonical_json(content, where=str(piece)))[:16]


def read_sheet(path: Path) -> dict[str, Any]:
    """The rows of one data set and Original by candidate; empty where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_sheet(path: Path, sheet: dict[str, Any]) -> None:
    """Write rows whole or not at all, one line each."""
    lines = [f"{json.dumps(name)}: {json.dumps(row, allow_nan=False)}" for name, row in sheet.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    aside.replace(path)


def missing(pieces: Sequence[Piece], digests: dict[str, str]) -> list[Piece]:
    """The pieces that have no row with today's settings and rules."""
    return [
        piece
        for piece in pieces
        if read_sheet(piece.path).get(piece.candidate, {}).get("digest") != row_digest(piece, digests[piece.data])
    ]


def keep(piece: Piece, audit: dict[str, Any], *, data: str, started: dict[str, Any]) -> None:
    """Put an examined candidate into its file."""
    sheet = read_sheet(piece.path)
    dropped = ("inputs", "paper", "shows_not")
    findings = [{k: v for k, v in finding.items() if k not in dropped} for finding in audit["findings"]]
    plain = {name: value for name, value in audit.items() if name not in (*dropped, "result", "findings")}
    sheet[piece.candidate] = {"digest": row_digest(piece, data), "data_digest": data} | rounded(
        plain | {"findings": findings, "measured": started}
    )
    write_sheet(piece.path, {name: sheet[name] for name in CANDIDATES if name in sheet})


def import_once(source: Path, storage: str, dataset: str) -> None:
    """Import a data set into the store unless it is there."""
    from workflows.ingest import IngestConfig, import_dataset
    from workflows.storage import dataset_log, open_store, read_log

    store = open_store(storage)
    if not read_log(store, dataset_log(dataset)):
        import_dataset(str(source), store, dataset, parse(IngestConfig, IMPORT_SETTINGS, where="import"))


def measure(work: Sequence[Piece], arguments: argparse.Namespace, digests: dict[str, str]) -> None:
    """Examine what is missing, Original by Original, until it is done or time is over."""
    from audits_gate import gate_verdicts

    from workflows.experiments.audit.audit import audit

    limit = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    storage = str(Path(arguments.store).absolute())
    for data, seed in dict.fromkeys((piece.data, piece.seed) for piece in work):
        if limit is not None and time.monotonic() >= limit:
            return
        pieces = missing([piece for piece in work if (piece.data, piece.seed) == (data, seed)], digests)
        dataset = f"{data}-{digests[data][:8]}"
        import_once(arguments.data / data, storage, dataset)
        machine = describe_machine()
        started = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "load": round(os.getloadavg()[0], 2)}
        started |= {name: machine[name] for name in ("processor", "cores", "commit", "is_modified")}
        job = job_of(pieces, storage=storage, dataset=dataset)
        found, gates = audit(job), gate_verdicts(job)
        for piece, examined in zip(pieces, found["audits"], strict=True):
            gate = gates.get(examined["candidate"])
            keep(piece, examined | {"gate": gate}, data=digests[data], started=started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data sets' folders")
    parser.add_argument("--store", default="store/audits", help="where models and results lie")
    parser.add_argument("--only", nargs="*", default=["ml-latest-small-mm", "tiktok"], choices=DATA_SETS)
    parser.add_argument("--seeds", nargs="*", type=int, default=list(ORIGINAL_SEEDS))
    parser.add_argument("--candidates", nargs="*", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--minutes", type=float, help="start no further Original after so long; the next call goes on")
    parser.add_argument("--page", action="store_true", help="only write the page's table from the rows that are there")
    arguments = parser.parse_args()
    if arguments.page:
        write_page(PAGE, ROWS_FOLDER)
        return 0
    work = [
        Piece(data, seed, name) for data in arguments.only for seed in arguments.seeds for name in arguments.candidates
    ]
    try:
        digests = {data: data_digest(arguments.data / data) for data in arguments.only}
        from workflows.config.job import ScalingConfig
        from workflows.running.cluster import connected

        if todo := missing(work, digests):
            with connected(ScalingConfig()):
                measure(todo, arguments, digests)
    except TruError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    write_page(PAGE, ROWS_FOLDER)
    print(f"{len(missing(work, digests))} rows are missing", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
