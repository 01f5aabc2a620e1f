"""The clipped policy loss, of log-probabilities and of hidden states, as people write it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxloss

from . import linear

ADVANTAGE = 0.7


def clip(x: Array, t: Array, **options: Any) -> Array:
    return jaxloss.ppo_clip_loss(x, t, ADVANTAGE, **options)


def plain_clip(x: Array, t: Array) -> Array:
    ratio = jnp.exp(x - t)
    return -jnp.minimum(ratio * ADVANTAGE, jnp.clip(ratio, 0.8, 1.2) * ADVANTAGE)


def clip_of_hidden(hidden: Array, weight: Array, labels: Array, **options: Any) -> Array:
    """Of a first step, where the old log-probabilities are the policy's own."""
    log_prob, _ = jaxloss.linear_log_probs(hidden, weight, labels)
    return clip(log_prob, lax.stop_gradient(log_prob), **options)


def plain_of_hidden(hidden: Array, weight: Array, labels: Array) -> Array:
    log_prob = -linear.plain(hidden, weight, labels)
    return plain_clip(log_prob, lax.stop_gradient(log_prob))


def scan(hidden: Array, weight: Array, labels: Array) -> Array:
    """A loop over chunks of tokens, each computed again for its gradient."""
    size = min(linear.TOKENS, len(labels))

    @jax.checkpoint
    def of_chunk(hidden: Array, labels: Array) -> Array:
        return plain_of_hidden(hidden, weight, labels).sum()

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + of_chunk(*chunk), None

    chunks = hidden.reshape(-1, size, hidden.shape[1]), labels.reshape(-1, size)
    return lax.scan(add, jnp.zeros((), np.promote_types(hidden.dtype, "float32")), chunks)[0] / len(labels)
