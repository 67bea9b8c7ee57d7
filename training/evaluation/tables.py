"""The results as a markdown table, a protocol in words, and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .measures import MEASURES, Measure
from .references import titles

Columns = Mapping[str, tuple[str, str]]
"""Title of each column and how its numbers are written, in the order of the table."""
FRECHET: Columns = titles((), "")


def columns_of(
    measures: Mapping[str, Measure], references: Sequence[str] = (), own: str = ""
) -> dict[str, tuple[str, str]]:
    """The columns that measures may fill: distances first, then what judges of the corpus say, then the rest.

    Args:
        measures: all of them.
        references: names of further corpora that distances are to.
        own: name of the evaluation's corpus among them.
    """
    judged = {n: m for n, m in measures.items() if n not in MEASURES}
    others = [dict(m.titles) for m in (*judged.values(), *(m for n, m in measures.items() if n not in judged))]
    return titles(references, own) | {key: value for title in others for key, value in title.items()}


SECONDS = ("text", "network", "decode")


def shown(value: list[float], style: str) -> str:
    """A number with half the width of its interval, where there is one."""
    estimate, half = value[0], (value[2] - value[1]) / 2
    if style == "%":
        return f"{100 * estimate:.0f} ± {100 * half:.0f} %"
    text = style.format(estimate)
    return text if half == 0 else f"{text} ± {style.format(half)}"


def markdown(rows: Mapping[str, Mapping[str, Any]], latency: bool = False, columns: Columns | None = None) -> str:
    """The table; columns that no row has are left out.

    Args:
        rows: by name, see `results.measure_row`.
        latency: also the seconds a clip by stage.
        columns: see `columns_of`; None is those of any video.
    """
    columns = columns_of(MEASURES) if columns is None else columns
    present = [c for c in columns if any(c in r["values"] for r in rows.values())]
    head = ["clips", "network calls", *(columns[c][0] for c in present)]
    head += [f"{s}, s" for s in SECONDS] if latency else []
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cells = [shown(row["values"][c], columns[c][1]) if c in row["values"] else "-" for c in present]
        if latency:
            cells += [f"{row['seconds'][s]:.3f}" if row.get("seconds") else "-" for s in SECONDS]
        lines.append(f"| {name} | {row.get('network_calls', '-')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """The protocol as one paragraph."""
    return "Protocol: " + "; ".join(f"{key}: {value}" for key, value in protocol.items()) + "."


def plot(rows: Mapping[str, Mapping[str, Any]], path: Path, measure: str = "fvd", columns: Columns = FRECHET) -> bool:
    """Draw a measure over the number of steps, a line for each network and sampler, with its interval.

    Args:
        rows: by name.
        path: where to write; its ending says whether PNG or SVG.
        measure: column.
        columns: titles of them.

    Returns:
        False when there is nothing to draw.
    """
    lines: dict[str, list[tuple[int, list[float]]]] = {}
    for row in rows.values():
        if row.get("steps") and measure in row["values"]:
            key = f"{row['model']}, {row['sampler']}" + (f", cfg {row['cfg']:g}" if row["cfg"] != 1 else "")
            lines.setdefault(key, []).append((row["steps"], row["values"][measure]))
    if not lines:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for key, points in lines.items():
        points.sort()
        steps, values = [p[0] for p in points], [p[1] for p in points]
        axes.plot(steps, [v[0] for v in values], marker="o", label=key)
        axes.fill_between(steps, [v[1] for v in values], [v[2] for v in values], alpha=0.15)
    ticks = sorted({p[0] for points in lines.values() for p in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("sampling steps")
    axes.set_ylabel(columns[measure][0])
    if measure.startswith(("fvd", "fid")):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
