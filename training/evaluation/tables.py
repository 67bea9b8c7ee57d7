"""The results as a markdown table, a protocol in words, and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS: dict[str, tuple[str, str]] = {
    "fvd": ("FVD", "{:.0f}"),
    "fvd_latent": ("FVD after the autoencoder", "{:.0f}"),
    "fid": ("FID of frames", "{:.1f}"),
    "fid_latent": ("FID after the autoencoder", "{:.1f}"),
    "object": ("object", "%"),
    "motion": ("motion", "%"),
    "place": ("place", "%"),
    "all": ("all three", "%"),
    "R@1": ("retrieval R@1", "%"),
    "R@5": ("retrieval R@5", "%"),
    "clipsim": ("CLIPSIM", "{:.2f}"),
    "diversity": ("LPIPS between seeds", "{:.3f}"),
    "flicker": ("flicker (of 255)", "{:.2f}"),
    "warping": ("warping error", "{:.4f}"),
}
SECONDS = ("text", "network", "decode")


def shown(value: list[float], style: str) -> str:
    """A number with half the width of its interval, where there is one."""
    estimate, half = value[0], (value[2] - value[1]) / 2
    if style == "%":
        return f"{100 * estimate:.0f} ± {100 * half:.0f} %"
    text = style.format(estimate)
    return text if half == 0 else f"{text} ± {style.format(half)}"


def markdown(rows: Mapping[str, Mapping[str, Any]], latency: bool = False) -> str:
    """The table; columns that no row has are left out.

    Args:
        rows: by name, see `results.measure_row`.
        latency: also the seconds a clip by stage.
    """
    present = [c for c in COLUMNS if any(c in r["values"] for r in rows.values())]
    head = ["clips", "network calls", *(COLUMNS[c][0] for c in present)]
    head += [f"{s}, s" for s in SECONDS] if latency else []
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        cells = [shown(row["values"][c], COLUMNS[c][1]) if c in row["values"] else "-" for c in present]
        if latency:
            cells += [f"{row['seconds'][s]:.3f}" if row.get("seconds") else "-" for s in SECONDS]
        lines.append(f"| {name} | {row.get('network_calls', '-')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """The protocol as one paragraph."""
    return "Protocol: " + "; ".join(f"{key}: {value}" for key, value in protocol.items()) + "."


def plot(rows: Mapping[str, Mapping[str, Any]], path: Path, measure: str = "fvd") -> bool:
    """Draw a measure over the number of steps, a line for each network and sampler, with its interval.

    Args:
        rows: by name.
        path: where to write; its ending says whether PNG or SVG.
        measure: column.

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
    axes.set_ylabel(COLUMNS[measure][0])
    if measure.startswith(("fvd", "fid")):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
