"""``tru data export``: a data set's current snapshot as a file for other people's programs."""

import argparse
from pathlib import Path
from typing import Any

from workflows.cli.command import Figures, add_command, add_storage_options, open_named_storage, storage_config

FORMATS = ("pyg",)
ENDING = ".safetensors"


def add_export_command(data: Any) -> None:
    """Add the command to the commands on data sets."""
    text = "Write the current snapshot as one file: for PyTorch Geometric, as safetensors."
    exporting = add_command(data, "export", text, _export)
    exporting.add_argument("dataset", metavar="DATASET", help="name of the data set")
    exporting.add_argument("--format", choices=FORMATS, required=True)
    exporting.add_argument("--storage", required=True, metavar="URL", help="folder or s3://bucket/prefix")
    help_text = f"the file, which ends with {ENDING}; an older one is replaced"
    exporting.add_argument("--out", required=True, metavar="FILE", help=help_text)
    add_storage_options(exporting)


def _export(arguments: argparse.Namespace) -> Figures:
    from workflows.data.exchange import pack_hetero_data, to_hetero_data
    from workflows.data.snapshot import current_snapshot
    from workflows.output_files import check_outputs, write_whole
    from workflows.storage.existing import require_dataset
    from workflows.storage.object_keys import check_name

    dataset, out = check_name(arguments.dataset), Path(arguments.out)
    config = storage_config(arguments, arguments.storage, where="--storage")
    store = open_named_storage(arguments, config, where="--storage", is_written=False)
    require_dataset(store, dataset, where="DATASET")
    check_outputs([out], [ENDING])
    manifest = current_snapshot(store, dataset)
    body = pack_hetero_data(to_hetero_data(store, manifest), manifest)
    write_whole(out, body)
    return {
        "dataset": dataset,
        "snapshot_id": manifest.snapshot_id,
        "format": arguments.format,
        "num_users": manifest.num_users,
        "num_items": manifest.num_items,
        "train": manifest.counts.train,
        "valid": manifest.counts.valid,
        "test": manifest.counts.test,
        "size_bytes": len(body),
        "note": "a copy that no purge reaches: after a deletion, delete it and export again",
    }
