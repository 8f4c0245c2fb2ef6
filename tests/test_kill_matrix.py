"""Twenty kills of deletions, on a folder and on SeaweedFS: nothing is lost, doubled, or otherwise than without them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workflows.storage import StorageConfig

pytestmark = pytest.mark.long
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_matrix.py"


def kill(num_kills: int, *options: str) -> dict[str, Any]:
    """Run the matrix in a process that can fork safely; its figures."""
    command = [sys.executable, str(SCRIPT), "--kills", str(num_kills), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


def check(figures: dict[str, Any], num_kills: int) -> None:
    assert figures["kills"] >= num_kills
    assert (figures["lost_requests"], figures["double_publications"], figures["receipts_unpublished"]) == (0, 0, 0)
    assert figures["end_state_equal"] == 1


def test_whatever_is_killed_in_a_folder_the_end_is_that_of_an_unkilled_run(tmp_path: Path) -> None:
    figures = kill(16, "--storage", str(tmp_path / "stores"))
    check(figures, 16)
    assert figures["kills_driver"] > 0
    assert figures["kills_worker"] > 0


@pytest.mark.s3
def test_whatever_is_killed_on_s3_the_end_is_that_of_an_unkilled_run(seaweed_config: StorageConfig) -> None:
    check(kill(4, "--storage", seaweed_config.url, "--endpoint-url", str(seaweed_config.endpoint_url)), 4)
