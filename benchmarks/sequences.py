"""CTC of logits [batch, frames, classes] and labels [batch, n], as people write it and as peers are called.

And the transducer, of logits [batch, frames, n + 1, classes]. All frames and all labels are there, and class 0 is
blank. The shape of a case is (batch, frames, n, classes), or that of the logits.
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


def draw_lattice(key: Array, shape: tuple[int, ...], dtype: str) -> tuple[Array, Array]:
    batch, _, nodes, classes = shape
    one, two = jax.random.split(key)
    return jax.random.normal(one, shape, dtype), jax.random.randint(two, (batch, nodes - 1), 1, classes, "int32")


def ours_lattice(logits: Array, labels: Array, **options: Any) -> Array:
    return jaxloss.rnnt_loss(logits, labels=labels, blank_id=0, **options)


def plain_lattice(logits: Array, labels: Array) -> Array:
    """Node by node: a loop over frames, and in it one over labels, for JAX to differentiate."""
    log_p = jax.nn.log_softmax(logits)
    label = jnp.take_along_axis(log_p[:, :, :-1], labels[:, None, :, None], -1)[..., 0]
    blank, label = jnp.moveaxis(log_p[..., 0], -1, 0), jnp.moveaxis(label, -1, 0)  # [n + 1, batch, frames]

    def along(from_below: Array, row: Array) -> tuple[Array, Array]:
        """A column of nodes, [batch, frames], from what comes to them by a label."""

        def up(before: Array, of_frame: Array) -> tuple[Array, Array]:
            entering, blank = of_frame
            now = jnp.logaddexp(before, entering)
            return now + blank, now

        start = jnp.full(from_below.shape[:1], -1e30, from_below.dtype)
        return lax.scan(up, start, (from_below.T, row.T))

    first = jnp.full(blank.shape[1:], -1e30, blank.dtype).at[:, 0].set(0.0)

    def step(entering: Array, of_labels: tuple[Array, Array]) -> tuple[Array, None]:
        _, column = along(entering, of_labels[0])
        return column.T + of_labels[1], None

    entering, _ = lax.scan(step, first, (blank[:-1], label))
    return -along(entering, blank[-1])[0]
