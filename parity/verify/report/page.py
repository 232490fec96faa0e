"""The report as one HTML page: no script, no external resource, readable in light, dark and print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from . import plots

_CSS = Path(__file__).with_name("page.css")
_CLASSES = {
    "IDENTICAL": "identical",
    "EQUIVALENT": "pass",
    "WITHIN PRECISION": "precision",
    "DIFFERENT": "fail",
    "INCONCLUSIVE": "inconclusive",
}
_WORDS = {
    "identical": "same bits",
    "pass": "passed",
    "precision": "within precision",
    "fail": "failed",
    "inconclusive": "undecided",
    "uncovered": "not covered",
    "not run": "not run",
}


def page(data: dict[str, Any]) -> str:
    """The whole page."""
    parts = [_head(data), _ladder(data), _figures(data), _plots(data), _gates(data), _prompts(data), _forks(data), _tools(data)]
    parts += [_coverage(data), _cost(data), _environments(data), _method(data), _reproduce(data)]
    title = f"{data['verdict']['word']}: {_name(data, 'a')} and {_name(data, 'b')}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{_CSS.read_text()}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _name(data: dict[str, Any], side: str) -> str:
    return str(data["sides"][side]["identity"]["side"])


def _head(data: dict[str, Any]) -> str:
    verdict = data["verdict"]
    lines = [f"<p>{escape(verdict['meaning'])}</p>"]
    if verdict["cause"]:
        lines.append(f"<p><b>{escape(verdict['cause'])}</b></p>")
    if verdict["needs"]:
        lines.append(f"<p>To decide it: {escape(verdict['needs'])}.</p>")
    lines.append(f'<p class="caution">{escape(verdict["caution"])}</p>')
    word = f'<p class="word">{escape(verdict["word"])}</p>'
    return (
        f"<h1>Is it the same model? Verified {escape(data['made_at'])}</h1>"
        f'<section class="verdict {_CLASSES[verdict["word"]]}">{word}{"".join(lines)}</section>'
        f'<section class="sides">{_side(data, "a")}{_side(data, "b")}</section>'
    )


def _side(data: dict[str, Any], side: str) -> str:
    identity = data["sides"][side]["identity"]
    facts = [identity["model"], identity["architecture"], identity["stack"], identity["dtype"] or "unknown precision"]
    text = " · ".join(escape(str(fact)) for fact in facts if fact)
    return f"<div><span>{side.upper()}</span> <b>{escape(identity['side'])}</b><br><span>{text}</span></div>"


def _figures(data: dict[str, Any]) -> str:
    """What a reader in a hurry looks for: how much was compared, and how far apart it is."""
    found = {finding["gate"]: finding for finding in data["findings"]}
    shown = [(str(len(data["prompts"])), "prompts")]
    shown.append((f"{sum(seen['positions'] for seen in data['coverage'].values()):,}", "positions compared"))
    for gate, words in (
        ("float32_kl", "mean KL in float32"),
        ("kl", "mean KL as they serve"),
        ("ratio", "times as far off as A"),
    ):
        finding = found.get(gate)
        if finding and finding["estimate"] is not None:
            shown.append((_figure(finding["estimate"]), f"{words}, limit {_figure(finding['threshold'])}"))
    answered = [prompt for prompt in data["prompts"] if prompt["same_answer"] is not None]
    if answered:
        shown.append((f"{sum(p['same_answer'] for p in answered)} of {len(answered)}", "answers the same"))
    cells = "".join(f"<div><b>{escape(number)}</b><span>{escape(words)}</span></div>" for number, words in shown)
    return f'<section class="figures">{cells}</section>'


def _ladder(data: dict[str, Any]) -> str:
    rungs = "".join(
        f'<li class="{level["outcome"].replace(" ", "-")}"><i>{level["level"]}</i><b>{escape(level["name"])}</b>'
        f"{_WORDS[level['outcome']]}</li>"
        for level in data["levels"]
    )
    return f'<ol class="ladder">{rungs}</ol>'


def _plots(data: dict[str, Any]) -> str:
    limits = [
        (f["threshold"], f"limit of the mean, level {f['level']}")
        for f in data["findings"]
        if f["gate"] in ("float32_kl", "kl") and f["threshold"]
    ]
    layer_bands = data["rules"]["layer_bands"]
    dtypes = [data["sides"][side]["identity"]["dtype"] or "unknown" for side in ("a", "b")]
    band = max(layer_bands.get(dtype, layer_bands["unknown"]) for dtype in dtypes)
    drawn = [
        ("How far apart, against each side's own noise", plots.histogram(data["histogram"], limits)),
        ("Over positions", plots.over_positions(data["positions"])),
        ("Over layers", plots.over_layers(data["layers"]["sites"], band)),
    ]
    return "".join(f"<h2>{title}</h2>{plot}" for title, plot in drawn if plot)


def _gates(data: dict[str, Any]) -> str:
    rows = []
    for f in data["findings"]:
        notes = escape(f["text"]) + "".join(f"<small>{escape(event)}</small>" for event in f["events"][:12])
        needed = f"<small>about {f['needed']:,} prompts would decide it</small>" if f["needed"] else ""
        word = f'<span class="{f["outcome"]}">{_WORDS[f["outcome"]]}</span>'
        cells = [str(f["level"]), f"{escape(f['says'])}<small>{notes}{needed}</small>", word]
        numbers = [_figure(f["estimate"]), _figure(f["bound"]), _figure(f["threshold"]), str(f["num_prompts"])]
        rows.append(_row([*cells, *numbers], numeric={3, 4, 5, 6}))
    heads = ["level", "gate", "outcome", "estimate", "bound (99 %)", "limit", "prompts"]
    return f"<h2>Gates</h2>{_table(heads, rows, numeric={3, 4, 5, 6})}"


def _prompts(data: dict[str, Any]) -> str:
    if not data["prompts"]:
        return ""
    rows = []
    for prompt in data["prompts"]:
        means, worst = prompt["kl"].values(), prompt["worst"].values()
        counts = prompt["tokens"][0] if prompt["tokens"][0] == prompt["tokens"][1] else " / ".join(map(str, prompt["tokens"]))
        same = {True: "same", False: "other", None: ""}
        rows.append(
            _row(
                [
                    escape(prompt["id"]),
                    str(counts),
                    same[prompt["same_tokens"]],
                    _figure(max(means, default=None)),
                    _figure(max(worst, default=None)),
                    str(prompt["flips"]),
                    same[prompt["same_answer"]],
                ],
                numeric={1, 3, 4, 5},
            )
        )
    heads = ["prompt", "tokens", "ids", "mean KL", "largest KL", "flips", "answer"]
    return f"<details><summary>Prompts ({len(rows)})</summary>{_table(heads, rows, numeric={1, 3, 4, 5})}</details>"


def _forks(data: dict[str, Any]) -> str:
    if not data["forks"]:
        return ""
    rows = [
        _row([f"{escape(f['id'])}<small>{_where(f)}</small>", f"<pre>{escape(f['a'])}</pre>", f"<pre>{escape(f['b'])}</pre>"])
        for f in data["forks"]
    ]
    return f"<h2>Answers that part</h2>{_table(['prompt', 'A', 'B'], rows)}"


def _where(fork: dict[str, Any]) -> str:
    if fork["position"] is None:
        return "texts differ"
    return f"at token {fork['position']}, margin {_figure(fork['margin']) or 'unknown'} nats"


def _tools(data: dict[str, Any]) -> str:
    if not data["tools"]:
        return ""
    rows = [_row([escape(row["id"]), _calls(row["a"]), _calls(row["b"])]) for row in data["tools"]]
    return f"<h2>Tool calls</h2>{_table(['prompt', 'A', 'B'], rows)}"


def _calls(calls: Sequence[Sequence[str]]) -> str:
    return "".join(f"<pre>{escape(name)} {escape(arguments)}</pre>" for name, arguments in calls) or "none"


def _coverage(data: dict[str, Any]) -> str:
    rows = [
        _row([escape(path.replace("_", " ")), str(seen["prompts"]), str(seen["positions"])], numeric={1, 2})
        for path, seen in data["coverage"].items()
    ]
    missing = [
        f"<li>{side.upper()}: {escape(name)}: {escape(why)}</li>"
        for side in ("a", "b")
        for name, why in data["sides"][side]["unreached"].items()
    ]
    missing += [
        f"<li>level {f['level']}, {escape(f['says'])}: {escape(f['text'])}</li>"
        for f in data["findings"]
        if f["outcome"] == "uncovered"
    ]
    lists = f"<h2>Not covered</h2><ul>{''.join(missing)}</ul>" if missing else ""
    return f"<h2>Paths compared</h2>{_table(['path', 'prompts', 'positions'], rows, numeric={1, 2}, css='short')}{lists}"


def _cost(data: dict[str, Any]) -> str:
    rows = [_row([escape(name), f"{value:.1f} s"], numeric={1}) for name, value in data["cost"]["seconds"].items()]
    if not rows:
        return ""
    table = _table(["what", "time"], rows, numeric={1}, css="short")
    return f"<h2>Cost</h2>{table}<small>Not part of the verdict.</small>"


def _environments(data: dict[str, Any]) -> str:
    identities = [data["sides"][side]["identity"] for side in ("a", "b")]
    plain = ("kind", "model", "architecture", "stack", "dtype", "weights", "config", "tokenizer", "template")
    rows = [_row([name, *(_value(identity[name]) for identity in identities)]) for name in plain]
    rows.append(_row(["sampling", *(_value(identity["sampling"]) for identity in identities)]))
    keys = sorted({key for identity in identities for key in identity["environment"]})
    rows += [_row([escape(key), *(_value(identity["environment"].get(key)) for identity in identities)]) for key in keys]
    return f"<h2>Both environments</h2>{_table(['', 'A', 'B'], rows, css='facts')}"


def _value(value: Any) -> str:
    return "unknown" if value is None else f"<code>{escape(str(value))}</code>"


def _method(data: dict[str, Any]) -> str:
    plan = data["plan"]
    text = (
        f"Suite {plan['suite']} ({plan['suite_hash'][:16]}), gates {plan['gates_hash'][:16]}, seed {plan['seed']}, "
        f"{plan['top_k']} most likely tokens and {plan['sketch_size']} projections a position. These were fixed before B was "
        f"captured. The unit is the prompt. Both families of decisions are held at {100 * data['rules']['family_error']:g} % "
        f"over the report (Holm). A changed token is explained by A's own noise up to a margin of "
        f"{_figure(data['bands']['noise'])} nats, by A's own rounding up to {_figure(data['bands']['rounding'])}, and by the "
        f"sides' precision up to {_figure(data['bands']['precision'])}."
    )
    packs = ", ".join(f"{side.upper()} {data['sides'][side]['pack'][:16]}" for side in ("a", "b"))
    return f"<h2>Method</h2><p>{escape(text)}</p><p>Packs: <code>{escape(packs)}</code></p>"


def _reproduce(data: dict[str, Any]) -> str:
    return f"<h2>Reproduce</h2><pre>{escape(data['command'])}</pre>"


def _table(heads: Sequence[str], rows: Iterable[str], *, numeric: set[int] | None = None, css: str = "plain") -> str:
    top = "".join(f'<th class="n">{h}</th>' if i in (numeric or ()) else f"<th>{h}</th>" for i, h in enumerate(heads))
    return f'<table class="{css}"><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _row(cells: Sequence[str], *, numeric: set[int] | None = None) -> str:
    kinds = ['<td class="n">' if place in (numeric or ()) else "<td>" for place in range(len(cells))]
    return f"<tr>{''.join(f'{kind}{cell}</td>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
