"""Value and gradient of the logits cross entropies beside optax, in one run: `python benchmarks/cross_entropy.py`.

Each round runs every candidate once, in random order; the figure is the median of the ratios of the rounds, with the
20th and 80th percentile. Temporaries are what the compiler allocates besides inputs and outputs. A difference below
15 % is none: repeat the run before believing one.
"""

import argparse
import random
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import jaxloss

CASES = [
    ("softmax_cross_entropy_with_integer_labels", (8192, 1000), "float32"),
    ("softmax_cross_entropy_with_integer_labels", (8192, 1000), "bfloat16"),
    ("softmax_cross_entropy_with_integer_labels", (4096, 32000), "float32"),
    ("softmax_cross_entropy_with_integer_labels", (4096, 32000), "bfloat16"),
    ("softmax_cross_entropy", (8192, 1000), "float32"),
    ("softmax_cross_entropy", (8192, 1000), "bfloat16"),
    ("sigmoid_binary_cross_entropy", (8192, 1000), "float32"),
    ("sigmoid_binary_cross_entropy", (8192, 1000), "bfloat16"),
]


def draw(name: str, shape: tuple[int, int], dtype: str) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=shape, scale=3), dtype)
    if name.endswith("integer_labels"):
        return logits, jnp.asarray(rng.integers(shape[1], size=shape[0]), "int32")
    labels = rng.random(shape)
    return logits, jnp.asarray(labels / labels.sum(-1, keepdims=True) if name.startswith("softmax") else labels, dtype)


def compiled(function, arguments):
    def mean(logits, labels):
        return function(logits, labels).astype("float32").mean()

    return jax.jit(jax.value_and_grad(mean)).lower(*arguments).compile()


def seconds(function, arguments) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def main(rounds: int, only: str) -> None:
    print(f"JAX {jax.__version__}, optax {optax.__version__}, {jax.devices()[0].device_kind}; time and temporaries")
    for name, shape, dtype in CASES:
        if only not in f"{name} {dtype}":
            continue
        arguments = draw(name, shape, dtype)
        ours, theirs = (compiled(getattr(library, name), arguments) for library in (jaxloss, optax.losses))
        times = {ours: [], theirs: []}
        seconds(ours, arguments), seconds(theirs, arguments)
        for _ in tqdm(range(rounds), desc=name, leave=False):
            for function in random.sample([ours, theirs], 2):
                times[function].append(seconds(function, arguments))
        low, middle, high = np.percentile(np.divide(times[ours], times[theirs]), [20, 50, 80])
        memory = [f.memory_analysis().temp_size_in_bytes / 2**20 for f in (ours, theirs)]
        print(
            f"{name:42} {shape!s:14} {dtype:9} {1e3 * np.median(times[ours]):7.1f} ms, "
            f"{middle:.2f} [{low:.2f}, {high:.2f}] of optax; {memory[0]:6.1f} MiB, optax {memory[1]:6.1f} MiB"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    main(**vars(parser.parse_args()))
