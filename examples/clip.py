"""Pictures and captions find each other, by CLIP's loss or SigLIP's: `python examples/clip.py --loss siglip`.

A picture is a row of four of the handwritten digits inside scikit-learn, with noise, and its caption is their labels as
tokens, such as 4 0 7 2. Two small towers learn to embed both. What they are tested on is new to them: 1,000 captions,
all different, that never occur in training, and pictures of digits that do not either. Prints how many pictures find
their own caption among the 1,000, and captions their picture, before and after. Draws how it gets there, and the
neighbouring captions with the most mistakes. `--devices 8` splits each batch over eight devices, which a CPU makes: the
loss remains that of the whole batch. Takes about a minute on two cores.
"""

import argparse
import functools
import math
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import jaxloss

DIGITS, SIZE, GAP, SHIFT = 4, 8, 2, 2  # of a picture; pixels: a digit, the widest gap, the lowest place
HEIGHT, WIDTH = SIZE + SHIFT, DIGITS * (GAP + SIZE)
NOISE, MEAN, FEATURES = 0.2, 0.25, 64  # of ink, and about its mean; of an embedding
BATCH, HELD_OUT, SHOWN, EVERY = 256, 1000, 16, 50  # pairs of a step, of a test, and drawn; steps until the next test
LARGEST_SCALE = 100  # as CLIP was trained
PICTURE = pathlib.Path("pictures/clip.png")
INK, ACCENT, COLD, MUTED = "#1b1f24", "#c2410c", "#0e7490", "#8b949e"


class Pairs(NamedTuple):
    images: np.ndarray  # [pairs, height, width], 0 for paper and 1 for ink
    captions: np.ndarray  # [pairs, digits]


class Towers(nnx.Module):
    def __init__(self, scale: float, bias: float, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(32, 64, (HEIGHT // 2, 5), padding=((0, 0), (2, 2)), rngs=rngs)
        self.image_out = nnx.Linear(64 * WIDTH // 2, FEATURES, rngs=rngs)
        self.token = nnx.Embed(10, 32, rngs=rngs)
        self.caption_hidden = nnx.Linear(32 * DIGITS, 256, rngs=rngs)
        self.caption_out = nnx.Linear(256, FEATURES, rngs=rngs)
        self.log_scale = nnx.Param(jnp.float32(math.log(scale)))
        self.bias = nnx.Param(jnp.float32(bias))

    def __call__(self, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """Embeddings [pairs, features] of the images and of the captions, of any length."""
        x = pairs.images[..., None] - MEAN  # else all embeddings are alike at first, which holds SigLIP up for long
        x = nnx.gelu(self.conv2(nnx.gelu(self.conv1(x))))
        images = nnx.gelu(self.conv3(x)).reshape(len(x), -1)
        tokens = self.token(pairs.captions).reshape(len(x), -1)  # side by side, so that a digit's place is known
        return self.image_out(images), self.caption_out(nnx.gelu(self.caption_hidden(tokens)))


def clip_loss(model: Towers, pairs: Pairs) -> jax.Array:
    scale = jnp.exp(model.log_scale[...])
    return jaxloss.clip_loss(*model(pairs), logit_scale=scale, normalize=True, reduction="mean")


def siglip_loss(model: Towers, pairs: Pairs) -> jax.Array:
    scale, bias = jnp.exp(model.log_scale[...]), model.bias[...]
    return jaxloss.siglip_loss(*model(pairs), logit_scale=scale, bias=bias, normalize=True, reduction="mean")


LOSSES = {"clip": (clip_loss, 1 / 0.07, 0), "siglip": (siglip_loss, 10, -10)}  # and the first scale and bias


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(loss: Callable, graph: nnx.GraphDef, state: nnx.State, pairs: Pairs) -> tuple[nnx.State, jax.Array]:
    model, optimizer = nnx.merge(graph, state)
    value, gradient = nnx.value_and_grad(loss)(model, pairs)
    optimizer.update(model, gradient)
    # After the update: a minimum inside of the loss has no gradient above it, from where the scale would not come back.
    model.log_scale[...] = jnp.minimum(model.log_scale[...], math.log(LARGEST_SCALE))
    return nnx.state((model, optimizer)), value


@functools.partial(jax.jit, static_argnums=0)
def compare(graph: nnx.GraphDef, state: nnx.State, pairs: Pairs) -> jax.Array:
    """The cosines of all images with all captions."""
    model, _ = nnx.merge(graph, state)
    images, captions = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in model(pairs))
    return images @ captions.T


class Recall(NamedTuple):
    captions: float  # share of the images whose nearest caption is their own
    images: float  # share of the captions whose nearest image is their own


def recall(cosines: np.ndarray) -> Recall:
    own = np.arange(len(cosines))
    return Recall(*(float((cosines.argmax(axis) == own).mean()) for axis in (1, 0)))


def compose(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, captions: np.ndarray) -> Pairs:
    """Random digits that have these labels, in random places, and some noise."""
    order, counts = np.argsort(labels), np.bincount(labels)
    chosen = order[(counts.cumsum() - counts)[captions] + rng.integers(counts[captions])]
    left = rng.integers(GAP, size=captions.shape, endpoint=True).cumsum(-1) + SIZE * np.arange(DIGITS)
    top = rng.integers(SHIFT, size=captions.shape, endpoint=True)
    rows = rng.normal(0, NOISE, (len(captions), HEIGHT, WIDTH))
    row, _, y, x = np.ogrid[: len(captions), :1, :SIZE, :SIZE]
    rows[row, top[..., None, None] + y, left[..., None, None] + x] += images[chosen]
    return Pairs(rows.clip(0, 1).astype(np.float32), captions)


def draw(path: pathlib.Path, recalls: dict[int, Recall], pairs: Pairs, cosines: np.ndarray) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED}
    figure = plt.figure(figsize=(11, 4.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.25], wspace=0.04)
    left.suptitle(f"Recall at 1 of {len(cosines):,} held-out pairs", x=0.01, ha="left", fontsize=11)
    axes = left.subplots()
    names = {"captions": ("pictures find captions", COLD, 0.14), "images": ("captions find pictures", ACCENT, 0.07)}
    for name, (said, color, height) in names.items():
        values = [getattr(each, name) for each in recalls.values()]
        axes.plot([*recalls], values, color=color, lw=2, marker="o", ms=3.5)
        axes.text(0.97, height, f"{said}: {values[-1]:.1%}", color=color, ha="right", transform=axes.transAxes)
    axes.set(xlabel="step", ylim=(-0.03, 1.03))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(colors=MUTED)
    axes.spines[["top", "right"]].set_visible(False)

    texts, found = ["".join(map(str, caption)) for caption in pairs.captions], cosines.argmax(1)
    wrong = found != np.arange(len(found))
    first = np.convolve(wrong, np.ones(SHOWN), "valid").argmax()
    shown = range(first, first + SHOWN)
    title = f"{SHOWN} neighbours with most mistakes: cosines, and the captions found"
    right.suptitle(title, x=0.02, ha="left", fontsize=11)
    axes, wide = right.subplots(), 0.9 * WIDTH / HEIGHT
    shades = LinearSegmentedColormap.from_list("", ["white", COLD])
    axes.imshow(cosines[np.ix_(shown, shown)], cmap=shades, vmin=0, vmax=1)
    for y, i in enumerate(shown):
        axes.imshow(pairs.images[i], cmap="gray_r", extent=(-1 - wide, -1, y + 0.45, y - 0.45))
        axes.text(SHOWN - 0.2, y, texts[found[i]], color=ACCENT if wrong[i] else INK, fontsize=9, va="center")
    axes.set(xlim=(-1 - wide, SHOWN + 1.3), ylim=(SHOWN - 0.5, -0.5), yticks=[], frame_on=False)
    axes.set_xticks(range(SHOWN), [texts[i] for i in shown], rotation=90, fontsize=9, color=INK)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)


def main(steps: int = 500, loss: str = "clip", devices: int = 1, picture: pathlib.Path = PICTURE) -> dict:
    data, rng = load_digits(), np.random.default_rng(0)
    split = train_test_split(data.images / 16, data.target, random_state=0, stratify=data.target)
    train, test = split[::2], split[1::2]
    captions = np.indices((10,) * DIGITS, np.int32).reshape(DIGITS, -1).T  # all there are
    new = np.isin(np.arange(len(captions)), rng.choice(len(captions), HELD_OUT, replace=False))
    held_out, captions = compose(rng, *test, captions[new]), captions[~new]
    mesh = jax.make_mesh((devices,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:devices])
    everywhere, by_pair = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    function, scale, bias = LOSSES[loss]
    model = Towers(scale, bias, nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(0, 3e-3, steps // 10, steps)
    graph, state = nnx.split((model, nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)))
    state, losses, recalls = jax.device_put(state, everywhere), [], {}

    def test_now() -> np.ndarray:
        cosines = np.asarray(compare(graph, state, jax.device_put(held_out, by_pair)))
        recalls[len(losses)] = recall(cosines)
        return cosines

    # The batch is split, the parameters are not, and the mesh tells the loss how many devices compare pairs.
    with jax.set_mesh(mesh), tqdm(range(steps), unit="step") as progress:
        for i in progress:
            if i % EVERY == 0:
                test_now()
            # All of its captions are different, so that no pair is the right answer to another one.
            batch = compose(rng, *train, rng.choice(captions, BATCH, replace=False))
            state, value = step(function, graph, state, jax.device_put(batch, by_pair))
            losses.append(float(value))
            progress.set_postfix(loss=f"{losses[-1]:.3f}", found=f"{max(recalls.items())[1].captions:.1%}")
        cosines = test_now()
    print(f"trained in {progress.format_dict['elapsed']:.0f} seconds; devices: {devices}")
    print("recall at 1                before   after")
    for name, said in {"captions": "pictures find captions", "images": "captions find pictures"}.items():
        print(f"{said:25}" + "".join(f"{getattr(recalls[at], name):8.1%}" for at in (0, steps)))
    draw(picture, recalls, held_out, cosines)
    print(f"the picture is {picture}")
    return {"losses": losses, "recalls": recalls}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--loss", choices=LOSSES, default="clip")
    parser.add_argument("--devices", type=int, default=1, help="over which a batch is split")
    parser.add_argument("--picture", type=pathlib.Path, default=PICTURE)
    arguments = parser.parse_args()
    if arguments.devices > 1:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    main(**vars(arguments))
