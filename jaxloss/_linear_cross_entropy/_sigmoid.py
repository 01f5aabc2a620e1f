"""The cross entropy of a sigmoid for each class, of hidden states against the indices of the positive classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.classes import class_sum, is_named, num_classes
from .._core.compiler import compiled, match_varying_axes
from .._core.cross_entropy import Options, transform_logits, transform_logits_backward
from .._core.masks import Mask, prepare_mask
from .._core.named_classes import are_valid
from .._core.rows import is_finite_row
from .._core.types import AxisName, Reduction
from .._sigmoid_cross_entropy import sigmoid_elements
from ._call import all_classes, dtype_of, head, plan, reduced
from ._head import Rows, Tokens


def _positive(labels: Array, z: Array, class_axis_name: AxisName | None) -> Array:
    """1 for the classes that are among the labels of a row, and 0 elsewhere."""
    return is_named(labels, z, class_axis_name).astype(z.dtype)


def _forward(
    logits: tuple[Array], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
) -> tuple[tuple[Array], tuple[()], Any]:
    (x,), (labels, soft_cap, logit_scale), mask = logits, tokens, Mask(examples)
    options = mask.fill_options(Options(soft_cap=soft_cap, logit_scale=logit_scale))
    z = transform_logits(x, mask, options)
    losses = class_sum(sigmoid_elements(z, _positive(labels, z, class_axis_name), None), class_axis_name)
    valid = are_valid(labels, num_classes(z, class_axis_name))
    return (jnp.where(valid, losses, jnp.nan),), (), (x, labels, options, mask)


def _backward(
    saved: Any, cotangents: tuple[Array], class_axis_name: AxisName | None
) -> tuple[tuple[Array | None], Tokens]:
    (x, labels, options, mask), (g,) = saved, cotangents
    z = transform_logits(x, mask, options)
    valid = are_valid(labels, num_classes(z, class_axis_name))
    g = mask.fill_options(jnp.where(valid, g, jnp.nan), 0)
    _, pullback = jax.vjp(lambda z: sigmoid_elements(z, _positive(labels, z, class_axis_name), None), z)
    (gradient,) = pullback(match_varying_axes(z, jnp.broadcast_to(g[..., None], z.shape)))
    ct_logits, ct_cap, ct_scale = transform_logits_backward(gradient, x, mask, options, class_axis_name)
    return (ct_logits,), (None, ct_cap, ct_scale)


_ROWS = Rows(_forward, _backward)


@compiled(soft_cap=arguments.POSITIVE)
def linear_sigmoid_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    class_axis_name: AxisName | None = None,
    chunk_size: int | None = None,
    accumulation_dtype: DTypeLike | None = None,
) -> Array:
    r"""Cross entropy of ``sigmoid(hidden @ weight + bias)``, summed over classes, with the indices of those that apply.

    .. math::
        \ell = -\sum_{c \in Y} \log \sigma(x_c) - \sum_{c \notin Y} \log \sigma(-x_c), \quad x = h W + b, \qquad
        \frac{\partial \ell}{\partial x_c} = \sigma(x_c) - [c \in Y]

    For multi-label classification among very many classes: neither the logits nor labels of the size of the logits
    ever exist. With them it is ``sigmoid_binary_cross_entropy(hidden @ weight, labels).sum(-1)``. Examples are
    processed in chunks, as tokens in :func:`linear_cross_entropy`: ``"sum"`` and ``"mean"`` compute no product twice.

    Args:
      hidden: floating array (..., features).
      weight: floating array (features, classes), or its transpose with ``class_axis=0``.
      labels: integers (..., k), the classes Y of each example, in any order. Fewer than k are padded with -1; a class
        that is named twice counts once. Any other integer outside of [0, classes) gives NaN.
      bias: shape (classes,). A bias of ``-inf`` removes a class.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``.
      where: boolean, broadcast to the shape of ``hidden`` without its last axis: False masks an example, see
        :func:`jaxloss.reduce`.
      weights: real, broadcast to the same. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. The mean is over examples.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight`` and ``bias`` are
        split; labels count all classes.
      chunk_size: of how many examples a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up, as there.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if ``hidden`` or
      ``weight`` is, else float32.

    Raises:
      TypeError: ``hidden``, ``weight`` or ``accumulation_dtype`` is not floating, ``labels`` is not integer, ``where``
        is not boolean.
      ValueError: features or shapes do not agree, an option does not broadcast, ``chunk_size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> labels = jnp.array([[0, 2], [1, -1]])  # classes 0 and 2; class 1
      >>> print(jaxloss.linear_sigmoid_cross_entropy(hidden, weight, labels).round(4))
      [1.5744 2.4001]

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.2, of each class.
    """
    name = "linear_sigmoid_cross_entropy"
    linear_head, axis = head(name, "", hidden, weight, bias, class_axis)
    dtype, shape = dtype_of(linear_head), linear_head.hidden.shape[:-1]
    y = arguments.signed_integer(name, "labels", labels)
    k = y.shape[-1] if y.ndim > len(shape) else 1
    arguments.same_shape(name, "labels", y, (*shape, k), "; the positive classes of each example, padded with -1")
    chunk_plan = plan(name, _ROWS, (linear_head,), (axis,), class_axis_name, chunk_size, accumulation_dtype)
    classes = all_classes(linear_head, axis, class_axis_name)
    mask = prepare_mask(name, where, weights, shape, dtype)
    mask = mask.exclude(is_finite_row(linear_head.hidden) & are_valid(y, classes))
    tokens = (
        y,
        arguments.option(name, "soft_cap", soft_cap, np.inf, shape, dtype),
        arguments.option(name, "logit_scale", logit_scale, 1, shape, dtype),
    )
    arguments.choice(name, "reduction", reduction, axis_name)
    return reduced(chunk_plan, (linear_head,), tokens, mask, reduction, axis_name)[0]
