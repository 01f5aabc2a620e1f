"""Draws the loss and the gradient of a confident row, here and elsewhere: `python docs/confident_row.py`.

It needs optax, Keras and PyTorch: `pip install -e '.[bench,peers]'`.
"""

import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import matplotlib.pyplot as plt
import numpy as np
import optax
import torch
from matplotlib.lines import Line2D

import jaxloss

HERE = pathlib.Path(__file__).parent
MARGINS = np.linspace(0, 40, 401, dtype=np.float32)
# ink, grid, background; of jaxloss, optax, Keras, PyTorch
THEMES = {
    "light": ("#1b1f24", "#d0d7de", "#ffffff", ("#c2410c", "#2563eb", "#0f766e", "#7c3aed")),
    "dark": ("#e6edf3", "#3d444d", "#0d1117", ("#ff9e64", "#7aa2f7", "#73daca", "#bb9af7")),
}
STYLES = ("-", "--", "-.", ":")


def in_jax(loss):
    """The loss and the gradient by the label's logit, negated, of logits [margin, 0] and label 0."""
    value, gradient = jax.vmap(jax.value_and_grad(lambda m: loss(jnp.stack([m, jnp.zeros_like(m)]))))(MARGINS)
    return np.asarray(value), -np.asarray(gradient)


def in_torch():
    x = torch.stack([torch.tensor(MARGINS), torch.zeros(len(MARGINS))], 1).requires_grad_()
    losses = torch.nn.functional.cross_entropy(x, torch.zeros(len(MARGINS), dtype=torch.int64), reduction="none")
    losses.sum().backward()
    return losses.detach().numpy(), -x.grad[:, 0].numpy()


def curves() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    y = jnp.int32(0)
    return {
        "jaxloss": in_jax(lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, y)),
        "optax": in_jax(lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, y)),
        "Keras": in_jax(lambda x: keras.losses.sparse_categorical_crossentropy(y[None], x[None], from_logits=True)[0]),
        "PyTorch": in_torch(),
    }


def main(folder: pathlib.Path = HERE) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "svg.hashsalt": "jaxloss"}
    found = curves()
    for theme, (ink, grid, background, colors) in THEMES.items():
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
        titles = "Loss", "Gradient by the label's logit, negated"
        for part, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            ends: dict[int, list[str]] = {}
            for (name, values), color, style in zip(found.items(), colors, STYLES, strict=True):
                shown = np.where(values[part] > 0, values[part], np.nan)
                width = 5 if name == "jaxloss" else 2
                ax.plot(MARGINS, shown, color=color, ls=style, lw=width, zorder=1 if name == "jaxloss" else 2)
                last = np.flatnonzero(values[part] > 0)[-1]
                if last < len(MARGINS) - 1:
                    ax.plot(MARGINS[last], values[part][last], "x", color=color, ms=10, mew=2.5)
                    ends.setdefault(last, []).append(name)
            for line, (last, names) in enumerate(sorted(ends.items())):
                where = MARGINS[last], found[names[0]][part][last]
                text = f"{', '.join(names)}:\n0 from here on"
                arrow = {"arrowstyle": "-", "color": ink, "lw": 0.8}
                ax.annotate(text, where, (where[0] + 4, 1e-3 / 3000**line), fontsize=13, color=ink, arrowprops=arrow)
            ax.set(yscale="log", ylim=(1e-18, 3), facecolor="none", xlabel="how far the label's logit is ahead")
            ax.set_title(title, loc="left", fontsize=14, color=ink)
            ax.grid(color=grid, lw=0.6)
            ax.tick_params(labelsize=12, colors=ink)
            ax.xaxis.label.set(color=ink, fontsize=13)
            ax.spines[:].set_visible(False)
        lines = [Line2D([], [], color=c, ls=s, lw=3, label=n) for n, c, s in zip(found, colors, STYLES, strict=True)]
        axes[0].legend(handles=lines, loc="lower left", frameon=False, fontsize=13, labelcolor=ink)
        picture = folder / f"confident_row-{theme}.svg"
        figure.savefig(picture, facecolor=background, metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
