"""Strategies of job files that are nearly valid, with what YAML 1.1 turns into something else."""

from hypothesis import strategies as st

from tests.near_valid import mutated

_BLOCKS = {
    "storage": ("store", "s3://bucket/p", "{url: store}", "{url: s3://b-1/p, endpoint_url: 'https://host'}"),
    "dataset": ("tiny", "'1'"),
    "model": ("tiny-mgcn",),
    "precision": ("float32", "float64"),
    "backbone": ("{name: mgcn, settings: {embedding_size: 8}}", "{name: freedom}"),
    "fit": ("{max_epochs: 1}", "{max_epochs: 2, learning_rate: 1e-3, batch_size: 256}"),
    "forget": ("{regime: user, share: 0.05}", "{regime: item, count: 3}"),
    "unlearn": ("{reverse_steps: 4}", "{tolerance: 0.01}"),
    "scaling": ("{num_workers: 1}", "{start_timeout_seconds: 3.5}"),
    "sweep": ("{module_share: [0.5]}",),
    "delete": ("{audit: 'off', min_requests: 1}", "{on_refused: [stop], grace_days: 0}"),
    "ledger": ("{count_as_verified: true}", "{regulations: {lgpd: {days: 15}}, default_regulation: lgpd}"),
    "keys": ("{folder: keys}",),
    "compare": ("{methods: [{name: tru}], seeds: [0, 1]}", "{forget: [{regime: user, share: 0.05}]}"),
    "audit": ("{}", "{candidates: [{name: tru}]}"),
}
_NASTY_YAML = (
    *(
        "yes",
        "off",
        "010",
        "0o17",
        "1:30",
        "1_000",
        "0x1F",
        "0b11",
        ".inf",
        "-.inf",
        ".nan",
        "1e400",
        "9" * 5000,
        "1e-3",
    ),
    *(
        "2026-13-45",
        "2026-11-30",
        "2026-11-30T25:00:00Z",
        "2001-1-1",
        "0000-00-00",
        "~",
        "null",
        "=",
        "<<",
        "''",
        "' '",
    ),
    *(
        "!!python/object:os.system {}",
        "!!binary aGk=",
        "!!binary '*'",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
    ),
    *(
        "!!timestamp x",
        "!!int x",
        "!!int ''",
        "!!float x",
        "!!bool x",
        "!!null x",
        "!!str 1",
        "!!map []",
        "!!seq {}",
        "!x 1",
    ),
    *(
        "&a [*a]",
        "&a {k: *a}",
        "*b",
        "&a x",
        "{<<: 1}",
        "{<<: {a: 1}}",
        "{<<: [1]}",
        "{? [1]: 2}",
        "{? {a: 1}: 2}",
        "{a, a}",
    ),
    *(
        "[" * 60 + "]" * 60,
        "[" * 3000,
        "{a: " * 40 + "1" + "}" * 40,
        "|\n  a\n  b",
        ">-\n  a",
        '"\\x1b[2J"',
        '"\\0"',
        "'\x85'",
    ),
    *(
        '"\\ud800"',
        '"\\U0010ffff"',
        "\ufeff",
        "\x07",
        "@",
        "`",
        "%",
        "- 1",
        "? x",
        "a: b: c",
        "--- 1",
        "...",
        "#",
        '"',
        "{",
        "]",
    ),
    *(
        "true",
        "1.0",
        "0",
        "-1",
        "1",
        "2.5",
        "'1'",
        "[1, 2]",
        "{}",
        "[]",
        "mgcn",
        "x" * 3000,
        "s3://k:v@b/p",
        "../../etc",
    ),
)


@st.composite
def job_texts(draw: st.DrawFn) -> bytes:
    """A job file of which some settings, names or whole lines are something else."""
    lines = []
    for name, choices in _BLOCKS.items():
        is_needed = name in ("storage", "dataset", "model")
        if not draw(st.integers(0, 30)) if is_needed else draw(st.integers(0, 3)):
            continue
        text = draw(st.sampled_from(choices))
        if draw(st.integers(0, 5)) == 0:
            nasty = draw(st.sampled_from(_NASTY_YAML) | st.text(max_size=8))
            head, colon, rest = text.partition(": ")
            text = f"{head}{colon}{nasty}{rest[rest.find('}') :] if '}' in rest else ''}" if colon else nasty
        lines.append(f"{name}: {text}")
    if draw(st.integers(0, 5)) == 0:
        lines.append(draw(st.sampled_from((*_NASTY_YAML, *lines))))
    if draw(st.integers(0, 9)) == 0:
        num_levels = draw(st.integers(2, 8))
        lines.insert(0, _bomb(num_levels, draw(st.integers(2, 10))))
        lines.append(f"compare: *a{num_levels - 1}")
    line_end = draw(st.sampled_from(("\n", "\n", "\r\n", "\r", "\n\n", "\u2028")))
    return (draw(st.sampled_from(("", "", "\ufeff", "%YAML 1.1\n---\n"))) + line_end.join(lines)).encode(
        errors="replace"
    )


def _bomb(num_levels: int, width: int) -> str:
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, num_levels)]
    return "\n".join(levels)


job_files = mutated(job_texts())
