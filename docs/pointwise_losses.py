"""Draws every elementwise loss and its derivative, from the functions themselves: `python docs/pointwise_losses.py`."""

import argparse
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxloss

INK, ACCENT, MUTED = "#1b1f24", "#c2410c", "#8b949e"
COLUMNS = 6
PAGE = pathlib.Path(__file__).parent / "pointwise_losses.png"

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
]


def curve(loss: Callable[..., jax.Array], x: np.ndarray, target: float) -> tuple[np.ndarray, np.ndarray]:
    """The loss and its derivative at each x; where it jumps, a gap."""
    value, slope = jax.vmap(jax.value_and_grad(lambda x: loss(x, jnp.asarray(target, x.dtype))))(jnp.asarray(x))
    value, slope = np.array(value), np.array(slope)
    step = np.abs(np.diff(slope))
    jumps = step > 50 * np.median(step) + 0.2 * np.ptp(slope[np.isfinite(slope)])
    slope[1:][jumps] = np.nan
    return value, slope


def main(picture: pathlib.Path = PAGE) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED}
    rows = -(-len(CURVES) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(2.5 * COLUMNS, 2.5 * rows), layout="constrained")
    for ax in axes.flat[len(CURVES) :]:
        ax.axis("off")
    for ax, (name, target, options, start, stop, top) in zip(axes.flat, CURVES, strict=False):
        x = np.linspace(start, stop, 801, dtype=np.float32)
        value, slope = curve(functools.partial(getattr(jaxloss, name), **options), x, target)
        ax.axhline(0, color="#d0d7de", lw=0.8, zorder=0)
        ax.axvline(target, color="#d0d7de", lw=0.8, ls=":", zorder=0)
        ax.plot(x, slope, color=ACCENT, lw=1.3)
        ax.plot(x, value, color=INK, lw=2)
        lines = name.replace("_with_", "\nwith_").replace("_cross", "\ncross").replace("_percentage", "\npercentage")
        lines = lines.replace("_logarithmic", "\nlogarithmic")
        given = ", ".join(f"{k}={v:g}" if not isinstance(v, bool) else k for k, v in {"t": target, **options}.items())
        ax.set_title(f"{lines}\n", loc="left", fontsize=9, family="DejaVu Sans Mono", pad=4)
        ax.text(0, 1.02, given, transform=ax.transAxes, fontsize=8, color=MUTED)
        ax.set(xlim=(start, stop), ylim=(-top / 2, top))
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    figure.suptitle("Loss (black) and its derivative (orange) by the prediction", x=0.005, ha="left", fontsize=12)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, facecolor="white")
    plt.close(figure)
    print(f"the picture is {picture}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--picture", type=pathlib.Path, default=PAGE)
    main(**vars(parser.parse_args()))
