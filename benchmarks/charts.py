"""The charts of BENCHMARKS.md, each once for light and once for dark pages."""

import pathlib

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .records import shape_and_dtype
from .tables import Record

WIDTH = 6.5  # inches: letters of 9 pt are as large as those of the page, and 8 pixels on a phone
COLUMNS = 5  # of the legend
THEMES = {"light": ("#1f2328", "#d8dee4"), "dark": ("#e6edf3", "#3d444d")}
# Colour (of a palette that colour-blind people can tell apart), marker, size.
STYLES = {
    "optax": ("#3b8fd4", "s", 7),
    "keras": ("#cc79a7", "D", 6),
    "plain": ("#8c8c8c", "X", 8),
    "scan": ("#5b6ee1", ">", 8),
    "tokamax": ("#1f8f8f", "h", 8),
    "jax-cce": ("#9aa11c", "d", 8),
    "torch": ("#e0a000", "^", 8),
    "torch.compile": ("#009e73", "v", 8),
    "torch.chunked": ("#d55e00", "<", 8),
    "liger": ("#8a63d2", "P", 8),
    "cut_cross_entropy": ("#b8336a", "p", 8),
}
PEERS = tuple(STYLES)


def ratios(records: list[Record], title: str, source: str, file: pathlib.Path) -> None:
    """The time of ours over that of each peer, with its spread; a line a case."""
    names = [name for name in PEERS if any(name in record["candidates"] for record in records)]
    for theme, (text, _) in THEMES.items():
        figure, axis = _figure(theme, records)
        for y, record in enumerate(records):
            for name in (name for name in names if name in record["candidates"]):
                _point(axis, record["candidates"][name]["ours_over_it"], y, name)
        axis.set_title(title, color=text, fontsize=11)
        axis.axvline(1, color=text, linewidth=1.2)
        axis.set_xlabel(f"time of jaxloss over that of a peer (below 1: jaxloss is faster)\n{source}")
        _legend(figure, names, text)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(f"{file}-{theme}.svg", transparent=True, metadata={"Date": None})


def _point(axis: Axes, spread: list[float], y: float, name: str) -> None:
    low, middle, high = spread
    colour, marker, size = STYLES[name]
    axis.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.6)
    axis.plot(middle, y, marker, color=colour, markersize=size, markeredgewidth=0, zorder=3)


def _label(record: Record) -> str:
    return record["loss"].replace("_with_", "\n_with_") + f"\n{shape_and_dtype(record)}"


def _figure(theme: str, records: list[Record]) -> tuple[Figure, Axes]:
    text, grid = THEMES[theme]
    mpl.rcParams.update({"svg.hashsalt": "jaxloss", "font.size": 9})
    figure = Figure(figsize=(WIDTH, 1.4 + 0.46 * len(records)), layout="constrained")
    axis = figure.subplots()
    axis.set_facecolor("none")
    axis.set_ylim(len(records) - 0.5, -0.5)
    axis.set_yticks(range(len(records)), [_label(record) for record in records], linespacing=1)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axis.xaxis.label.set_color(text)
    axis.grid(color=grid, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=text, length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure, axis


def _legend(figure: Figure, names: list[str], text: str) -> None:
    marks = [
        mpl.lines.Line2D([], [], color=colour, marker=marker, markersize=size, markeredgewidth=0, linestyle="")
        for colour, marker, size in (STYLES[name] for name in names)
    ]
    figure.legend(marks, names, loc="outside upper center", ncols=COLUMNS, frameon=False, labelcolor=text)
