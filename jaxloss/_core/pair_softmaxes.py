"""Softmaxes over the products of pairs, of those that a mask leaves."""

import jax.numpy as jnp
from jax import Array, lax

from .compiler import cpu_shortcut


def logsumexp_where(x: Array, mask: Array, axis: int = -1) -> Array:
    """The logsumexp of the unmasked entries. If there is none, it is far below all others, without derivative."""
    x = jnp.where(mask, x, least(x))
    top = lax.stop_gradient(x).max(axis, keepdims=True, initial=least(x))
    return top.squeeze(axis) + jnp.log(jnp.exp(x - top).sum(axis))


def least(x: Array) -> float:
    """Not -inf, whose differences have no derivative."""
    return float(jnp.finfo(x.dtype).min) / 4


# On a CPU rows and columns share their exponentials, where the range of a chunk fits in the dtype.
_RANGE = 60.0  # so that a weight times the exponential of it fits, too


def logsumexps_where(z: Array, of_rows: Array, of_columns: Array) -> tuple[Array, Array]:
    """`logsumexp_where` of rows and of columns, each with a mask."""
    found: tuple[Array, Array] = cpu_shortcut(_spans(z), _each_logsumexp, _both_logsumexps, z, of_rows, of_columns)
    return found


def weighted_softmaxes(
    z: Array, masks: tuple[Array, Array], of_rows: tuple[Array, Array], of_columns: tuple[Array, Array]
) -> Array:
    """a_i exp(z_ij - r_i) + c_j exp(z_ij - s_j) of (a, r) and (c, s), logsumexps of rows and of columns."""
    weights = *masks, *of_rows, *of_columns
    found: Array = cpu_shortcut(_spans(z), _each_softmax, _both_softmaxes, z, *weights)
    return found


def _spans(z: Array) -> Array:
    """Whether exponentials may underflow."""
    z = lax.stop_gradient(z)
    return ~(z.max(initial=least(z)) - z.min(initial=-least(z)) < _RANGE)


def _each_logsumexp(z: Array, of_rows: Array, of_columns: Array) -> tuple[Array, Array]:
    return logsumexp_where(z, of_rows), logsumexp_where(z, of_columns, axis=0)


def _both_logsumexps(z: Array, of_rows: Array, of_columns: Array) -> tuple[Array, Array]:
    top = lax.stop_gradient(z).max(initial=least(z))
    exponentials = jnp.exp(z - top)
    rows, columns = (jnp.where(mask, exponentials, 0).sum(axis) for mask, axis in ((of_rows, 1), (of_columns, 0)))
    return _log_or_least(rows, top), _log_or_least(columns, top)


def _log_or_least(total: Array, top: Array) -> Array:
    some = total > 0
    return jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), least(total))


def _each_softmax(
    z: Array, of_rows: Array, of_columns: Array, a: Array, in_row: Array, c: Array, in_column: Array
) -> Array:
    z = jnp.where(of_rows | of_columns, z, least(z))
    by_row, by_column = a[:, None] * jnp.exp(z - in_row[:, None]), c[None, :] * jnp.exp(z - in_column[None, :])
    return jnp.where(of_rows, by_row, 0) + jnp.where(of_columns, by_column, 0)


def _both_softmaxes(
    z: Array, of_rows: Array, of_columns: Array, a: Array, in_row: Array, c: Array, in_column: Array
) -> Array:
    top = lax.stop_gradient(z).max(initial=least(z))
    a, c = (x * jnp.exp(jnp.minimum(top - total, _RANGE)) for x, total in ((a, in_row), (c, in_column)))
    return jnp.exp(z - top) * (jnp.where(of_rows, a[:, None], 0) + jnp.where(of_columns, c[None, :], 0))
