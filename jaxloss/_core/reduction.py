"""The public `reduce`. Its arithmetic is that of all losses, `Mask.reduce`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .classes import in_range, nan_unless
from .compiler import compiled, shard_like
from .masks import Mask, divide_or_zero, prepare_mask
from .rows import as_rows
from .types import Axis, AxisName, Reduction


class _Segments(NamedTuple):
    """The sums of the entries that have each index, along the axes."""

    axes: tuple[int, ...]
    ids: Array  # of the shape of the losses
    number: int
    dtype: np.dtype  # of the sums

    def total(self, x: Array) -> Array:
        valid = in_range(self.ids, self.number).all(self.axes)[..., None]
        ids = jnp.clip(self.ids, 0, self.number - 1)
        return self._sums(x, ids).astype(self.dtype) * nan_unless(valid, self.dtype)

    def _sums(self, x: Array, ids: Array) -> Array:
        if any(jax.typeof(ids).sharding.spec):  # an explicit mesh refuses a scatter
            segment = lax.broadcasted_iota(ids.dtype, (*(1,) * x.ndim, self.number), x.ndim)
            return jnp.where(ids[..., None] == segment, x[..., None], 0).sum(self.axes)
        rows, index = as_rows(x, self.axes), as_rows(ids, self.axes)
        flat = math.prod(rows.shape[:-1]), rows.shape[-1]
        index = index.reshape(flat)
        row = lax.broadcasted_iota(index.dtype, index.shape, 0)
        sums = jnp.zeros((flat[0], self.number), x.dtype).at[row, index].add(rows.reshape(flat))
        return sums.reshape(*rows.shape[:-1], self.number)


def _prepare(
    name: str,
    losses: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    segment_ids: ArrayLike | None,
    num_segments: int | None,
) -> tuple[Array, Mask, Callable[[Array], Array]]:
    """The losses, the mask, and what adds them up."""
    values = arguments.real(name, "losses", losses)
    values = values.astype(arguments.compute_dtype(values))
    mask = prepare_mask(name, where, weights, values.shape, values.dtype).exclude()
    if segment_ids is None:
        if num_segments is not None:
            raise ValueError(f"{name}: expected `num_segments` with `segment_ids`, got it alone.")
        axes = None if axis is None else arguments.axes(name, axis, values.shape)
        return values, mask, jnp.sum if axes is None else partial(jnp.sum, axis=axes)
    if values.ndim == 0:
        raise ValueError(f"{name}: expected `losses` with an axis for `segment_ids`, got a number.")
    axes = arguments.axes(name, axis, values.shape)
    ids = arguments.broadcast(name, "segment_ids", arguments.integer(name, "segment_ids", segment_ids), values.shape)
    like = values if any(jax.typeof(values).sharding.spec) else ids
    values, mask, ids = shard_like(like, (values, mask, ids))
    ids = mask.fill_options(ids, 0)
    if mask.weight is not None:
        ids = jnp.where(mask.weight == 0, 0, ids)
    count = math.prod(values.shape[a] for a in axes)
    if num_segments is not None:
        count = arguments.positive_integer(name, "num_segments", num_segments)
    return values, mask, _Segments(axes, ids, count, values.dtype).total


@compiled()
def reduce(
    losses: ArrayLike,
    *,
    axis: Axis = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    num_segments: int | None = None,
    reduction: Reduction = "mean",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Weights, masks and reduces losses, as every loss of this library does.

    .. math::
        \text{none: } w_i \ell_i, \qquad \text{sum: } \sum_i w_i \ell_i, \qquad
        \text{mean: } \frac{\sum_i w_i \ell_i}{\sum_i w_i},

    each over the unmasked entries. An empty mask gives 0 with zero gradient, and so do weights that sum to 0. With
    negative weights, such as advantages, use the sum.

    ``reduction="none"`` returns weighted losses with zeros for masked entries. Do not average that array: use
    ``reduction="mean"`` in the loss, or call this function, where it is the default, with the mask and the weights.

    Use it to reduce your own losses, and to average metrics such as a masked accuracy. Mask the *inputs* of your own
    loss too: an infinite derivative times the zero of the mask is NaN.

    The mean of each sequence, and then over sequences, is two calls, of which the second masks empty ones. Where
    sequences are packed into rows, ``segment_ids`` say to which one an entry belongs::

        each = jaxloss.sum_and_weight(losses, axis=-1, where=mask)  # [batch, length] to [batch]
        each = jaxloss.sum_and_weight(losses, axis=-1, where=mask, segment_ids=ids)  # to [batch, sequences of a row]
        loss = jaxloss.reduce(each.mean, where=each.weight > 0)

    Over devices the mean of means is not the mean. With ``axis_name`` both sums run over the mapped axis as well, so
    that every device holds the mean of the whole batch. (Of the two calls above the second one takes it, unless devices
    share a sequence.) What ``jax.grad`` then gives, for parameters that every device holds alike:

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

    Where that count is known later, :func:`sum_and_weight` gives what to add up.

    Args:
      losses: real array of any shape, such as the losses of ``reduction="none"``.
      axis: the axis or axes over which ``"sum"`` and ``"mean"`` run; None for all.
      where: boolean mask, broadcast to the shape of ``losses``: False masks an entry. Masked entries may contain
        anything, even NaN, infinities and labels of -100; they affect neither the value nor the gradient. An empty mask
        gives 0 with zero gradient.
      weights: real, broadcast to the shape of ``losses``. An entry of weight 0 is masked, but for the derivative by the
        weight: that is the loss, or 0 if the loss is not finite, so that weights may be learned from 0.
      segment_ids: integers in [0, num_segments), broadcast to the shape of ``losses``. Sums and means are then those of
        the entries with each index, along ``axis``, and 0 for an index that no entry has. Masked entries may have any
        index. Any other index out of range gives NaN for all segments that are summed along the same ``axis``, value
        and gradient.
      num_segments: how many there are, static; by default as many as entries along ``axis``.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``.
      axis_name: a mapped axis, or several, over which ``"sum"`` and ``"mean"`` run as well.

    Returns:
      An array of the shape of ``losses`` for ``"none"``, else of that shape without ``axis``, and with ``segment_ids``
      num_segments as its last axis; float64 if ``losses`` is, else float32.

    Raises:
      TypeError: ``where`` is not boolean, or an array is not real.
      ValueError: a shape does not broadcast to that of ``losses``, ``reduction`` or ``axis`` is unknown, or what says
        over which entries or devices to sum is given with ``"none"``.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> losses = jnp.array([1.0, 2.0, jnp.nan])
      >>> print(jaxloss.reduce(losses, where=jnp.array([True, True, False])))
      1.5
      >>> print(jaxloss.reduce(losses, weights=jnp.array([3.0, 1.0, 0.0])))
      1.25
      >>> print(jaxloss.reduce(jnp.array([1.0, 2.0, 6.0]), segment_ids=jnp.array([0, 0, 2])))
      [1.5 0.  6. ]

    Keras divides a weighted mean by the number of entries, PyTorch by the sum of the weights in some losses and by the
    number of entries in others.
    """
    name = "reduce"
    arguments.choice(name, "reduction", reduction, axis_name)
    values, mask, total = _prepare(name, losses, axis, where, weights, segment_ids, num_segments)
    if reduction != "none":
        return mask.reduce(values, reduction, axis_name, total)
    for argument, value in {"axis": axis, "segment_ids": segment_ids}.items():
        if value is not None:
            raise ValueError(f'{name}: expected `{argument}` with `reduction` "sum" or "mean", got "none".')
    return mask.reduce(values, reduction)


class SumAndWeight(NamedTuple):
    """The weighted sum of losses, and the sum of their weights: a mean is their quotient."""

    sum: Array
    weight: Array

    @property
    def mean(self) -> Array:
        """The quotient, 0 for a weight of 0."""
        return divide_or_zero(self.sum, self.weight)


@compiled()
def sum_and_weight(
    losses: ArrayLike,
    *,
    axis: Axis = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    segment_ids: ArrayLike | None = None,
    num_segments: int | None = None,
    axis_name: AxisName | None = None,
) -> SumAndWeight:
    r"""The numerator and the denominator of the mean of :func:`reduce`, for those who divide later or elsewhere.

    .. math::
        \Bigl(\sum_i w_i \ell_i,\; \sum_i w_i\Bigr)

    Means of batches of different sizes cannot be averaged; these pairs can be added up, over the batches of an
    evaluation, microbatches or hosts. The second sum is without weights the number of unmasked entries.

    Args:
      losses: real array of any shape, such as the losses of ``reduction="none"``, or metrics.
      axis: the axis or axes over which both sums run; None for all.
      where: boolean mask, broadcast to the shape of ``losses``, see :func:`reduce`.
      weights: real, broadcast to the shape of ``losses``. An entry of weight 0 is masked.
      segment_ids: integers, broadcast to the shape of ``losses``: the sums are those of each index, see :func:`reduce`.
      num_segments: how many indices there are, static; by default as many as entries along ``axis``.
      axis_name: a mapped axis, or several, over which both sums run as well.

    Returns:
      A :class:`SumAndWeight` of two arrays of the shape of ``losses`` without ``axis``, with ``segment_ids`` and
      num_segments as the last axis; float64 if ``losses`` is, else float32. Its property ``mean`` is their quotient.

    Raises:
      TypeError: ``where`` is not boolean, or an array is not real.
      ValueError: a shape does not broadcast to that of ``losses``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> batches = jnp.array([1.0, 2.0, 6.0]), jnp.array([4.0, jnp.nan])
      >>> pairs = [jaxloss.sum_and_weight(losses, where=~jnp.isnan(losses)) for losses in batches]
      >>> print(jax.tree.map(lambda *values: sum(values), *pairs).mean)  # (1 + 2 + 6 + 4) / 4
      3.25
    """
    name = "sum_and_weight"
    arguments.mapped(name, "axis_name", axis_name)
    values, mask, total = _prepare(name, losses, axis, where, weights, segment_ids, num_segments)
    summed = mask.reduce(values, "sum", axis_name, total)
    return SumAndWeight(summed, mask.total_weight(values.shape, values.dtype, axis_name, total))
