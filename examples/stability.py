"""Three ways to write the cross entropy of two classes as one logit grows: `python examples/stability.py`.

Softmax then log, logsumexp minus logit, and jaxloss, value and gradient in float32, against 50 digits. The right class
leads by the margin on the x-axis, or trails by it.
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import mpmath
import numpy as np

import jaxloss


def softmax_then_log(logits, label):
    return -jnp.log(jax.nn.softmax(logits)[label])


def logsumexp_minus_logit(logits, label):
    return jax.nn.logsumexp(logits) - logits[label]


WAYS = {
    # a wide line lies below a thin one where they agree
    "softmax, then log": (softmax_then_log, "#b8c0c8", 5),
    "logsumexp minus logit": (logsumexp_minus_logit, "#0969da", 1.8),
    "jaxloss": (jaxloss.softmax_cross_entropy_with_integer_labels, "#c2410c", 1.8),
}
MARGINS = np.linspace(0.25, 110, 440).astype(np.float32)


def truth(label: int) -> np.ndarray:
    """Loss and the size of its gradient, at 50 digits."""
    with mpmath.workdps(50):
        lead = [mpmath.mpf(float(m)) * (1 if label == 0 else -1) for m in MARGINS]
        return np.array([[float(mpmath.log1p(mpmath.exp(-m))), float(1 / (1 + mpmath.exp(m)))] for m in lead]).T


def ours(way, label: int) -> np.ndarray:
    """Loss and the size of its gradient by the label's logit, in float32."""
    logits = jnp.stack([jnp.asarray(MARGINS), jnp.zeros(len(MARGINS))], axis=-1)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(lambda x: way(x, jnp.int32(label)))))(logits)
    return np.stack([value, -gradient[:, label]]).astype(np.float64)


def main(picture: pathlib.Path = pathlib.Path("pictures/stability.png")) -> dict[str, float]:
    """Draws the picture; returns the largest relative error of each way, 1 where it gives 0, infinity or NaN."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    worst = dict.fromkeys(WAYS, 0.0)
    for row, (label, title) in enumerate([(0, "confident and right"), (1, "confident and wrong")]):
        exact = truth(label)
        normal = exact > np.finfo(np.float32).tiny  # below, float32 itself has nothing to give
        for name, (way, color, width) in WAYS.items():
            with np.errstate(invalid="ignore"):
                error = np.abs(ours(way, label) - exact) / exact
            error = np.where(np.isfinite(error), np.minimum(error, 1), 1)
            worst[name] = max(worst[name], float(error[normal].max()))
            for column, quantity in enumerate(["loss", "gradient"]):
                shown = np.where(normal[column], np.maximum(error[column], 1e-9), np.nan)
                axes[row, column].semilogy(MARGINS, shown, color=color, lw=width, label=name)
                axes[row, column].set_title(f"{title}: {quantity}", loc="left", fontsize=10)
    for ax in axes.flat:
        ax.set(ylim=(5e-10, 3), yticks=[1e-9, 1e-6, 1e-3, 1], yticklabels=["exact", "1e-6", "1e-3", "all lost"])
        ax.axhline(np.finfo(np.float32).eps, color="#d0d7de", lw=1, zorder=0)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[1]:
        ax.set_xlabel("margin between the two logits")
    axes[0, 0].set_ylabel("relative error, float32")
    axes[1, 0].set_ylabel("relative error, float32")
    axes[0, 0].text(110, np.finfo(np.float32).eps * 1.3, "eps", color="#8b949e", ha="right", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=160, facecolor="white")
    plt.close(figure)
    for name, error in worst.items():
        print(f"{name:22} largest relative error {error:.1e}")
    print(f"the picture is {picture}")
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--picture", type=pathlib.Path, default=pathlib.Path("pictures/stability.png"))
    main(**vars(parser.parse_args()))
