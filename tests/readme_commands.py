"""Run the commands that README.md shows, in the order in which a reader types them.

A block is run when the line before its fence is a mark:

    <!-- ci -->                    in a work folder that was empty before the first block
    <!-- ci: repository root -->   where README.md lies

Blocks share the work folder, so that a later one finds what an earlier one made. ``../shared/data`` beside
the repository is ``../shared/data`` from the work folder too.

Usage: python tests/readme_commands.py [README.md] [--list]
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK_LIMIT_SECONDS = 900
MARK = re.compile(r"^\s*<!--\s*ci(?P<where>[^>]*?)\s*-->\s*$")
FENCE = re.compile(r"^\s*```(?P<language>\w*)\s*$")


class ReadmeError(Exception):
    """A block cannot be run, or failed. The message says which and what to do."""


@dataclass(frozen=True)
class Block:
    """A fenced block of shell commands; ``line`` is that of its fence, counted from 1."""

    line: int
    in_repository: bool
    commands: str


def marked_blocks(text: str) -> list[Block]:
    """Find the marked bash blocks of a markdown text.

    Raises:
        ReadmeError: If a mark is misspelt, stands before anything but a bash block, or a block has no end.
    """
    lines = text.splitlines()
    blocks = []
    for index, line in enumerate(lines):
        mark = MARK.match(line)
        if not mark:
            continue
        where = mark["where"].removeprefix(":").strip()
        if where not in ("", "repository root"):
            raise ReadmeError(f"line {index + 1}: expected 'ci' or 'ci: repository root', found 'ci: {where}'")
        fence = FENCE.match(lines[index + 1]) if index + 1 < len(lines) else None
        if not fence or fence["language"] != "bash":
            raise ReadmeError(f"line {index + 1}: expected ```bash on the line after the mark")
        body = []
        for inner in lines[index + 2 :]:
            if FENCE.match(inner):
                break
            body.append(inner)
        else:
            raise ReadmeError(f"line {index + 2}: the block has no closing fence")
        blocks.append(Block(index + 2, where == "repository root", textwrap.dedent("\n".join(body)).strip()))
    return blocks


def require_data(blocks: list[Block], data: Path) -> None:
    """Stop before the first block runs when one of them needs the shared data and it is not there."""
    needing = [block.line for block in blocks if "shared/data" in block.commands]
    if needing and not data.is_dir():
        raise ReadmeError(
            f"the blocks at lines {needing} read ../shared/data, and {data} does not exist. "
            "Put the data beside the repository; nothing was run."
        )


def run_block(block: Block, work: Path, *, environment: dict[str, str]) -> None:
    """Run one block with ``bash -euo pipefail``, its output passed through.

    Raises:
        ReadmeError: If it exits with anything but 0, or takes longer than BLOCK_LIMIT_SECONDS.
    """
    folder = REPOSITORY if block.in_repository else work
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block.commands],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        code = process.wait(timeout=BLOCK_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise ReadmeError(f"the block at line {block.line} ran longer than {BLOCK_LIMIT_SECONDS} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code != 0:
        raise ReadmeError(f"the block at line {block.line} exited with {code}:\n{block.commands}")


def run_readme(readme: Path, *, list_only: bool) -> int:
    """Run every marked block of a file; return how many there are."""
    if not readme.is_file():
        raise ReadmeError("the file does not exist")
    blocks = marked_blocks(readme.read_text(encoding="utf-8"))
    if not blocks:
        raise ReadmeError("no block is marked with <!-- ci -->: what a newcomer types would go untested")
    shared = REPOSITORY.parent / "shared"
    if not list_only:
        require_data(blocks, shared / "data")
    environment = dict(os.environ)
    environment.pop("PYTHONPATH", None)
    environment.pop("VIRTUAL_ENV", None)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with tempfile.TemporaryDirectory(prefix="readme-", ignore_cleanup_errors=True) as folder:
        work = Path(folder) / "work"
        work.mkdir()
        if shared.is_dir():
            (Path(folder) / "shared").symlink_to(shared)
        for block in blocks:
            print(f"-- {readme.name} line {block.line}{', in the repository' if block.in_repository else ''}")
            print(textwrap.indent(block.commands, "   $ "), flush=True)
            if not list_only:
                begun = time.monotonic()
                run_block(block, work, environment=environment)
                print(f"-- exit 0 after {time.monotonic() - begun:.0f} s", flush=True)
    return len(blocks)


def main() -> int:
    """Run or list the blocks; 0 when all succeeded, else 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readme", nargs="?", type=Path, default=REPOSITORY / "README.md")
    parser.add_argument("--list", action="store_true", help="print the marked blocks and run nothing")
    options = parser.parse_args()
    try:
        count = run_readme(options.readme, list_only=options.list)
    except ReadmeError as error:
        print(f"{options.readme}: {error}", file=sys.stderr)
        return 1
    print(f"{count} blocks of {options.readme.name} {'found' if options.list else 'ran and exited with 0'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
