"""The charts of BENCHMARKS.md, each once for light and once for dark pages."""

import math
import pathlib
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .records import shape_and_dtype
from .tables import OF_PRODUCTS, OF_SEQUENCES
from .targets import ABSENT

Record = dict[str, Any]
MIB = 2**20
THEMES = {"light": ("#1f2328", "#d8dee4"), "dark": ("#e6edf3", "#30363d")}
# Colour (of a palette that colour-blind people can tell apart), marker, size.
STYLES = {
    "jaxloss": ("#d55e00", "o", 9),
    "optax": ("#3b8fd4", "s", 6),
    "keras": ("#cc79a7", "D", 5),
    "plain": ("#8c8c8c", "X", 6),
    "scan": ("#5b6ee1", ">", 6),
    "tokamax": ("#1f8f8f", "h", 6),
    "jax-cce": ("#9aa11c", "d", 6),
    "torch": ("#e0a000", "^", 6),
    "torch.compile": ("#009e73", "v", 6),
    "torch.chunked": ("#7a5230", "<", 6),
    "liger": ("#8a63d2", "P", 6),
    "cut_cross_entropy": ("#b8336a", "p", 6),
}


def times(records: list[Record], names: list[str], source: str, file: pathlib.Path, floor: str, whole: str) -> None:
    """Time over the floor with its spread, and temporaries over the whole, predictions or logits; a line a case."""
    for theme in THEMES:
        figure, (left, right) = _figure(theme, len(records), columns=[3, 2])
        for name in reversed(names):
            colour, *_ = STYLES[name]
            for y, record in enumerate(records):
                if name not in record["candidates"]:
                    continue
                found = record["candidates"][name]
                low, middle, high = found["of_floor"]
                left.plot([low, high], [y, y], color=colour, linewidth=1.5, alpha=0.6)
                _mark(left, middle, y, name)
                if found["temp_bytes"] is not None:
                    _mark(right, _share(record, found), y, name)
        left.axvline(1, color=THEMES[theme][0], linewidth=1)
        left.set_xscale("log")
        left.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        left.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        left.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        left.set_xlabel(f"time over {floor} (median; bar: 20 % to 80 %)")
        _from_zero(right)
        right.set_xlabel(f"temporaries over {whole}, at least 1 MiB", loc="right")
        left.set_yticks(range(len(records)), [_label(r) for r in records])
        right.set_yticks(range(len(records)), [])
        figure.supxlabel(source, fontsize=8)
        _finish(figure, names, file, theme)


END = 4.2  # of the axis of what compilers say; what is beyond is written


def temporaries(records: list[Record], source: str, file: pathlib.Path) -> None:
    """What compilers say, a panel a target."""
    targets = [target for target in ABSENT if any(r["target"] == target for r in records)]
    names = [name for name in STYLES if any(name in r["candidates"] for r in records)]
    first = [r for r in records if r["target"] == targets[0]]
    for theme in THEMES:
        figure, axes = _figure(theme, len(first), columns=[1] * len(targets))
        for axis, target in zip(axes, targets, strict=True):
            of_target = [r for r in records if r["target"] == target]
            for y, record in enumerate(of_target):
                found = {name: record["candidates"].get(name) or {"temp_bytes": None} for name in names}
                shares = {name: _share(record, f) for name, f in found.items() if f["temp_bytes"] is not None}
                beyond = ", ".join(f"{name} {share:.0f}" for name, share in shares.items() if share > END)
                axis.text(0, y, beyond, color=THEMES[theme][0], fontsize=7, va="center")
            for name in reversed(names):
                for y, record in enumerate(of_target):
                    found = record["candidates"].get(name)
                    if found is not None and found["temp_bytes"] is not None:
                        _mark(axis, _share(record, found), y, name)
                    elif found is not None and name == "jaxloss":
                        axis.text(0, y, "too large", color=THEMES[theme][0], fontsize=8, va="center")
            axis.set_xlim(-0.2, END)
            axis.set_title(ABSENT[target], fontsize=10)
            axis.set_yticks(range(len(first)), [_label(r) for r in first] if axis is axes[0] else [])
        figure.supxlabel(
            f"temporaries over the predictions (or logits), at least 1 MiB (compiler estimate, no device; {source})",
            fontsize=9,
        )
        _finish(figure, names, file, theme)


def _mark(axis: Axes, x: float, y: float, name: str) -> None:
    """Ours is a ring, through which the others show."""
    colour, marker, size = STYLES[name]
    ring = name == "jaxloss"
    axis.plot(
        x,
        y,
        marker,
        color=colour,
        markersize=size,
        markerfacecolor="none" if ring else colour,
        markeredgewidth=2.2 if ring else 0,
        zorder=3,
    )


def _share(record: Record, found: Record) -> float:
    """Of the size of the predictions or logits; what is below a MiB is nothing, for arrays of a few KiB have such."""
    rows, *others, classes = record["shape"]
    rows *= math.prod(others if record["loss"] == "rnnt_loss" else others[:1]) if record["loss"] in OF_SEQUENCES else 1
    half = record["dtype"] == "bfloat16" and record["loss"] not in OF_PRODUCTS  # whose logits are in float32
    size = rows * classes * (2 if half else 4)
    return found["temp_bytes"] / max(size, MIB)


def _from_zero(axis: Axes) -> None:
    most = max(1, axis.dataLim.x1)
    axis.set_xlim(-0.05 * most, 1.05 * most)
    if most > 20:  # one loss would press all others against 0
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(-0.1, 2 * most)
        axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))


def _label(record: Record) -> str:
    loss = record["loss"].replace("_with_integer_labels", "\nwith_integer_labels").replace("_with_zero", "\nwith_zero")
    return f"{loss}  {shape_and_dtype(record)}"


def _figure(theme: str, rows: int, columns: list[int]) -> tuple[Figure, list[Axes]]:
    text, grid = THEMES[theme]
    mpl.rcParams.update({"svg.hashsalt": "jaxloss", "font.size": 9})
    figure = Figure(figsize=(11, 1.3 + 0.36 * rows), layout="constrained")
    axes = figure.subplots(1, len(columns), width_ratios=columns)
    for axis in axes:
        axis.set_facecolor("none")
        axis.set_ylim(rows - 0.5, -0.5)
        axis.grid(color=grid, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=text, length=0)
        for part in (axis.xaxis.label, axis.title):
            part.set_color(text)
        for spine in axis.spines.values():
            spine.set_visible(False)
    return figure, list(axes)


def _finish(figure: Figure, names: list[str], file: pathlib.Path, theme: str) -> None:
    text, _ = THEMES[theme]
    handles = [
        mpl.lines.Line2D(
            [],
            [],
            color=STYLES[n][0],
            marker=STYLES[n][1],
            markersize=STYLES[n][2],
            markerfacecolor="none" if n == "jaxloss" else STYLES[n][0],
            markeredgewidth=2.2 if n == "jaxloss" else 0,
            linestyle="",
        )
        for n in names
    ]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, labelcolor=text)
    if figure._supxlabel is not None:
        figure._supxlabel.set_color(text)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(f"{file}-{theme}.svg", transparent=True, metadata={"Date": None})
