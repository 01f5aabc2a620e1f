"""Masks and weights: which losses count, and how much."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import arguments
from .types import AxisName, Reduction


class Mask(NamedTuple):
    """Which losses count, how much, and what becomes of them."""

    kept: Array | None
    weight: Array | None
    reduction: Reduction = "none"

    @property
    def unweighted(self) -> Array | None:
        """Where a weight is 0."""
        return None if self.weight is None else self.weight == 0


def merge(
    name: str,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> tuple[Array | None, Array | None]:
    """The mask and the weights for losses of ``shape``."""
    kept = None if where is None else arguments.broadcast(name, "where", arguments.boolean(name, "where", where), shape)
    if weights is None:
        return kept, None
    return kept, arguments.broadcast(name, "weights", arguments.real(name, "weights", weights).astype(dtype), shape)


def exclude(kept: Array | None, weight: Array | None, usable: Array | None = None) -> tuple[Array | None, Array | None]:
    """The mask and the weights, where an excluded loss has weight 0.

    A loss of weight 0 is 0, and yet has a derivative by its weight, which is the loss. One that has none, such as that
    of a label out of range, is excluded: ``usable`` says of which losses that is known.
    """
    if weight is None:
        return kept, None
    if usable is not None:
        usable |= weight != 0
        kept = usable if kept is None else kept & usable
    return kept, weight if kept is None else jnp.where(kept, weight, 0)


def weigh(weight: Array, x: Array) -> Array:
    """weight * x, where a weight of 0 gives 0 whatever x is, and has the derivative x if that is finite, else 0."""
    return weight * finite_where_unweighted(weight, x)


def finite_where_unweighted(weight: Array, x: Array) -> Array:
    return jnp.where((weight == 0) & ~jnp.isfinite(x), 0, x)


def finish(
    losses: Array,
    kept: Array | None,
    weight: Array | None,
    reduction: Reduction,
    axis_name: AxisName | None = None,
) -> Array:
    """`reduce`, of what `merge` returned."""
    if kept is not None:
        losses = jnp.where(kept, losses, 0)
    if weight is not None:
        losses = weigh(weight, losses)
    if reduction == "none":
        return losses
    total = losses.sum()
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    if reduction == "sum":
        return total
    count = _count(kept, weight, losses.shape, losses.dtype, axis_name)
    return jnp.where(count == 0, 0, total / jnp.where(count == 0, 1, count))


def shares(
    kept: Array | None,
    weight: Array | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
    reduction: Reduction,
    axis_name: AxisName | None,
) -> Array:
    """The weights with which the losses of this device add up to its part of what `finish` returns."""
    if weight is None:
        weight = jnp.ones(shape, dtype) if kept is None else kept.astype(dtype)
    if reduction == "sum":
        return weight
    count = _count(kept, weight, shape, dtype, axis_name)
    return jnp.where(count == 0, 0, weight / jnp.where(count == 0, 1, count))


def _count(
    kept: Array | None, weight: Array | None, shape: tuple[int, ...], dtype: np.dtype, axis_name: AxisName | None
) -> Array:
    if weight is not None:
        count = weight.sum()
    elif kept is not None:
        count = kept.sum().astype(dtype)
    else:
        count = jnp.asarray(math.prod(shape), dtype)
    return count if axis_name is None else jax.lax.psum(count, axis_name)
