"""What a figure was measured on, and the one file format in which every benchmark leaves its figures."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "ray", "torch-geometric", "pyarrow", "numpy")
REPOSITORY = Path(__file__).resolve().parent.parent


def describe_machine() -> dict[str, Any]:
    """Describe this machine and the code on it: what a reader needs in order to compare figures.

    Returns:
        cores (those that this process may use), memory_bytes, accelerator, load (processes that ran or waited
        during the last minute), python and package versions, commit and whether files differ from it.
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerator": _accelerator_name(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "is_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def write_figures(
    path: Path | str, benchmark: str, *, command: str, figures: Mapping[str, int | float]
) -> dict[str, Any]:
    """Write the figures of one benchmark run as JSON, together with the machine, and return what was written.

    Args:
        path: The file; its folder is made, an older file is replaced.
        benchmark: Name of the benchmark, that of its script.
        command: What to type to get these figures again.
        figures: Flat; the name tells the unit: ``epoch_seconds``, ``peak_bytes``, ``recall_at_20``.

    Raises:
        ValueError: If a figure is not a finite number, or there is none.
    """
    bad = [name for name, value in figures.items() if isinstance(value, bool) or not math.isfinite(value)]
    if bad or not figures:
        raise ValueError(f"{benchmark}: expected finite numbers, found none or other values under {bad}")
    content = {
        "benchmark": benchmark,
        "machine": describe_machine(),
        "command": command,
        "figures": dict(figures),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return content


def _processor_name() -> str:
    """The processor's name in Linux's words, or what the platform says."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _accelerator_name() -> str:
    """The first CUDA device's name, or "none"."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"


def _version(package: str) -> str:
    """The installed version of a package, or "absent"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _git(*arguments: str) -> str:
    """What git prints in this repository; empty outside one."""
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    print(json.dumps(describe_machine(), indent=2))
