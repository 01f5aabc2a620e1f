"""The log-probability of labels and the entropy, from hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.compiler import compiled
from .._core.cross_entropy import (
    LogProbs,
    Options,
    entropy,
    entropy_backward,
    indexed_cross_entropy_backward,
    indexed_cross_entropy_forward,
    summarized,
)
from .._core.masks import Mask, prepare_mask
from .._core.types import AxisName
from ._call import dtype_of, head, plan
from ._each import loss_of_each
from ._head import Rows, Tokens


def _forward(
    logits: tuple[Array], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
) -> tuple[tuple[Array, Array], tuple[()], Any]:
    labels, *options = tokens
    args = *logits, labels, Mask(examples), Options(None, None, *options), class_axis_name
    losses, saved = indexed_cross_entropy_forward(*args)
    rows = summarized(*args)
    value = entropy(rows, class_axis_name)
    return (-losses, value), (), (saved, rows, value)


def _backward(
    saved: Any, cotangents: tuple[Array | None, Array | None], class_axis_name: AxisName | None
) -> tuple[Tokens, Tokens]:
    saved_losses, rows, value = saved
    g, ct_entropy = cotangents
    terms: list[tuple[Array | None, ...]] = []
    if g is not None:
        z, _, _, options = indexed_cross_entropy_backward(saved_losses, -g, class_axis_name)
        terms.append((z, options.soft_cap, options.logit_scale))
    if ct_entropy is not None:
        terms.append(entropy_backward(rows, value, ct_entropy, class_axis_name))
    ct_logits, *ct_options = (
        None if cotangents_of_one[0] is None else sum(cotangents_of_one[1:], cotangents_of_one[0])
        for cotangents_of_one in zip(*terms, strict=True)
    )
    return (ct_logits,), (None, *ct_options)


_ROWS = Rows(_forward, _backward)


@compiled(soft_cap=arguments.POSITIVE)
def linear_log_probs(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    class_axis_name: AxisName | None = None,
    chunk_size: int | None = None,
    accumulation_dtype: DTypeLike | None = None,
) -> LogProbs:
    r"""Log-probability of each label, and the entropy, under ``softmax(hidden @ weight + bias)``, without the logits.

    .. math::
        \log p_y, \quad H = -\sum_c p_c \log p_c, \quad p = \mathrm{softmax}(x), \quad x = h W + b, \qquad
        \frac{\partial H}{\partial x_c} = -p_c (\log p_c + H)

    For policy gradients, where log-probability and entropy are weighted later, and for evaluation. Both may be
    differentiated; the logits are then computed again, once for both. Nothing is reduced: see
    :func:`jaxloss.reduce`. Of logits that exist: :func:`log_probs`.

    Args:
      hidden: floating array (..., features), such as [batch, length, features].
      weight: floating array (features, classes), or its transpose with ``class_axis=0``, as a tied embedding is stored.
      labels: integers in [0, classes), of the shape of ``hidden`` without its last axis. Any other integer, -1 too,
        gives NaN: exclude what is to be ignored with ``where=labels != -100``.
      bias: shape (classes,). A bias of ``-inf`` removes a class, as of a padded vocabulary.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``: for a policy that samples at temperature T pass 1 / T,
        and a ``soft_cap`` of s / T if its model caps at s.
      where: boolean, broadcast to the shape of ``labels``: False masks a token, see :func:`jaxloss.reduce`. Masked
        rows of ``hidden`` may contain anything.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight`` and ``bias`` are
        split; labels count all classes.
      chunk_size: of how many tokens a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up, as there.

    Returns:
      :class:`LogProbs`, two arrays of the shape of ``labels``, in nats, 0 for masked tokens; float64 if
      ``hidden`` or ``weight`` is, else float32.

    Raises:
      TypeError: ``hidden`` or ``weight`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: features or shapes do not agree, an option does not broadcast, ``chunk_size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> log_prob, entropy = jaxloss.linear_log_probs(hidden, weight, jnp.array([0, 1]))
      >>> print(log_prob, entropy)
      [-0.5973 -1.5184] [0.9976 1.0092]

    References:
      Williams, Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning, 1992.
    """
    name = "linear_log_probs"
    linear_head, axis = head(name, "", hidden, weight, bias, class_axis)
    dtype, shape = dtype_of(linear_head), linear_head.hidden.shape[:-1]
    y = arguments.fill_row_targets(name, "labels", arguments.integer(name, "labels", labels), linear_head.hidden)
    mask = prepare_mask(name, where, None, shape, dtype)
    tokens = (
        y,
        arguments.option(name, "soft_cap", soft_cap, np.inf, shape, dtype),
        arguments.option(name, "logit_scale", logit_scale, 1, shape, dtype),
    )
    chunk_plan = plan(name, _ROWS, (linear_head,), (axis,), class_axis_name, chunk_size, accumulation_dtype)
    found, _ = loss_of_each(chunk_plan, (linear_head,), tokens, mask.examples)
    return mask.fill_options(LogProbs(*found), 0)
