"""Handwritten digits with a small Flax NNX network under `jax.jit`: `make demo`, or `python examples/digits.py`.

Trains on the 1,797 digits that ship inside scikit-learn, and draws the loss as it falls and the digits that the network
is most confidently wrong about, each with its loss.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import jaxloss

BATCH = 64
INK, ACCENT, MUTED = "#1b1f24", "#c2410c", "#8b949e"


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(4 * 4 * 64, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv1(images[..., None]))
        x = nnx.relu(self.conv2(x))
        return self.out(self.dropout(x.reshape(len(x), -1)))


def losses(model: Net, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jaxloss.softmax_cross_entropy_with_integer_labels(model(images), labels)


@functools.partial(jax.jit, static_argnums=0)
def step(graph: nnx.GraphDef, state: nnx.State, images: jax.Array, labels: jax.Array) -> tuple[nnx.State, jax.Array]:
    model, optimizer = nnx.merge(graph, state)
    value, gradient = nnx.value_and_grad(lambda model: losses(model, images, labels).mean())(model)
    optimizer.update(model, gradient)
    return nnx.state((model, optimizer)), value


@functools.partial(jax.jit, static_argnums=0)
def evaluate(graph: nnx.GraphDef, state: nnx.State, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
    model, _ = nnx.merge(graph, state)
    model.eval()
    return losses(model, images, labels), model(images).argmax(-1)


def draw(path: pathlib.Path, train: list[float], test: list[float], accuracy: float, wrong: list[tuple]) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED}
    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
    axes = left.subplots()
    epochs = np.arange(1, len(test) + 1)
    per_epoch = len(train) // len(test)
    axes.plot((np.arange(len(train)) + 1) / per_epoch, train, color=MUTED, lw=0.6, alpha=0.6)
    axes.plot(epochs, np.reshape(train, (len(test), -1)).mean(-1), color=INK, lw=2)
    axes.plot(epochs, test, color=ACCENT, lw=2)
    axes.set(yscale="log", xlabel="epoch", xlim=(0, len(test) * 1.13))
    axes.text(len(test) * 1.01, np.mean(train[-per_epoch:]), "train", color=INK, va="center")
    axes.text(len(test) * 1.01, test[-1], "test", color=ACCENT, va="center")
    axes.set_title(f"Cross entropy in nats; {accuracy:.1%} of the test digits right", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", colors=MUTED)
    right.suptitle("Most confidently wrong", x=0.02, ha="left", fontsize=11)
    for axes, item in zip(right.subplots(2, 4).flat, [*wrong, *[None] * 8], strict=False):
        axes.axis("off")
        if item is not None:
            image, label, guess, loss = item
            axes.imshow(image, cmap="gray_r", interpolation="nearest")
            axes.set_title(f"a {label}, read as {guess}\nloss {loss:.1f}", fontsize=8.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)


def main(epochs: int = 30, picture: pathlib.Path = pathlib.Path("pictures/digits.png")) -> float:
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
    split = train_test_split(images, labels.astype(np.int32), test_size=0.25, random_state=0, stratify=labels)
    images, test_images, labels, test_labels = split
    steps = len(images) // BATCH
    schedule = optax.cosine_decay_schedule(2e-3, epochs * steps)
    model = Net(nnx.Rngs(0))
    graph, state = nnx.split((model, nnx.Optimizer(model, optax.adamw(schedule), wrt=nnx.Param)))
    train, test, rng = [], [], np.random.default_rng(0)
    with tqdm(total=epochs * steps, unit="step") as progress:
        for _ in range(epochs):
            for batch in rng.permutation(len(images))[: steps * BATCH].reshape(steps, BATCH):
                state, value = step(graph, state, jnp.asarray(images[batch]), jnp.asarray(labels[batch]))
                train.append(value)
                progress.update()
            each, guesses = evaluate(graph, state, jnp.asarray(test_images), jnp.asarray(test_labels))
            test.append(float(each.mean()))
            accuracy = float((guesses == test_labels).mean())
            progress.set_postfix(test_loss=f"{test[-1]:.4f}", accuracy=f"{accuracy:.1%}")
    each, guesses = np.asarray(each), np.asarray(guesses)
    worst = [i for i in np.argsort(-each) if guesses[i] != test_labels[i]][:8]
    wrong = [(test_images[i], test_labels[i], guesses[i], each[i]) for i in worst]
    draw(picture, [float(v) for v in train], test, accuracy, wrong)
    print(f"test accuracy {accuracy:.2%}; the picture is {picture}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--picture", type=pathlib.Path, default=pathlib.Path("pictures/digits.png"))
    main(**vars(parser.parse_args()))
