"""Does exactly one of many publishers win each version, on this storage?

    python benchmarks/publish_races.py --publishers 16 --rounds 1000 --storage s3://bucket/races

Every publisher is a process with a client of its own. In each round all of them publish a model of their own as version
2 of a fresh name, at the same moment. Afterwards the log in storage is held against what each publisher was told.
"""

import argparse
import json
import multiprocessing
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from machine import write_figures

from tru_core.errors import ConflictError, TruError
from workflows.models.publish import Version, publish_version, read_versions
from workflows.storage import FileEntry, ObjectStore, StorageConfig, open_store

WON, LOST = "won", "lost"


class Start(Protocol):
    """A barrier, of threads or of processes."""

    def wait(self, timeout: float | None = None) -> int: ...


def publish(store: ObjectStore, model: str, publisher: int, *, parent: int | None) -> Version:
    """Publish a model that nobody else has."""
    name = f"publisher-{publisher}"
    return publish_version(
        store,
        model,
        manifest=FileEntry(key=f"runs/{name}/manifest.json", size_bytes=1, sha256=f"{publisher + 1:064x}"),
        parent_version=parent,
        method="fit" if parent is None else "tru",
        dataset="races",
        snapshot_id="s",
        run_id=name,
        job_digest=name,
    )


def model_of(races: str, number: int) -> str:
    return f"{races}-{number:06d}"


def take_part(store: ObjectStore, races: str, publisher: int, *, num_rounds: int, start: Start) -> list[str]:
    """One publisher's outcomes, by round: won, lost, or the name of an error that should not be."""
    outcomes = []
    for number in range(num_rounds):
        model = model_of(races, number)
        if publisher == 0:
            publish(store, model, -1, parent=None)
        start.wait()
        try:
            publish(store, model, publisher, parent=1)
            outcomes.append(WON)
        except ConflictError:
            outcomes.append(LOST)
        except TruError as error:
            outcomes.append(type(error).__name__)
    return outcomes


def judge(store: ObjectStore, races: str, outcomes: list[list[str]]) -> dict[str, int]:
    """Hold what the publishers were told (by publisher and round) against the logs in storage."""
    num_rounds = len(outcomes[0])
    with ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda number: read_versions(store, model_of(races, number)), range(num_rounds)))
    winners = [[p for p, told in enumerate(outcomes) if told[number] == WON] for number in range(num_rounds)]
    agreed = [
        len(won) == 1 and [version.run_id for version in log] == ["publisher--1", f"publisher-{won[0]}"]
        for won, log in zip(winners, logs, strict=True)
    ]
    told = Counter(outcome for publisher in outcomes for outcome in publisher)
    return {
        "publishers": len(outcomes),
        "rounds": num_rounds,
        "rounds_with_one_winner": agreed.count(True),
        "rounds_with_no_winner": sum(not won for won in winners),
        "rounds_with_several_winners": sum(len(won) > 1 for won in winners),
        "double_publications": sum(len(log) > 2 for log in logs),
        "conflicts": told[LOST],
        "other_errors": told.total() - told[WON] - told[LOST],
    }


def race_in_threads(stores: list[ObjectStore], races: str, *, num_rounds: int) -> dict[str, int]:
    """The same with a thread for each store."""
    start = threading.Barrier(len(stores))
    with ThreadPoolExecutor(len(stores)) as pool:
        waiting = [
            pool.submit(take_part, store, races, publisher, num_rounds=num_rounds, start=start)
            for publisher, store in enumerate(stores)
        ]
    return judge(stores[0], races, [future.result() for future in waiting])


def _process(config: str, races: str, publisher: int, num_rounds: int, start: Any, answers: Any) -> None:
    store = open_store(StorageConfig.model_validate_json(config))
    answers.put((publisher, take_part(store, races, publisher, num_rounds=num_rounds, start=start)))


def race_in_processes(config: StorageConfig, races: str, *, num_publishers: int, num_rounds: int) -> dict[str, int]:
    """Race with a process for each publisher."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(num_publishers), context.Queue()
    arguments = [(config.model_dump_json(), races, p, num_rounds, start, answers) for p in range(num_publishers)]
    processes = [context.Process(target=_process, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    outcomes = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return judge(open_store(config), races, [outcomes[p] for p in range(num_publishers)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--publishers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--storage", required=True, help="folder or s3://bucket/prefix; what is written there stays")
    parser.add_argument("--endpoint-url", help="S3 endpoint, where it is not AWS")
    parser.add_argument("--output", help="also write the figures and the machine to this JSON file")
    arguments = parser.parse_args()
    config = StorageConfig(url=arguments.storage, endpoint_url=arguments.endpoint_url)
    begun = time.monotonic()
    figures: dict[str, int | float] = dict(
        race_in_processes(
            config, f"races-{uuid.uuid4().hex[:8]}", num_publishers=arguments.publishers, num_rounds=arguments.rounds
        )
    )
    figures["seconds"] = round(time.monotonic() - begun, 1)
    print(json.dumps(figures, indent=2))
    if arguments.output:
        command = f"python benchmarks/publish_races.py --publishers {arguments.publishers} --rounds {arguments.rounds}"
        write_figures(arguments.output, "publish_races", command=f"{command} --storage URL", figures=figures)


if __name__ == "__main__":
    main()
