"""The cross entropy of hidden [tokens, features] with weight [features, classes] and labels, as people write it.

Nothing here is widened before it is multiplied: a product of half precision is summed in float32, as in every trainer.
"""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxloss

TOKENS = 1024  # of a chunk of `scan`, the size that is usually pasted


def draw(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array, Array]:
    """The logits have a standard deviation of 3."""
    tokens, features, classes = shape
    one, two, three = jax.random.split(key, 3)
    weight = 3 * features**-0.5 * jax.random.normal(two, (features, classes), "float32")
    labels = jax.random.randint(three, (tokens,), 0, classes, "int32")
    return jax.random.normal(one, (tokens, features), dtype), weight.astype(dtype), labels


def tied(function: Any) -> Any:
    """Of a weight [classes, features], as a tied embedding is stored."""
    return lambda hidden, weight, labels: function(hidden, weight.T, labels)


def draw_tied(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array, Array]:
    hidden, weight, labels = draw(key, shape, dtype)
    return hidden, weight.T, labels


def ours_tied(hidden: Array, weight: Array, labels: Array, **options: Any) -> Array:
    return jaxloss.linear_cross_entropy(hidden, weight, labels, class_axis=0, **options)


def with_metrics(hidden: Array, weight: Array, labels: Array) -> Array:
    loss, metrics = jaxloss.linear_cross_entropy_with_metrics(hidden, weight, labels, reduction="mean")
    return loss + 0.0 * sum(metric.astype(loss.dtype).mean() for metric in metrics)  # else XLA drops them


def _dot(a: Array, b: Array, axis: int = 1, other: int = 0) -> Array:
    """The product over an axis of each."""
    wide = np.promote_types(a.dtype, "float32")
    return lax.dot_general(a, b, (((axis,), (other,)), ((), ())), preferred_element_type=wide)


def plain(hidden: Array, weight: Array, labels: Array, soft_cap: float | None = None) -> Array:
    logits = _dot(hidden, weight)
    logits = logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)
    return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]


def scan(hidden: Array, weight: Array, labels: Array) -> Array:
    """A loop over chunks of tokens, each computed again for its gradient."""
    size = min(TOKENS, len(labels))

    @jax.checkpoint
    def of_chunk(hidden: Array, labels: Array) -> Array:
        return plain(hidden, weight, labels).sum()

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + of_chunk(*chunk), None

    chunks = hidden.reshape(-1, size, hidden.shape[1]), labels.reshape(-1, size)
    return lax.scan(add, jnp.zeros((), np.promote_types(hidden.dtype, "float32")), chunks)[0] / len(labels)


def products(hidden: Array, weight: Array, labels: Array) -> tuple[Array, Array]:
    """The three that no such loss does without: of the logits, and of their gradient with weight and hidden."""
    logits = _dot(hidden, weight).astype(hidden.dtype)
    logits = lax.optimization_barrier(logits)  # else (hidden.T @ hidden) @ weight would be less to compute
    return _dot(logits, weight, 1, 1).astype(hidden.dtype), _dot(hidden, logits, 0, 0).astype(weight.dtype)


def tokamax(library: Any) -> Any:
    logging.getLogger("absl").setLevel(logging.ERROR)  # else it says at each call that nothing is tuned here
    implementation = "mosaic_tpu" if jax.default_backend() == "tpu" else "chunked_xla"

    def loss(hidden: Array, weight: Array, labels: Array) -> Array:
        return library.linear_softmax_cross_entropy_loss(
            hidden, labels, weight, reduction="mean", implementation=implementation
        )

    return loss
