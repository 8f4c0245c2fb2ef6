"""Which client lists, reads and writes many objects fastest: the store's own (boto3), pyarrow's file system or s3fs?

    python benchmarks/bulk_storage.py --storage s3://bucket/bulk --endpoint-url URL --json FILE

Objects of one size are written under a fresh prefix, listed, read and deleted. Every client does each step `--repeats`
times in turn; the figure is the median. A small object is what logs, receipts and manifests are; a large one a bucket
file of a snapshot or a model's table. The store reads with 8 threads, as its logs are read.
"""

import argparse
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.fs
import s3fs
from machine import write_figures

from workflows.storage import ObjectStore, StorageConfig, open_store

NUM_THREADS = 8
SMALL_BYTES, LARGE_BYTES = 4096, 32 * 2**20

Client = dict[str, Callable[[Sequence[str], bytes], object]]


def in_threads(work: Callable[[str], object], keys: Sequence[str]) -> list[object]:
    """Do something with every key, several at once."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(work, keys))


def clients_of(store: ObjectStore, config: StorageConfig) -> dict[str, Client]:
    """Each client's way to write, list and read; keys are the store's."""
    arrow, base = store.filesystem()
    remote = s3fs.S3FileSystem(
        endpoint_url=config.endpoint_url, use_listings_cache=False, skip_instance_cache=True, use_ssl=False
    )

    def arrow_write(key: str, body: bytes) -> None:
        with arrow.open_output_stream(f"{base}/{key}") as file:
            file.write(body)

    def arrow_read(key: str) -> bytes:
        with arrow.open_input_file(f"{base}/{key}") as file:
            return file.read()

    def arrow_list(keys: Sequence[str], _: bytes) -> object:
        folder = keys[0].rpartition("/")[0]
        return arrow.get_file_info(pyarrow.fs.FileSelector(f"{base}/{folder}", recursive=True))

    return {
        "store": {
            "write": lambda keys, body: in_threads(lambda key: store.put_if_absent(key, body), keys),
            "list": lambda keys, _: store.list(keys[0].rpartition("/")[0]),
            "read": lambda keys, _: in_threads(store.read, keys),
        },
        "pyarrow": {
            "write": lambda keys, body: in_threads(lambda key: arrow_write(key, body), keys),
            "list": arrow_list,
            "read": lambda keys, _: in_threads(arrow_read, keys),
        },
        "s3fs": {
            "write": lambda keys, body: remote.pipe({f"{base}/{key}": body for key in keys}),
            "list": lambda keys, _: remote.find(f"{base}/{keys[0].rpartition('/')[0]}", detail=True),
            "read": lambda keys, _: remote.cat([f"{base}/{key}" for key in keys]),
        },
    }


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(
    store: ObjectStore, config: StorageConfig, *, size_bytes: int, count: int, repeats: int
) -> dict[str, float]:
    """Median seconds by step and client."""
    clients, found = clients_of(store, config), {}
    body = bytes(range(256)) * (size_bytes // 256)
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, client in clients.items():
            folder = f"bulk-{uuid.uuid4().hex}"
            keys = [f"{folder}/{number:06d}" for number in range(count)]
            for step in ("write", "list", "read"):
                taken = seconds_of(lambda client=client, step=step, keys=keys: client[step](keys, body))
                seconds.setdefault(f"{step}/{count}x{size_bytes}/{name}", []).append(taken)
            in_threads(store.delete, keys)
    for name, taken in seconds.items():
        found[name] = statistics.median(taken)
    return found


def main() -> None:
    """Measure small and large objects, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True, help="s3://bucket/prefix")
    parser.add_argument("--endpoint-url")
    parser.add_argument("--small", type=int, default=2500, help="how many objects of 4 KiB; a listing has 1000 a page")
    parser.add_argument("--large", type=int, default=6, help="how many objects of 32 MiB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    config = StorageConfig(url=arguments.storage, endpoint_url=arguments.endpoint_url)
    store = open_store(config)
    figures: dict[str, float] = {}
    for size_bytes, count in ((SMALL_BYTES, arguments.small), (LARGE_BYTES, arguments.large)):
        figures |= measure(store, config, size_bytes=size_bytes, count=count, repeats=arguments.repeats)
    for name, value in sorted(figures.items()):
        print(f"{name:40} {value:8.3f} s")
    if arguments.json:
        command = (
            f"python benchmarks/bulk_storage.py --storage URL --small {arguments.small} --large {arguments.large} "
            f"--repeats {arguments.repeats}"
        )
        write_figures(arguments.json, "bulk_storage", command=command, figures=figures)


if __name__ == "__main__":
    main()
