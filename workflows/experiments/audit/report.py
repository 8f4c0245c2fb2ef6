"""One static HTML page for an audit: no script, no font, no picture from elsewhere; it can be mailed and archived.

First the verdict in words, then what each attack saw, drawn on one axis (the band that a Retrain lies in, the Original,
the candidate with its interval), then what nobody looked at, and last what an auditor needs to do it again.
"""

import json
from html import escape
from typing import Any

Figures = dict[str, Any]

VERDICT_WORDS = {
    "passed": "Passed: by every attack that can tell anything here, this model looks like one that never saw the data.",
    "failed": "Failed: at least one attack still tells that this model saw the data, or that it was pushed too far.",
    "inconclusive": "Inconclusive: no attack found anything, but too few would have. This is no pass.",
}
ASPECT_TITLES = {
    "subject": "What the model still does for the deleted subjects",
    "shared": "What shared tables and other people's vectors still tell",
    "retained": "The privacy of those who stay",
    "exact": "Rules without noise",
    "reported": "For the reader: bears no verdict",
}
_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #d9dee6; --pass: #1a7f4b; --fail: #b3261e;
  --none: #8a5a00; --band: #cfe3f7; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 20px; margin: 40px 0 8px; }
h3 { font-size: 15px; margin: 24px 0 4px; }
p { margin: 6px 0; max-width: 78ch; } .soft { color: var(--soft); }
.verdict { border-left: 6px solid var(--none); background: #fbf6ec; padding: 10px 16px; margin: 12px 0; }
.verdict.passed { border-color: var(--pass); background: #eef8f2; }
.verdict.failed { border-color: var(--fail); background: #fdf0ef; }
.word { font-weight: 600; } .word.passed { color: var(--pass); } .word.failed { color: var(--fail); }
.word.inconclusive { color: var(--none); } .word.reported { color: var(--soft); font-weight: 400; }
table { border-collapse: collapse; width: 100%; margin: 8px 0 4px; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
td, th { padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.findings { table-layout: fixed; } td small { display: block; color: var(--soft); } svg { display: block; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); }
pre { overflow-x: auto; background: #f6f8fa; padding: 12px; font-size: 12px; }
ul { max-width: 78ch; padding-left: 20px; }
.key span { margin-right: 18px; white-space: nowrap; }
@media print { details { display: block; } body { padding: 0; } }
"""
_WIDTH, _HEIGHT = 250, 34
_COLUMN_SHARES = (17, 29, 26, 9, 5, 14)


def audit_page(figures: Figures) -> str:
    """Write the page of an audit.

    Args:
        figures: What :func:`workflows.experiments.audit.audit.audit` gives.
    """
    title = f"Audit: {figures['backbone']} on {figures['dataset']}, {figures['forget']}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Model {escape(figures["model"])}. {_evidence(figures["audits"][0])}</p>',
        _summary(figures["audits"]) if len(figures["audits"]) > 1 else "",
        *(_candidate(audit) for audit in figures["audits"]),
        _limits(figures["audits"]),
        _again(figures),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _evidence(audit: Figures) -> str:
    if audit["reference"] == "retrain":
        against = f"Held against {audit['num_retrains']} models that were retrained without the data, from other seeds."
    else:
        against = "Held against the level of data that no model ever saw: weaker evidence than retrained models."
    return f"{against} {audit['num_shadows']} shadow models. {audit['num_forget']} interactions were to be forgotten."


def _word(verdict: str) -> str:
    return f'<span class="word {escape(verdict)}">{escape(verdict)}</span>'


def _summary(audits: list[Figures]) -> str:
    rows = []
    for audit in audits:
        recalls = audit["recalls"]["candidate"]
        failed = sorted({f["attack"] for f in audit["findings"] if f["verdict"] == "failed"})
        rows.append(
            f"<tr><td>{escape(audit['candidate'])}</td><td>{_word(audit['verdict'])}</td>"
            f"<td>{escape(', '.join(failed)) or '-'}</td>"
            f'<td class="number">{recalls["test_recall20"]:.4f}</td>'
            f'<td class="number">{recalls["forget_recall20"]:.4f}</td></tr>'
        )
    head = '<th>candidate</th><th>verdict</th><th>failed by</th><th class="number">test R@20</th>'
    head += '<th class="number">forget R@20</th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _candidate(audit: Figures) -> str:
    verdict = audit["verdict"]
    parts = [
        f"<h2>{escape(audit['candidate'])}</h2>",
        f'<div class="verdict {escape(verdict)}"><p class="word {escape(verdict)}">{VERDICT_WORDS[verdict]}</p>'
        f"<p>{escape(audit['reason'])}</p></div>",
        _recalls(audit["recalls"]),
    ]
    if audit["optimised"]:
        names = escape(", ".join(audit["optimised"]))
        parts.append(f"<p>The method optimises what these attacks measure: no evidence for it. {names}.</p>")
    parts.append(_KEY)
    for aspect, title in ASPECT_TITLES.items():
        findings = [finding for finding in audit["findings"] if finding["aspect"] == aspect]
        if findings:
            parts += [f"<h3>{title}</h3>", _findings(findings)]
    return "\n".join(parts)


_KEY = (
    '<p class="soft key"><span><svg width="22" height="12" style="display:inline"><rect x="1" y="1" width="20" '
    'height="10" fill="#cfe3f7"/><rect x="7" y="1" width="8" height="10" fill="#9cc3e6"/></svg> where a retrained '
    'model may lie, and where those of other seeds do</span><span><svg width="14" height="12" '
    'style="display:inline"><path d="M7 1 L13 6 L7 11 L1 6 Z" fill="#5b6675"/></svg> Original</span><span>'
    '<svg width="26" height="12" style="display:inline"><line x1="1" x2="25" y1="6" y2="6" stroke="#1c2430" '
    'stroke-width="2"/><circle cx="13" cy="6" r="4.5" fill="#1c2430"/></svg> candidate, 95 % interval</span></p>'
)


def _recalls(recalls: Figures) -> str:
    """What the candidate is still good for, beside the Original and the Retrains."""
    retrained = [row["test_recall20"] for row in recalls["retrains"]]
    text = f"Recall@20 of everybody who stays: {recalls['candidate']['test_recall20']:.4f}"
    text += f" (Original {recalls['original']['test_recall20']:.4f}"
    text += f", Retrain {min(retrained):.4f} to {max(retrained):.4f})." if retrained else ")."
    return f"<p>{text}</p>"


def _findings(findings: list[Figures]) -> str:
    rows = []
    for finding in findings:
        name = escape(finding["attack"]) + (" (optimised)" if finding.get("is_optimised") else "")
        rows.append(
            f"<tr><td>{name}<small>{escape(finding['paper'])}</small></td>"
            f"<td>{escape(finding['statistic'])}<small>{escape(finding['reason'])}</small></td>"
            f"<td>{_picture(finding)}</td>"
            f'<td class="number">{finding["value"]:.3f}<small>{finding["low"]:.3f} to {finding["high"]:.3f}</small>'
            f'</td><td class="number">{finding["num_cases"]}</td>'
            f"<td>{_word(finding['verdict'])}{_controls(finding)}</td></tr>"
        )
    head = "<th>attack</th><th>what is measured</th><th>seen</th>"
    head += '<th class="number">candidate</th><th class="number">cases</th><th>verdict</th>'
    widths = "".join(f'<col style="width:{share}%">' for share in _COLUMN_SHARES)
    columns = f"<colgroup>{widths}</colgroup>"
    return f'<table class="findings">{columns}<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _controls(finding: Figures) -> str:
    """Whether the attack saw the Original, and took no Retrain for guilty."""
    words = {True: "yes", False: "no"}
    texts = []
    if finding["positive_control"] is not None:
        texts.append(f"sees the Original: {words[finding['positive_control']]}")
    if finding["negative_control"] is not None:
        texts.append(f"lets Retrains pass: {words[finding['negative_control']]}")
    if finding["smallest_effect"] is not None:
        texts.append(f"finds from {finding['smallest_effect']:.3f} away")
    return f"<small>{'; '.join(texts)}</small>" if texts else ""


def _picture(finding: Figures) -> str:
    """Draw a finding on one axis that spans all that is drawn."""
    centre, margin, original = finding["reference_value"], finding["margin"], finding["original"]
    marks = [finding["low"], finding["high"], finding["value"]]
    marks += [] if original is None else [original]
    marks += [seed for seed in (finding["reference_low"], finding["reference_high"]) if seed is not None]
    marks += [] if centre is None else [centre - (margin or 0.0), centre + (margin or 0.0)]
    low, high = min(marks), max(marks)
    spare = 0.06 * (high - low) or 0.5
    low, high = low - spare, high + spare

    def x(value: float) -> float:
        return 6 + (_WIDTH - 12) * (value - low) / (high - low)

    shapes = [f'<line x1="0" x2="{_WIDTH}" y1="17" y2="17" stroke="#d9dee6"/>']
    if centre is not None and margin:
        left, right = x(centre - margin), x(centre + margin)
        shapes.append(f'<rect x="{left:.1f}" y="5" width="{right - left:.1f}" height="24" fill="#cfe3f7"/>')
    seeds = finding["reference_low"], finding["reference_high"]
    if centre is not None and seeds[0] is not None and seeds[1] is not None:
        left, right = x(seeds[0]), x(seeds[1])
        shapes.append(f'<rect x="{left:.1f}" y="5" width="{right - left:.1f}" height="24" fill="#9cc3e6"/>')
    if centre is not None:
        shapes.append(f'<line x1="{x(centre):.1f}" x2="{x(centre):.1f}" y1="5" y2="29" stroke="#5b8fc4"/>')
    if original is not None:
        at = x(original)
        shapes.append(f'<path d="M{at:.1f} 10 L{at + 7:.1f} 17 L{at:.1f} 24 L{at - 7:.1f} 17 Z" fill="#5b6675"/>')
    left, right, at = x(finding["low"]), x(finding["high"]), x(finding["value"])
    shapes.append(
        f'<line x1="{left:.1f}" x2="{right:.1f}" y1="17" y2="17" stroke="#1c2430" stroke-width="2"/>'
        f'<circle cx="{at:.1f}" cy="17" r="5" fill="#1c2430"/>'
    )
    seen = f"candidate {finding['value']:.3f}"
    seen += "" if original is None else f", Original {original:.3f}"
    seen += "" if centre is None else f", reference {centre:.3f}"
    label = f'role="img" aria-label="{escape(seen)}"'
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" {label}><title>{escape(seen)}</title>{"".join(shapes)}</svg>'


def _limits(audits: list[Figures]) -> str:
    """What none of it shows: each attack's own limit once, and those of all audits."""
    own = {finding["attack"]: finding["shows_not"] for audit in audits for finding in audit["findings"]}
    lines = [f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in own.items()]
    lines += [
        "<li>An audit bounds what these attacks can see. A stronger one may see more: it is no proof of absence.</li>",
        "<li>It looks at the model, not at logs, backups, caches or copies outside this store.</li>",
        "<li>Who runs the audit is trusted: a report does not protect against a dishonest operator.</li>",
    ]
    return f"<h2>What this does not show</h2><ul>{''.join(lines)}</ul>"


def _again(figures: Figures) -> str:
    """What an auditor needs in order to do it again: settings, seeds, digests, every figure."""
    parts = ["<h2>To do it again</h2>", "<details><summary>Settings of the job</summary>", _json(figures["settings"])]
    parts.append("</details>")
    for audit in figures["audits"]:
        name = escape(audit["candidate"])
        parts += [f"<details><summary>{name}: digests of all that was looked at</summary>", _json(audit["inputs"])]
        parts += [f"</details><details><summary>{name}: every figure</summary>", _json(audit["findings"]), "</details>"]
    return "".join(parts)


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))}</pre>"
