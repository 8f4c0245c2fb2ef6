"""The check of README.md's commands sees every marked block, and says so when one fails."""

import os
from pathlib import Path

import pytest

from tests.readme_commands import Block, ReadmeError, marked_blocks, require_data, run_block

TEXT = """
<!-- ci -->
```bash
echo one
```

```bash
not marked
```

1. in a list
   <!-- ci: repository root -->
   ```bash
   make help |
     cat
   ```
"""


def test_marked_blocks_come_in_order_and_unmarked_ones_are_left_out() -> None:
    assert marked_blocks(TEXT) == [
        Block(line=3, in_repository=False, commands="echo one"),
        Block(line=13, in_repository=True, commands="make help |\n  cat"),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<!-- ci -->\n\n```bash\ntrue\n```\n", "line after the mark"),
        ("<!-- ci -->\n```python\ntrue\n```\n", "line after the mark"),
        ("<!-- ci: elsewhere -->\n```bash\ntrue\n```\n", "expected 'ci'"),
        ("<!-- ci -->\n```bash\ntrue\n", "no closing fence"),
        ("<!-- ci -->", "line after the mark"),
    ],
)
def test_a_mark_that_would_be_skipped_silently_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ReadmeError, match=reason):
        marked_blocks(text)


def test_a_failure_in_the_middle_of_a_block_or_of_a_pipe_is_seen(tmp_path: Path) -> None:
    for commands in ("false\ntrue", "false | cat", "echo $undefined_variable_here"):
        with pytest.raises(ReadmeError, match="exited with"):
            run_block(Block(1, False, commands), tmp_path, environment=dict(os.environ))


def test_absent_data_stops_the_run_before_its_first_block(tmp_path: Path) -> None:
    needs_data = Block(7, False, "tru data build ../shared/data/tiktok")
    require_data([needs_data], tmp_path)
    with pytest.raises(ReadmeError, match=r"lines \[7\].*does not exist"):
        require_data([needs_data], tmp_path / "absent")
