"""Commands that outputs print are completed here, so that they can be pasted: they name the job file that was read.

Messages are written far from the command line and do not know its options. They print ``tru delete run`` between
backticks; this module adds ``--job PATH`` where the command takes it and the path is not the default.
"""

import re
import shlex
from typing import Any

DEFAULT_JOB = "job.yaml"
_COMMAND = re.compile(r"`(tru [^`\n]+)`")
_WITH_OPTION = ("versions", "rollback")  # and every command of the group delete
_WITH_PATH = ("train", "unlearn", "compare", "audit", "sweep")


def complete_text(text: str, *, job: str | None) -> str:
    """Name the job file in each command between backticks that takes one and names none."""
    if job is None or "`tru " not in text:
        return text
    return _COMMAND.sub(lambda found: f"`{complete_command(found[1], job=job)}`", text)


def complete_command(command: str, *, job: str) -> str:
    """Name the job file in a command, quoted for a shell. What is no whole command is left as it is."""
    try:
        words = shlex.split(command)[1:]
    except ValueError:  # a quote without its end: no command of ours
        return command
    if not words:
        return command
    if words[0] in _WITH_PATH and all(word.startswith("-") for word in words[1:2]):
        return shlex.join(["tru", words[0], job, *words[1:]])
    takes_option = words[0] in _WITH_OPTION or (words[0] == "delete" and len(words) > 1)
    if not takes_option or "--job" in words or job == DEFAULT_JOB:
        return command
    return f"{command} --job {shlex.quote(job)}"


def complete_figures(value: Any, *, job: str | None) -> Any:
    """The same for every text in figures."""
    if isinstance(value, str):
        return complete_text(value, job=job)
    if isinstance(value, dict):
        return {name: complete_figures(entry, job=job) for name, entry in value.items()}
    if isinstance(value, list):
        return [complete_figures(entry, job=job) for entry in value]
    return value
