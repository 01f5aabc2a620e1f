"""The epilogue of every loss: where, weights and the three reductions, defined once."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import _inputs
from ._compiled import compiled
from ._types import AxisName, Reduction


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
    kept = None if where is None else _inputs.broadcast(name, "where", _inputs.boolean(name, "where", where), shape)
    if weights is None:
        return kept, None
    return kept, _inputs.broadcast(name, "weights", _inputs.real(name, "weights", weights).astype(dtype), shape)


def excluding(
    kept: Array | None, weight: Array | None, usable: Array | None = None
) -> tuple[Array | None, Array | None]:
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


@compiled()
def reduce(
    losses: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Weighs, masks and reduces losses, as every function of this library does.

    .. math::
        \text{none: } w_i \ell_i, \qquad \text{sum: } \sum_i w_i \ell_i, \qquad
        \text{mean: } \frac{\sum_i w_i \ell_i}{\sum_i w_i},

    each over the entries that ``where`` keeps. Nothing left to average gives 0, with zero gradient, and so do weights
    that sum to 0: with negative weights, as of advantages, take the sum.

    With ``"none"`` what is excluded is 0 and the rest is weighed already: do not take the mean of that, but reduce
    once, either with ``reduction="mean"`` in the loss or, of losses without mask and weights, here, where it is the
    default.

    It is also what to end your own loss with, and the way to average what is no loss, such as a masked accuracy. Mask
    what goes *into* your loss too: an infinite derivative times the zero that a mask gives back is NaN.

    Over devices the mean of means is not the mean. With ``axis_name`` both sums run over the mapped axis as well, so
    that every device holds the mean of the whole batch. What ``jax.grad`` then gives, for parameters that every device
    holds alike:

    ============================================== ===========================================================
    ``grad`` taken                                 result
    ============================================== ===========================================================
    outside ``shard_map``, ``vmap`` or ``pmap``    the gradient of the whole batch's mean
    inside ``shard_map``, ``check_vma=True``       the same: JAX sums the replicated parameters' gradient
    inside ``shard_map``, ``check_vma=False``      number of devices x this device's part: take ``lax.pmean``
    inside ``vmap`` or ``pmap`` with the axis name the same: take ``lax.pmean``
    ============================================== ===========================================================

    Over microbatches, likewise: divide each sum by the valid count of the whole batch, not of the microbatch, and add
    up the gradients (for ``optax.MultiSteps``, which averages k of them, multiply by k)::

        loss = k * jaxloss.reduce(losses, where=mask, reduction="sum") / valid_in_all_microbatches

    Args:
      losses: real array of any shape, such as the losses of ``reduction="none"``.
      where: boolean, broadcast to the shape of ``losses``: True is kept. What it excludes may hold anything.
      weights: real, broadcast to the shape of ``losses``. A weight of 0 excludes: the entry may hold anything. The
        derivative by the weight is the loss at 0 too (0 if it is not finite), so that weights may be learned from 0.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``.
      axis_name: a mapped axis, or several, over which ``"sum"`` and ``"mean"`` run as well.

    Returns:
      An array of the shape of ``losses`` for ``"none"``, else a scalar; float64 if ``losses`` is, else float32.

    Raises:
      TypeError: ``where`` is not boolean, or an array is not real.
      ValueError: a shape does not broadcast to that of ``losses``, ``reduction`` is unknown, or ``axis_name`` is given
        with ``"none"``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> losses = jnp.array([1.0, 2.0, jnp.nan])
      >>> print(jaxloss.reduce(losses, where=jnp.array([True, True, False])))
      1.5
      >>> print(jaxloss.reduce(losses, weights=jnp.array([3.0, 1.0, 0.0])))
      1.25

    Keras divides a weighted mean by the number of entries, PyTorch by the sum of the weights in some losses and by the
    number of entries in others.
    """
    _inputs.choice("reduce", "reduction", reduction, axis_name)
    values = _inputs.real("reduce", "losses", losses)
    values = values.astype(_inputs.compute_dtype(values))
    kept, weight = excluding(*merge("reduce", where, weights, values.shape, values.dtype))
    return finish(values, kept, weight, reduction, axis_name)


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
