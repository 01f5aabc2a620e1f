"""The public `reduce`. Its arithmetic is that of all losses, `Mask.reduce`."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array
from jax.typing import ArrayLike

from . import arguments
from .compiler import compiled
from .masks import prepare_mask
from .types import AxisName, Reduction


@compiled()
def reduce(
    losses: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
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

    Where that count is known later, :func:`sum_and_weight` gives what to add up.

    Args:
      losses: real array of any shape, such as the losses of ``reduction="none"``.
      where: boolean mask, broadcast to the shape of ``losses``: False masks an entry. Masked entries may contain
        anything, even NaN, infinities and labels of -100; they affect neither the value nor the gradient. An empty mask
        gives 0 with zero gradient.
      weights: real, broadcast to the shape of ``losses``. An entry of weight 0 is masked, but for the derivative by the
        weight: that is the loss, or 0 if the loss is not finite, so that weights may be learned from 0.
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
    arguments.choice("reduce", "reduction", reduction, axis_name)
    values = arguments.real("reduce", "losses", losses)
    values = values.astype(arguments.compute_dtype(values))
    mask = prepare_mask("reduce", where, weights, values.shape, values.dtype).exclude()
    return mask.reduce(values, reduction, axis_name)


class SumAndWeight(NamedTuple):
    """The weighted sum of losses, and the sum of their weights: a mean is their quotient."""

    sum: Array
    weight: Array


@compiled()
def sum_and_weight(
    losses: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> SumAndWeight:
    r"""The numerator and the denominator of the mean of :func:`reduce`, for those who divide later or elsewhere.

    .. math::
        \Bigl(\sum_i w_i \ell_i,\; \sum_i w_i\Bigr)

    Means of batches of different sizes cannot be averaged; these pairs can be added up, over the batches of an
    evaluation, microbatches or hosts. The second sum is without weights the number of unmasked entries.

    Args:
      losses: real array of any shape, such as the losses of ``reduction="none"``, or metrics.
      where: boolean mask, broadcast to the shape of ``losses``, see :func:`reduce`.
      weights: real, broadcast to the shape of ``losses``. An entry of weight 0 is masked.
      axis_name: a mapped axis, or several, over which both sums run as well.

    Returns:
      A :class:`SumAndWeight` of two scalars; float64 if ``losses`` is, else float32.

    Raises:
      TypeError: ``where`` is not boolean, or an array is not real.
      ValueError: a shape does not broadcast to that of ``losses``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> batches = jnp.array([1.0, 2.0, 6.0]), jnp.array([4.0, jnp.nan])
      >>> pairs = [jaxloss.sum_and_weight(losses, where=~jnp.isnan(losses)) for losses in batches]
      >>> total, weight = jax.tree.map(lambda *values: sum(values), *pairs)
      >>> print(total / weight)  # (1 + 2 + 6 + 4) / 4
      3.25
    """
    name = "sum_and_weight"
    arguments.mapped(name, "axis_name", axis_name)
    values = arguments.real(name, "losses", losses)
    values = values.astype(arguments.compute_dtype(values))
    mask = prepare_mask(name, where, weights, values.shape, values.dtype).exclude()
    return SumAndWeight(mask.reduce(values, "sum", axis_name), mask.total_weight(values.shape, values.dtype, axis_name))
