"""A small language model without its logits, `jaxloss.linear_cross_entropy`: `python examples/language_model.py`.

Reads the source of Python's own standard library as text of 32,768 different tokens, and trains the same transformer
from the same seed twice: with the loss fused with the output matrix, and with the loss of logits. Prints and draws that
the losses coincide, and what each costs. `--mesh` trains on all devices, of which a CPU makes eight: `fsdp` splits
batches and parameters over them, `tensor` splits batches over pairs of them and the vocabulary within each pair, and
`both` splits parameters over the pairs, too.
"""

import argparse
import functools
import math
import pathlib
import re
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

import jaxloss

VOCABULARY, WIDTH, LENGTH, BATCH = 32_768, 128, 128, 16
HELD_OUT = 30_000  # tokens
PIECES = re.compile(rb"\n *| ?\w+| ?[^\s\w]+|\s")  # each byte of a text is in one
SKIPPED = {"site-packages", "test", "tests", "idle_test", "encodings"}
MESHES = ("fsdp", "tensor", "both")
PICTURE = pathlib.Path("pictures/language_model.png")
INK, ACCENT, MUTED = "#1b1f24", "#c2410c", "#8b949e"


def read_files() -> list[bytes]:
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.py"))
    return [(folder / path).read_bytes() for path in paths if not SKIPPED & set(path.parts)]


def build_vocabulary(files: list[bytes]) -> list[bytes]:
    """The 256 bytes, so that any text can be encoded, and the most frequent of the longer pieces."""
    counts = Counter(piece for file in files for piece in PIECES.findall(file) if len(piece) > 1)
    return [bytes([i]) for i in range(256)] + [piece for piece, _ in counts.most_common(VOCABULARY - 256)]


def encode(vocabulary: list[bytes], text: bytes) -> np.ndarray:
    index = {piece: [i] for i, piece in enumerate(vocabulary)}
    return np.array([i for piece in PIECES.findall(text) for i in index.get(piece, piece)], np.int32)


def decode(vocabulary: list[bytes], tokens: np.ndarray) -> bytes:
    return b"".join(vocabulary[i] for i in tokens)


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, WIDTH, decode=False, rngs=rngs)
        self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class LanguageModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        init = nnx.initializers.normal(WIDTH**-0.5)
        self.embedding = nnx.Embed(VOCABULARY, WIDTH, embedding_init=init, rngs=rngs)
        self.position = nnx.Embed(LENGTH, WIDTH, embedding_init=init, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(2)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Hidden states [batch, length, width], and the output matrix [vocabulary, width], which is the embedding."""
        x = WIDTH**0.5 * (self.embedding(tokens) + self.position(jnp.arange(tokens.shape[1])))
        mask = nnx.make_causal_mask(tokens[:1])
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), self.embedding.embedding[...]


def fused(hidden: jax.Array, weight: jax.Array, labels: jax.Array) -> jax.Array:
    return jaxloss.linear_cross_entropy(hidden, weight, labels, class_axis=0, reduction="mean")


def dense(hidden: jax.Array, weight: jax.Array, labels: jax.Array) -> jax.Array:
    return jaxloss.softmax_cross_entropy_with_integer_labels(hidden @ weight.T, labels, reduction="mean")


LOSSES = [fused, dense]  # in this order, for the peak of a device's memory never falls


class Run(NamedTuple):
    losses: np.ndarray  # of the training steps, nats per token
    nats: float  # of the held-out text
    right: int  # of its tokens
    speed: float  # tokens per second
    temporaries: float  # of a step, MiB
    peak: float  # of a device, MiB; NaN where it does not count


def step(loss: Callable, graph: nnx.GraphDef, state: nnx.State, tokens: jax.Array) -> tuple[nnx.State, jax.Array]:
    model, optimizer = nnx.merge(graph, state)
    value, gradient = nnx.value_and_grad(lambda model: loss(*model(tokens[:, :-1]), tokens[:, 1:]))(model)
    optimizer.update(model, gradient)
    return nnx.state((model, optimizer)), value


@functools.partial(jax.jit, static_argnums=0)
def evaluate(graph: nnx.GraphDef, state: nnx.State, tokens: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of the losses, and how many tokens are predicted right."""
    loss, metrics = jaxloss.linear_cross_entropy_with_metrics(
        *nnx.merge(graph, state)(tokens[:, :-1]), tokens[:, 1:], class_axis=0, where=where, reduction="sum"
    )
    return loss, metrics.correct.sum()


def make_mesh(name: str | None) -> Mesh:
    devices = jax.devices() if name else jax.devices()[:1]
    pairs = name in ("tensor", "both") and len(devices) % 2 == 0
    shape = (len(devices) // 2, 2) if pairs else (len(devices), 1)
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def train(
    loss: Callable, mesh: Mesh, sharded: bool, batches: np.ndarray, held_out: list[tuple[np.ndarray, np.ndarray]]
) -> Run:
    def put(x: jax.Array | np.ndarray, *axes: str | None) -> jax.Array:
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    def put_parameter(x: jax.Array) -> jax.Array:
        """The vocabulary's rows over "model"; if ``sharded``, the last axis of all matrices over "data"."""
        rows = "model" if VOCABULARY in x.shape else None
        columns = "data" if sharded and x.ndim > 1 and x.shape[-1] % mesh.shape["data"] == 0 else None
        return put(x, rows, *[None] * (x.ndim - 2), columns) if x.ndim > 1 else put(x)

    model = LanguageModel(nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(1e-3, 8e-3, len(batches) // 10, len(batches))
    graph, state = nnx.split((model, nnx.Optimizer(model, optax.adamw(schedule), wrt=nnx.Param)))
    state = jax.tree.map(put_parameter, state)  # the optimizer's moments, too
    shardings = jax.tree.map(lambda x: x.sharding, state), None
    jitted = jax.jit(step, static_argnums=(0, 1), donate_argnums=2, out_shardings=shardings)
    compiled = jitted.lower(loss, graph, state, put(batches[0], "data")).compile()

    losses, seconds = [], []
    with tqdm(batches, unit="step", desc=loss.__name__) as progress:
        for tokens in progress:
            begin = time.perf_counter()
            state, value = compiled(state, put(tokens, "data"))
            losses.append(float(value))
            seconds.append(time.perf_counter() - begin)
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
    memory = mesh.devices.flat[0].memory_stats() or {}
    graph, state = nnx.split(nnx.merge(graph, state)[0])
    sums = [evaluate(graph, state, put(tokens, "data"), put(where, "data")) for tokens, where in held_out]
    return Run(
        losses=np.array(losses),
        nats=sum(float(nats) for nats, _ in sums),
        right=sum(int(right) for _, right in sums),
        speed=BATCH * LENGTH / float(np.median(seconds)),
        temporaries=compiled.memory_analysis().temp_size_in_bytes / 2**20,
        peak=memory.get("peak_bytes_in_use", math.nan) / 2**20,
    )


def draw(path: pathlib.Path, runs: dict[str, Run], logits: float) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED}
    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    figure.get_layout_engine().set(hspace=0.1)
    axes = figure.subplot_mosaic([["losses", "temporaries"], ["losses", "speed"]], width_ratios=[1.25, 1])
    for name, style in {"dense": {"color": MUTED, "lw": 6, "alpha": 0.5}, "fused": {"color": ACCENT}}.items():
        axes["losses"].plot(np.arange(1, 1 + len(runs[name].losses)), runs[name].losses, label=name, **style)
    apart = np.abs(runs["fused"].losses - runs["dense"].losses).max()
    axes["losses"].set_title(f"Training loss, nats per token; at most {apart:.0e} apart", loc="left", fontsize=11)
    axes["losses"].set_xlabel("step")
    axes["losses"].tick_params(colors=MUTED)
    axes["losses"].legend(frameon=False)
    memory = f"Temporaries of a step as compiled, MiB; all logits: {logits:,.0f}"
    for which, title in {"temporaries": memory, "speed": "Tokens per second"}.items():
        values = [getattr(runs[name], which) for name in ("dense", "fused")]
        placed = axes[which].barh(["dense", "fused"], values, color=[MUTED, ACCENT], height=0.6)
        axes[which].bar_label(placed, [f"{value:,.0f}" for value in values], padding=4)
        axes[which].set(xticks=[], xlim=(0, 1.15 * max(values)))
        axes[which].set_title(title, loc="left", fontsize=11)
        axes[which].tick_params(length=0)
        axes[which].spines["bottom"].set_visible(False)
    for each in axes.values():
        each.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)


def main(steps: int = 120, mesh: str | None = None, picture: pathlib.Path = PICTURE) -> dict[str, Run]:
    files = read_files()
    held_out_files, files = files[::50], [file for i, file in enumerate(files) if i % 50]
    vocabulary = build_vocabulary(files)
    # A new line in front, from which the first token is predicted.
    text, rest = (encode(vocabulary, b"\n" + b"".join(each)) for each in (files, held_out_files))
    rest = rest[: HELD_OUT + 1]
    tokens, size = len(rest) - 1, len(decode(vocabulary, rest[1:]))

    window = np.arange(LENGTH + 1)  # inputs and, one token further, labels
    batches = text[np.random.default_rng(0).integers(len(text) - LENGTH, size=(steps, BATCH, 1)) + window]
    windows = LENGTH * np.arange(BATCH * math.ceil(tokens / (BATCH * LENGTH))).reshape(-1, BATCH, 1) + window
    parts = [(rest[np.minimum(each, tokens)], each[..., 1:] <= tokens) for each in windows]  # masked beyond the end

    on, sharded = make_mesh(mesh), mesh in ("fsdp", "both")
    n, m = on.devices.shape
    logits = BATCH * LENGTH * VOCABULARY * 4 / (n * m) / 2**20
    print(f"{len(text):,} tokens to train on, {BATCH * LENGTH:,} a step; a device's logits are {logits:,.0f} MiB")
    if mesh:
        print(f"each of {n} × {m} devices has {BATCH // n} of a batch's {BATCH} windows, {VOCABULARY // m:,} of the")
        print(
            f"{VOCABULARY:,} rows of the embedding, and {f'1 / {n} of' if sharded else 'all'} columns of all matrices"
        )
    runs = {loss.__name__: train(loss, on, sharded, batches, parts) for loss in LOSSES}
    table = {
        "": runs,
        "held-out loss, nats per token": [f"{run.nats / tokens:.5f}" for run in runs.values()],
        "held-out loss, bits per byte": [f"{run.nats / size / math.log(2):.5f}" for run in runs.values()],
        "held-out tokens predicted right": [f"{run.right / tokens:.2%}" for run in runs.values()],
        "tokens per second, compiled": [f"{run.speed:,.0f}" for run in runs.values()],
        "temporaries of a step as compiled, MiB": [f"{run.temporaries:,.0f}" for run in runs.values()],
        "peak memory of a device, MiB": [f"{run.peak:,.0f}" for run in runs.values()],
    }
    for row, cells in table.items():
        if "nan" not in cells:
            print(f"{row:40}" + "".join(f"{cell:>10}" for cell in cells))
    draw(picture, runs, logits)
    print(f"the picture is {picture}")
    return runs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--mesh", choices=MESHES)
    parser.add_argument("--picture", type=pathlib.Path, default=PICTURE)
    arguments = parser.parse_args()
    if arguments.mesh:
        jax.config.update("jax_num_cpu_devices", 8)
    main(**vars(arguments))
