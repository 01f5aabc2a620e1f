"""Value and gradient of each loss beside the peers that are installed: `python benchmarks/losses.py`.

Each round runs every candidate once, in random order; the figure is the median of the ratios of the rounds, with the
20th and 80th percentile. Temporaries are what the compiler allocates besides inputs and outputs. PyTorch runs eagerly.
A difference below 15 % is none: repeat the run before believing one.
"""

import argparse
import functools
import importlib.util
import os
import random
import time
from collections.abc import Callable, Iterator

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import jaxloss

ROWS, VOCABULARY, FEATURES = (8192, 1000), (4096, 32000), (65536, 128)

# loss, data, shape, and how a peer calls it on (x, t): "library.name", with arguments where they are not (x, t).
CASES = [
    ("softmax_cross_entropy_with_integer_labels", "index", ROWS, ["optax"]),
    ("softmax_cross_entropy_with_integer_labels", "index", VOCABULARY, ["optax"]),
    ("softmax_cross_entropy", "shares", ROWS, ["optax"]),
    ("sigmoid_binary_cross_entropy", "bits", ROWS, ["optax", "torch.binary_cross_entropy_with_logits"]),
    ("squared_error", "real", ROWS, ["optax", "keras.mean_squared_error", "torch.mse_loss"]),
    ("l2_loss", "real", ROWS, ["optax"]),
    ("absolute_error", "real", ROWS, ["keras.mean_absolute_error", "torch.l1_loss"]),
    ("absolute_percentage_error", "positive", ROWS, ["keras.mean_absolute_percentage_error"]),
    ("squared_logarithmic_error", "positive", ROWS, ["keras.mean_squared_logarithmic_error"]),
    ("huber_loss", "real", ROWS, ["optax", "keras.huber", "torch.huber_loss"]),
    ("smooth_l1_loss", "real", ROWS, ["torch.smooth_l1_loss"]),
    ("log_cosh", "real", ROWS, ["optax", "keras.log_cosh"]),
    ("poisson_nll_loss", "positive", ROWS, ["keras.poisson"]),
    ("poisson_nll_loss_with_log_rates", "positive", ROWS, ["torch.poisson_nll_loss"]),
    ("gaussian_nll_loss", "real", ROWS, ["torch.gaussian_nll_loss"]),
    ("hinge_loss", "signs", ROWS, ["optax", "keras.hinge"]),
    ("squared_hinge_loss", "signs", ROWS, ["keras.squared_hinge"]),
    ("perceptron_loss", "signs", ROWS, ["optax"]),
    ("binary_cross_entropy", "probabilities", ROWS, ["keras.binary_crossentropy", "torch.binary_cross_entropy"]),
    ("multiclass_hinge_loss", "index", ROWS, ["optax"]),
    ("multiclass_perceptron_loss", "index", ROWS, ["optax"]),
    ("weston_watkins_hinge_loss", "index", ROWS, ["torch.multi_margin_loss"]),
    ("categorical_hinge_loss_with_zero_class", "one-hot", ROWS, ["keras.categorical_hinge"]),
    ("categorical_cross_entropy", "distributions", ROWS, ["keras.categorical_crossentropy"]),
    ("categorical_cross_entropy_with_integer_labels", "chosen", ROWS, ["keras.sparse_categorical_crossentropy"]),
    ("kl_divergence", "log shares", FEATURES, ["optax", "torch.kl_div"]),
    ("kl_divergence_with_log_targets", "log", FEATURES, ["optax"]),
    ("generalized_kl_divergence", "log shares", FEATURES, ["optax"]),
    ("cosine_similarity", "real", FEATURES, ["optax", "keras.cosine_similarity", "torch.cosine_similarity"]),
    ("cosine_distance", "real", FEATURES, ["optax"]),
]
OPTIONS = {"gaussian_nll_loss": {"variance": 0.7}}
TORCH = {"gaussian_nll_loss": (0.7,), "cosine_similarity": (-1,)}


def draw(data: str, shape: tuple[int, int], dtype: str) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)

    def shares() -> np.ndarray:
        numbers = rng.random(shape) + 1e-3
        return numbers / numbers.sum(-1, keepdims=True)

    index, one_hot = rng.integers(shape[1], size=shape[0]), np.zeros(shape)
    one_hot[np.arange(shape[0]), index] = 1
    x, t = {
        "index": lambda: (rng.normal(size=shape, scale=3), index),
        "one-hot": lambda: (rng.normal(size=shape), one_hot),
        "shares": lambda: (rng.normal(size=shape, scale=3), shares()),
        "bits": lambda: (rng.normal(size=shape, scale=3), rng.random(shape)),
        "real": lambda: (rng.normal(size=shape), rng.normal(size=shape)),
        "positive": lambda: (rng.random(shape) + 0.1, rng.random(shape) + 0.1),
        "signs": lambda: (rng.normal(size=shape), rng.choice([-1.0, 1.0], shape)),
        "probabilities": lambda: (rng.uniform(0.01, 0.99, shape), rng.random(shape)),
        "distributions": lambda: (shares(), shares()),
        "chosen": lambda: (shares(), index),
        "log": lambda: (np.log(shares()), np.log(shares())),
        "log shares": lambda: (np.log(shares()), shares()),
    }[data]()
    return jnp.asarray(x, dtype), jnp.asarray(t, "int32" if t.dtype.kind == "i" else dtype)


def with_gradient(function: Callable, arguments: tuple) -> tuple[Callable, float]:
    """Value and gradient of the mean, compiled, and its temporaries in MiB."""

    def mean(x, t):
        return function(x, t).astype("float32").mean()

    compiled = jax.jit(jax.value_and_grad(mean)).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments)), compiled.memory_analysis().temp_size_in_bytes / 2**20


def peers(name: str, calls: list[str], arguments: tuple, only: str) -> Iterator[tuple[str, Callable, float]]:
    for call in calls:
        library, _, theirs = call.partition(".")
        theirs = theirs or name
        if importlib.util.find_spec(library) is None or only not in library:
            continue
        if library == "optax":
            import optax

            yield library, *with_gradient(getattr(optax.losses, theirs), arguments)
        elif library == "keras":
            import keras

            loss = getattr(keras.losses, theirs)
            yield library, *with_gradient(lambda x, t, loss=loss: loss(t, x), arguments)
        elif arguments[0].dtype == np.float32:
            import torch

            x, t = (torch.tensor(np.asarray(a)) for a in arguments)
            x, t = x.requires_grad_(), t.long() if t.dtype == torch.int32 else t
            loss, more = getattr(torch.nn.functional, theirs), TORCH.get(theirs, ())

            def run(x=x, t=t, loss=loss, more=more):
                x.grad = None
                loss(x, t, *more).mean().backward()

            yield library, run, float("nan")


def seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(rounds: int, only: str, dtype: str, peer: str) -> None:
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}; time, temporaries in MiB, and ours over theirs")
    for name, data, shape, calls in CASES:
        if only not in name:
            continue
        arguments = draw(data, shape, dtype)
        loss = functools.partial(getattr(jaxloss, name), **OPTIONS.get(name, {}))
        ours, temporaries = with_gradient(loss, arguments)
        others = list(peers(name, calls, arguments, peer))
        runs = [ours, *(run for _, run, _ in others)]
        times = {run: [] for run in runs}
        for run in runs:
            seconds(run)
        for _ in tqdm(range(rounds), desc=name, leave=False):
            for run in random.sample(runs, len(runs)):
                times[run].append(seconds(run))
        line = f"{name:45} {dtype} {shape!s:13} {1e3 * np.median(times[ours]):7.1f} ms {temporaries:7.1f}"
        for library, run, memory in others:
            low, middle, high = np.percentile(np.divide(times[ours], times[run]), [20, 50, 80])
            line += f" | {middle:.2f} [{low:.2f}, {high:.2f}] of {library} ({memory:.0f})"
        print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="run the losses whose name contains this")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--peer", default="", help="only beside the peers whose name contains this")
    main(**vars(parser.parse_args()))
