"""The cross entropy of hidden states against a probability for each class."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.classes import class_sum
from .._core.compiler import compiled
from .._core.cross_entropy import Options, dense_cross_entropy_backward, dense_cross_entropy_forward
from .._core.masks import Mask, prepare_mask
from .._core.rows import is_finite_row
from .._core.types import AxisName, Reduction
from ._call import dtype_of, head, plan, reduced, widened
from ._head import Rows, Tokens


def _forward(
    logits: tuple[Array], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
) -> tuple[tuple[Array], tuple[()], Any]:
    labels, *options = tokens
    losses, saved = dense_cross_entropy_forward(*logits, labels, Mask(examples), Options(*options), class_axis_name)
    return (losses,), (), saved


def _backward(
    saved: Any, cotangents: tuple[Array], class_axis_name: AxisName | None
) -> tuple[tuple[Array | None], Tokens]:
    ct_logits, ct_labels, _, ct_options = dense_cross_entropy_backward(saved, *cotangents, class_axis_name)
    return (ct_logits,), (ct_labels, *ct_options)


_ROWS = Rows(_forward, _backward, class_tokens=(0,))


@compiled(label_smoothing=arguments.UNIT, z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def linear_cross_entropy_with_soft_labels(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
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
    r"""Cross entropy of ``softmax(hidden @ weight + bias)`` with a probability for each class, without the logits.

    .. math::
        \ell = -\sum_c t_c \log p_c, \quad p = \mathrm{softmax}(x), \quad x = h W + b, \qquad
        \frac{\partial \ell}{\partial x_c} = p_c \sum_j t_j - t_c, \qquad
        \frac{\partial \ell}{\partial t_c} = -\log p_c

    :func:`softmax_cross_entropy` of ``hidden @ weight``, for labels that are there: the logits and their gradients are
    never in memory beside them. Where labels come from a model, :func:`linear_kl_divergence` needs no labels, and where
    few classes have any, :func:`linear_cross_entropy_with_indexed_labels` needs few.

    Args:
      hidden: floating array (..., features).
      weight: floating array (features, classes), or its transpose with ``class_axis=0``.
      labels: target probabilities :math:`t`, real, (..., classes). They need not sum to 1. In bfloat16 they take half
        the memory, and are never converted as a whole.
      bias: shape (classes,). A bias of ``-inf`` removes a class, and costs infinity if it has a label.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      label_smoothing: :math:`\alpha` in [0, 1]: labels become :math:`(1 - \alpha) t_c + \alpha / K`.
      z_loss: :math:`\zeta \ge 0`: adds :math:`\zeta\, \mathrm{logsumexp}(x)^2`, in nats squared.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``.
      where: boolean, broadcast to the shape of ``hidden`` without its last axis: False masks a token, see
        :func:`jaxloss.reduce`.
      weights: real, broadcast to the same. An entry of weight 0 is masked. For class weights pass
        ``labels @ class_weights``.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight``, ``bias`` and
        ``labels`` are split.
      chunk_size: of how many tokens a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up, as there.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if ``hidden``, ``weight``
      or ``labels`` is, else float32.

    Raises:
      TypeError: ``hidden`` or ``weight`` is not floating, ``where`` is not boolean.
      ValueError: features or shapes do not agree, an option does not broadcast, ``chunk_size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> labels = jnp.array([[0.7, 0.0, 0.3], [0.0, 1.0, 0.0]])
      >>> print(jaxloss.linear_cross_entropy_with_soft_labels(hidden, weight, labels).round(4))
      [0.8373 1.5184]

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.3.
    """
    name = "linear_cross_entropy_with_soft_labels"
    linear_head, axis = head(name, "", hidden, weight, bias, class_axis)
    shape = linear_head.hidden.shape[:-1]
    t = arguments.real(name, "labels", labels)
    t = t if jnp.issubdtype(t.dtype, np.floating) else t.astype(np.float32)
    hint = "; for class indices, use `linear_cross_entropy`" if t.shape == shape else ""
    arguments.same_shape(name, "labels", t, (*shape, linear_head.weight.shape[axis]), hint)
    linear_head = widened(linear_head, t)
    dtype = dtype_of(linear_head)
    chunk_plan = plan(name, _ROWS, (linear_head,), (axis,), class_axis_name, chunk_size, accumulation_dtype)
    infinite = class_sum((~jnp.isfinite(t)).astype(np.int32), class_axis_name)
    usable = is_finite_row(linear_head.hidden) & (infinite == 0)
    mask = prepare_mask(name, where, weights, shape, dtype).exclude(usable)
    tokens = (
        t,
        arguments.option(name, "label_smoothing", label_smoothing, 0, shape, dtype),
        arguments.option(name, "z_loss", z_loss, 0, shape, dtype),
        arguments.option(name, "soft_cap", soft_cap, np.inf, shape, dtype),
        arguments.option(name, "logit_scale", logit_scale, 1, shape, dtype),
    )
    arguments.choice(name, "reduction", reduction, axis_name)
    return reduced(chunk_plan, (linear_head,), tokens, mask, reduction, axis_name)[0]
