"""CTC of logits [batch, frames, classes] and labels [batch, n], as people write it and as peers are called.

All frames and all labels are there, and class 0 is blank. The shape of a case is (batch, frames, n, classes).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxloss


def draw(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    batch, frames, labels, classes = shape
    one, two = jax.random.split(key)
    logits = jax.random.normal(one, (batch, frames, classes), dtype)
    return logits, jax.random.randint(two, (batch, labels), 1, classes, "int32")


def ours(logits: Array, labels: Array, **options: Any) -> Array:
    return jaxloss.ctc_loss(logits, labels=labels, **options)


def plain(logits: Array, labels: Array) -> Array:
    """A loop over frames with the states blank, label, blank, ..., blank, for JAX to differentiate."""
    log_p = jax.nn.log_softmax(logits)
    batch, count = labels.shape
    states = jnp.zeros((batch, 2 * count + 1), labels.dtype).at[:, 1::2].set(labels)
    skips = jnp.zeros(states.shape, bool).at[:, 3::2].set(labels[:, 1:] != labels[:, :-1])
    emitted = jnp.moveaxis(jnp.take_along_axis(log_p, states[:, None], -1), 1, 0)
    nothing = jnp.full(states.shape, -1e30, log_p.dtype)

    def before(alpha: Array, steps: int) -> Array:
        return jnp.concatenate([nothing[:, :steps], alpha[:, :-steps]], -1)

    def step(alpha: Array, of_frame: Array) -> tuple[Array, None]:
        ways = jnp.stack([alpha, before(alpha, 1), jnp.where(skips, before(alpha, 2), -1e30)])
        return of_frame + jax.nn.logsumexp(ways, 0), None

    alpha, _ = lax.scan(step, nothing.at[:, :2].set(emitted[0, :, :2]), emitted[1:])
    return -jax.nn.logsumexp(alpha[:, -2:], -1)


def optax(library: Any) -> Any:
    def loss(logits: Array, labels: Array) -> Array:
        return library.losses.ctc_loss(logits, jnp.zeros(logits.shape[:2]), labels, jnp.zeros(labels.shape))

    return loss


def keras(library: Any) -> Any:
    return lambda logits, labels: library.losses.ctc(labels, logits)


def torch(functional: Any) -> Any:
    def loss(logits: Any, labels: Any) -> Any:
        frames, counts = (logits.new_full(labels.shape[:1], n).long() for n in (logits.shape[1], labels.shape[1]))
        return functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, frames, counts, reduction="none")

    return loss
