"""Rows of handwritten digits, read with `jaxloss.ctc_loss`: `python examples/read_digits.py`.

Pastes 3 to 8 of the digits inside scikit-learn side by side, and trains a small Flax NNX network to read such rows,
without being told where a digit is. Then it reads rows of digits that it has never seen, by the best path and by beam
search, and draws some of them: where the digits are found, and what each frame is taken for.
"""

import argparse
import functools
import pathlib
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from matplotlib.colors import to_rgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import jaxloss

BATCH, FEWEST, MOST = 32, 3, 8  # rows of a step, digits of a row
SIZE, GAP, SHIFT = 8, 3, 2  # pixels: a digit, the widest gap, the lowest place
HEIGHT, WIDTH = SIZE + SHIFT, 92  # has room for the longest row
NOISE, STRIDE, BLANK = 0.1, 2, 10  # of ink, pixels of a frame, the class behind the digits
PICTURE = pathlib.Path("pictures/read_digits.png")
INK, ACCENT, MUTED, PADDING = "#1b1f24", "#c2410c", "#8b949e", "#f3f4f6"


class Rows(NamedTuple):
    strips: np.ndarray  # [rows, height, width], 0 for paper and 1 for ink
    frames: np.ndarray  # [rows]; what is right of them is padding
    digits: np.ndarray  # [rows, most], -1 behind the last
    lengths: np.ndarray  # [rows]


class Reader(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=STRIDE, rngs=rngs)
        self.conv3 = nnx.Conv(32 * HEIGHT // STRIDE, 128, (5,), rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.out = nnx.Linear(128, BLANK + 1, rngs=rngs)

    def __call__(self, strips: jax.Array) -> jax.Array:
        """Logits [rows, frames, classes]."""
        x = nnx.relu(self.conv1(strips[..., None]))
        x = nnx.relu(self.conv2(x)).swapaxes(1, 2)
        x = nnx.relu(self.conv3(x.reshape(*x.shape[:2], -1)))
        return self.out(self.dropout(x))


def compose(rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, count: int) -> Rows:
    """Random digits in random places, and some noise."""
    lengths = rng.integers(FEWEST, MOST, count, endpoint=True)
    chosen = rng.integers(len(images), size=(count, MOST))
    there = np.arange(MOST) < lengths[:, None]
    gaps = rng.integers(GAP, size=(count, MOST + 1), endpoint=True)
    left = gaps.cumsum(-1) + SIZE * np.arange(MOST + 1)
    top = rng.integers(SHIFT, size=(count, MOST), endpoint=True)
    strips = rng.normal(0, NOISE, (count, HEIGHT, WIDTH))
    row, _, y, x = np.ogrid[:count, :1, :SIZE, :SIZE]
    strips[row, top[..., None, None] + y, left[:, :-1, None, None] + x] += there[..., None, None] * images[chosen]
    widths = left[np.arange(count), lengths]
    strips = np.where(np.arange(WIDTH) < widths[:, None, None], strips, 0).clip(0, 1).astype(np.float32)
    return Rows(strips, -(-widths // STRIDE), np.where(there, labels[chosen], -1), lengths)


def losses(model: Reader, rows: Rows) -> jax.Array:
    given = {"labels": rows.digits, "label_lengths": rows.lengths, "logit_lengths": rows.frames, "blank_id": BLANK}
    return jaxloss.ctc_loss(model(rows.strips), **given)


@functools.partial(jax.jit, static_argnums=0)
def step(graph: nnx.GraphDef, state: nnx.State, rows: Rows) -> tuple[nnx.State, jax.Array]:
    model, optimizer = nnx.merge(graph, state)
    value, gradient = nnx.value_and_grad(lambda model: losses(model, rows).mean())(model)
    optimizer.update(model, gradient)
    return nnx.state((model, optimizer)), value


@functools.partial(jax.jit, static_argnums=0)
def read(graph: nnx.GraphDef, state: nnx.State, rows: Rows) -> dict:
    """The loss, what is read in either way, what each frame is taken for, and where the digits are."""
    model, _ = nnx.merge(graph, state)
    model.eval()
    logits, given = model(rows.strips), {"logit_lengths": rows.frames, "blank_id": BLANK}
    return {
        "loss": losses(model, rows).mean(),
        "greedy": jaxloss.ctc_greedy_decode(logits, **given).labels,
        "beam": jaxloss.ctc_beam_decode(logits, **given, beam_size=8).labels[:, 0],
        "posteriors": jax.nn.softmax(logits),
        "places": jaxloss.ctc_align(logits, labels=rows.digits, label_lengths=rows.lengths, **given),
    }


@functools.cache
def edits(a: str, b: str) -> int:
    """How many digits have to be inserted, deleted or replaced to make one of the other."""
    if not a or not b:
        return len(a) + len(b)
    return min(edits(a[1:], b) + 1, edits(a, b[1:]) + 1, edits(a[1:], b[1:]) + (a[0] != b[0]))


def texts(labels: np.ndarray) -> np.ndarray:
    return np.array(["".join(str(label) for label in row if label >= 0) for row in labels])


def draw(path: pathlib.Path, rows: Rows, found: dict) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED}
    figure = plt.figure(figsize=(11, 6.6), layout="constrained")
    written, said, places = texts(rows.digits), texts(found["greedy"]), found["places"]
    right, longest = said == written, np.argsort(-rows.lengths, kind="stable")
    title = f"Held-out rows, {right.mean():.1%} read right: where each digit is found, and what each frame is taken for"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    absorbed = 1 - np.array([to_rgb(ACCENT)] * BLANK + [to_rgb(MUTED)])[:, None]
    shown = [*longest[right[longest]][:3], *longest[~right[longest]]][:4]
    for part, i in zip(figure.subfigures(2, 2, hspace=0.05, wspace=0.04).flat, shown, strict=False):
        strip, heat = part.subplots(2, sharex=True, height_ratios=[1, 1.8])
        frames, end = rows.frames[i], STRIDE * rows.frames[i]
        strip.imshow(rows.strips[i, :, :end], cmap="gray_r", extent=(0, end, HEIGHT, 0), aspect="auto")
        for digit, first, last in zip(written[i], STRIDE * places.starts[i], STRIDE * places.ends[i], strict=False):
            strip.barh(HEIGHT + 1.5, last - first, 1.4, left=first, color=ACCENT)
            strip.text((first + last) / 2, HEIGHT + 5, digit, ha="center", va="center", fontsize=9)
        strip.set(xlim=(0, WIDTH), ylim=(HEIGHT + 7, 0), yticks=[], frame_on=False)
        title = f"read as {said[i]}" + ("" if right[i] else f", but it is {written[i]}")
        strip.set_title(title, loc="left", fontsize=11, color=INK if right[i] else ACCENT)
        image = 1 - found["posteriors"][i, :frames].T[..., None] * absorbed
        heat.imshow(image, extent=(0, end, BLANK + 0.5, -0.5), aspect="auto", interpolation="nearest")
        heat.set(xticks=[], yticks=range(BLANK + 1), yticklabels=[*range(BLANK), "blank"], facecolor=PADDING)
        heat.tick_params(length=0, labelsize=7, labelcolor=MUTED)
        heat.spines[:].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)


def main(steps: int = 4000, rows: int = 1000, picture: pathlib.Path = PICTURE) -> dict:
    data = load_digits()
    split = train_test_split(data.images / 16, data.target, random_state=0, stratify=data.target)
    train, test = split[::2], compose(np.random.default_rng(1), *split[1::2], rows)
    model = Reader(nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(0, 3e-3, steps // 20, steps)
    graph, state = nnx.split((model, nnx.Optimizer(model, optax.adamw(schedule), wrt=nnx.Param)))
    history, rng = [], np.random.default_rng(0)
    for _ in (progress := tqdm(range(steps), unit="step")):
        state, value = step(graph, state, compose(rng, *train, BATCH))
        history.append(float(value))
        progress.set_postfix(loss=f"{history[-1]:.3f}")
    found = jax.device_get(read(graph, state, test))
    result = {"losses": history, "loss": float(found["loss"])}
    print(f"held-out loss {result['loss']:.3f} nats a row, after {progress.format_dict['elapsed']:.0f} seconds")
    for name in ("greedy", "beam"):
        wrong = np.vectorize(edits)(texts(found[name]), texts(test.digits))
        result[name] = float((wrong == 0).mean())
        print(f"{name:6} {result[name]:.1%} of rows right, {wrong.sum() / test.lengths.sum():.2%} of digits wrong")
    draw(picture, test, found)
    print(f"the picture is {picture}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=1000, help="to test on")
    parser.add_argument("--picture", type=pathlib.Path, default=PICTURE)
    main(**vars(parser.parse_args()))
