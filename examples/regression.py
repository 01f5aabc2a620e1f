"""Robust regression and prediction intervals on the diabetes data: `python examples/regression.py`.

Linear models of the 442 patients that ship inside scikit-learn. Left: a growing share of the training targets is
spoiled by a misplaced decimal point, and four losses are compared on clean test targets. Right: the quantile loss, one
model a quantile, all of them fitted at once by `jax.vmap`, gives each patient an interval.
"""

import argparse
import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split

import jaxloss

INK, ACCENT, MUTED, BLUE, GREEN = "#1b1f24", "#c2410c", "#8b949e", "#0969da", "#2e7d32"
QUANTILES = jnp.array([0.05, 0.25, 0.5, 0.75, 0.95])
SPOILED = jnp.linspace(0, 0.3, 7)  # shares of the training targets
LOSSES = {
    "squared": (jaxloss.squared_error, ACCENT),
    "log-cosh": (jaxloss.log_cosh, GREEN),
    "huber": (functools.partial(jaxloss.huber_loss, delta=0.5), BLUE),
    "quantile 1/2": (functools.partial(jaxloss.quantile_loss, quantile=0.5), INK),
}


def model(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ params["weight"] + params["bias"]


def fit(loss: Callable[..., jax.Array], x: jax.Array, y: jax.Array, steps: int) -> dict[str, jax.Array]:
    """The linear model of the least mean loss."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, steps))
    params = {"weight": jnp.zeros(x.shape[1]), "bias": jnp.zeros(())}

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda params: loss(model(params, x), y, reduction="mean"))(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


def main(steps: int = 1000, picture: pathlib.Path = pathlib.Path("pictures/regression.png")) -> dict[str, float]:
    """Draws the picture; returns the test errors beside spoiled targets and the share of targets in the intervals."""
    features, targets = load_diabetes(return_X_y=True)
    features /= features.std(0)
    split = train_test_split(features, targets, test_size=0.4, random_state=0)
    x, test_x, y, test_y = (jnp.asarray(a, "float32") for a in split)
    center, scale = jnp.median(y), y.std()
    y, test_y = (y - center) / scale, (test_y - center) / scale

    # The last targets of a random order are spoiled: ten times what they should be.
    order = jnp.asarray(np.random.default_rng(0).permutation(len(y)) / len(y))

    def error(loss: Callable[..., jax.Array], share: jax.Array) -> jax.Array:
        spoiled = jnp.where(order < share, 10 * (y + center / scale) - center / scale, y)
        predictions = model(fit(loss, x, spoiled, steps), test_x)
        return scale * jaxloss.absolute_error(predictions, test_y, reduction="mean")

    errors = {name: jax.jit(jax.vmap(functools.partial(error, loss)))(SPOILED) for name, (loss, _) in LOSSES.items()}

    @jax.jit
    @jax.vmap
    def predictions_of(quantile: jax.Array) -> jax.Array:
        return model(fit(functools.partial(jaxloss.quantile_loss, quantile=quantile), x, y, steps), test_x)

    low, lower, middle, upper, high = scale * predictions_of(QUANTILES) + center
    truth = scale * test_y + center
    inside = float(((low <= truth) & (truth <= high)).mean())
    draw(picture, errors, (low, lower, middle, upper, high), truth, inside)
    for name, each in errors.items():
        print(
            f"{name:13} mean absolute error {each[0]:5.1f}, with {SPOILED[-1]:.0%} of the data spoiled {each[-1]:5.1f}"
        )
    print(f"{inside:.0%} of the test targets are in their 90% interval; the picture is {picture}")
    return {name: float(each[-1]) for name, each in errors.items()} | {"inside": inside}


def draw(path: pathlib.Path, errors: dict[str, jax.Array], bands: tuple, truth: jax.Array, inside: float) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1, 1.25], layout="constrained")
    shares = 100 * np.asarray(SPOILED)
    ends = spread({name: float(each[-1]) for name, each in errors.items()}, gap=1.13)
    for name, each in errors.items():
        color = LOSSES[name][1]
        left.plot(shares, each, color=color, lw=2)
        left.text(shares[-1] * 1.03, ends[name], name, color=color, va="center")
    left.set(xlabel="training targets spoiled, %", yscale="log", ylim=(40, 600), xlim=(0, shares[-1] * 1.4))
    left.set(xticks=shares[::2], yticks=(50, 100, 200, 400), yticklabels=("50", "100", "200", "400"))
    left.minorticks_off()
    left.spines["bottom"].set_bounds(0, shares[-1])
    left.set_title("Mean absolute error on clean test targets", loc="left", fontsize=11)

    low, lower, middle, upper, high = (np.asarray(band)[np.argsort(bands[2])] for band in bands)
    truth, patients = np.asarray(truth)[np.argsort(bands[2])], np.arange(len(truth))
    outside = (truth < low) | (truth > high)
    right.fill_between(patients, low, high, color=BLUE, alpha=0.15, lw=0)
    right.fill_between(patients, lower, upper, color=BLUE, alpha=0.25, lw=0)
    right.plot(patients, middle, color=BLUE, lw=2)
    right.scatter(patients[~outside], truth[~outside], s=9, color=INK, lw=0)
    right.scatter(patients[outside], truth[outside], s=14, color=ACCENT, lw=0)
    right.set(xlabel="test patients, by their predicted median", ylabel="disease progression", xlim=(0, len(truth) - 1))
    right.set_title(f"50% and 90% intervals; {inside:.0%} of the targets in the latter", loc="left", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)


def spread(heights: dict[str, float], gap: float) -> dict[str, float]:
    """The heights, pushed up where labels would meet."""
    placed: dict[str, float] = {}
    for name in sorted(heights, key=heights.get):
        placed[name] = max([heights[name], *(height * gap for height in placed.values())])
    return placed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--picture", type=pathlib.Path, default=pathlib.Path("pictures/regression.png"))
    main(**vars(parser.parse_args()))
