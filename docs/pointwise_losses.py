"""Draws every elementwise loss and its derivative, from the functions themselves: `python docs/pointwise_losses.py`."""

import argparse
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxloss

HERE = pathlib.Path(__file__).parent
COLUMNS = 4
# ink, derivative, axes, background of each theme
THEMES = {
    "light": ("#1b1f24", "#c2410c", "#d0d7de", "#ffffff"),
    "dark": ("#e6edf3", "#ff9e64", "#3d444d", "#0d1117"),
}

# loss, target, options, from, to, where the axis of the values ends
CURVES = [
    ("squared_error", 0.0, {}, -2.5, 2.5, 4),
    ("l2_loss", 0.0, {}, -2.5, 2.5, 4),
    ("absolute_error", 0.0, {}, -2.5, 2.5, 4),
    ("huber_loss", 0.0, {"delta": 1.0}, -2.5, 2.5, 4),
    ("smooth_l1_loss", 0.0, {"beta": 2.0}, -2.5, 2.5, 4),
    ("charbonnier_loss", 0.0, {"epsilon": 1.0}, -2.5, 2.5, 4),
    ("log_cosh", 0.0, {}, -2.5, 2.5, 4),
    ("quantile_loss", 0.0, {"quantile": 0.8}, -2.5, 2.5, 4),
    ("absolute_percentage_error", 2.0, {}, 0.0, 5.0, 160),
    ("squared_logarithmic_error", 1.0, {}, -0.95, 5.0, 4),
    ("poisson_nll_loss", 2.0, {"full": True}, 0.05, 6.0, 5),
    ("poisson_nll_loss_with_log_rates", 2.0, {"full": True}, -3.0, 2.5, 6),
    ("gaussian_nll_loss", 0.0, {"variance": 0.5, "full": True}, -2.5, 2.5, 5),
    ("gaussian_nll_loss_with_log_variance", 0.0, {"log_variance": 1.0, "full": True}, -2.5, 2.5, 5),
    ("hinge_loss", 1.0, {}, -2.5, 2.5, 4),
    ("squared_hinge_loss", 1.0, {}, -1.5, 2.5, 5),
    ("soft_margin_loss", 1.0, {}, -2.5, 2.5, 4),
    ("perceptron_loss", 1.0, {}, -2.5, 2.5, 4),
    ("sparsemax_loss", 1.0, {}, -3.0, 2.5, 4),
    ("sigmoid_binary_cross_entropy", 1.0, {}, -5.0, 5.0, 5),
    ("sigmoid_focal_loss", 1.0, {"gamma": 2.0}, -5.0, 5.0, 5),
    ("binary_cross_entropy", 0.75, {}, 0.001, 0.999, 5),
    ("ppo_clip_loss", -1.5, {"advantages": -1.0}, -3.0, 0.0, 5),
    ("sapo_loss", -1.5, {"advantages": -1.0}, -3.0, 0.0, 5),
    ("kl_estimate", -1.5, {}, -4.0, 0.0, 4),
    ("dpo_loss", 0.0, {"beta": 1.0}, -5.0, 5.0, 5),
    ("kto_loss", 1.0, {"beta": 1.0}, -5.0, 5.0, 1),
    ("odds_ratio_loss", -1.0, {}, -4.0, -0.001, 4),
]


def curve(loss: Callable[..., jax.Array], x: np.ndarray, target: float) -> tuple[np.ndarray, np.ndarray]:
    """The loss and its derivative at each x; where it jumps, a gap."""
    value, slope = jax.vmap(jax.value_and_grad(lambda x: loss(x, jnp.asarray(target, x.dtype))))(jnp.asarray(x))
    value, slope = np.array(value), np.array(slope)
    step = np.abs(np.diff(slope))
    jumps = step > 50 * np.median(step) + 0.2 * np.ptp(slope[np.isfinite(slope)])
    slope[1:][jumps] = np.nan
    return value, slope


def draw(ax: plt.Axes, theme: str, name: str, *rest: Any) -> None:
    target, options, start, stop, top = rest
    ink, accent, axes, _ = THEMES[theme]
    x = np.linspace(start, stop, 401, dtype=np.float32)
    value, slope = curve(functools.partial(getattr(jaxloss, name), **options), x, target)
    ax.axhline(0, color=axes, lw=0.8, zorder=0)
    ax.axvline(target, color=axes, lw=0.8, ls=":", zorder=0)
    ax.plot(x, slope, color=accent, lw=1.6)
    ax.plot(x, value, color=ink, lw=2.2)
    given = ", ".join(f"{k}={v:g}" if not isinstance(v, bool) else k for k, v in {"target": target, **options}.items())
    ax.text(0, 1.03, given, transform=ax.transAxes, fontsize=9, color=ink, alpha=0.7)
    ax.set(xlim=(start, stop), ylim=(-top / 2, top), facecolor="none")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(axes)
    ax.tick_params(labelsize=9, colors=ink, color=axes)


def save(figure: plt.Figure, picture: pathlib.Path, theme: str) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, facecolor=THEMES[theme][-1], metadata={"Date": None})
    plt.close(figure)


def draw_each(folder: pathlib.Path) -> None:
    """A picture of each loss, for its page."""
    for theme in THEMES:
        for name, *rest in CURVES:
            figure, ax = plt.subplots(figsize=(4, 2.6), layout="constrained")
            draw(ax, theme, name, *rest)
            save(figure, folder / f"{name}-{theme}.svg", theme)


def main(folder: pathlib.Path = HERE) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "svg.hashsalt": "jaxloss"}
    rows = -(-len(CURVES) // COLUMNS)
    for theme, (ink, *_) in THEMES.items():
        figure, axes = plt.subplots(rows, COLUMNS, figsize=(2.9 * COLUMNS, 2.7 * rows), layout="constrained")
        for ax in axes.flat[len(CURVES) :]:
            ax.axis("off")
        for ax, (name, *rest) in zip(axes.flat, CURVES, strict=False):
            draw(ax, theme, name, *rest)
            lines = re.sub("_(with|cross|percentage|logarithmic|nll|log)", r"\n\1", name, count=2)
            ax.set_title(f"{lines}\n", loc="left", fontsize=11, family="DejaVu Sans Mono", color=ink, pad=4)
        head = "Each loss and (thin, orange) its derivative, by the prediction"
        figure.suptitle(head, x=0.005, ha="left", fontsize=13, color=ink)
        save(figure, folder / f"pointwise_losses-{theme}.svg", theme)
    print(f"the pictures are in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, default=HERE)
    main(**vars(parser.parse_args()))
