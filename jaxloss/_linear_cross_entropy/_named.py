"""Losses of hidden states against targets that name some classes by index: a few probabilities, a teacher's top k."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.compiler import compiled
from .._core.cross_entropy import Options
from .._core.masks import Mask, prepare_mask
from .._core.named_classes import (
    CROSS_ENTROPY,
    KL_DIVERGENCES,
    Pair,
    Rest,
    are_valid,
    kl_divergence,
    prepare_named,
)
from .._core.rows import is_finite_row
from .._core.types import AxisName, Reduction
from ._call import all_classes, at_temperature, dtype_of, head, plan, reduced, widened
from ._hard_labels import check_weights, hard_tokens, with_hard_labels
from ._head import Rows, Tokens


def _rows(pair: Pair) -> Rows:
    def forward(
        logits: tuple[Array], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
    ) -> tuple[tuple[Array], tuple[()], Any]:
        indices, targets, *options = tokens
        losses, saved = pair.forward(
            *logits, indices, targets, Mask(examples), Options(None, *options), class_axis_name
        )
        return (losses,), (), saved

    def backward(
        saved: Any, cotangents: tuple[Array], class_axis_name: AxisName | None
    ) -> tuple[tuple[Array | None], Tokens]:
        ct_logits, _, ct_targets, _, ct_options = pair.backward(saved, *cotangents, class_axis_name)
        return (ct_logits,), (None, ct_targets, *ct_options[1:])

    return Rows(forward, backward)


_CROSS_ENTROPY = _rows(CROSS_ENTROPY)
_KL = {pair: _rows(pair) for pair in KL_DIVERGENCES.values()}
_WITH_HARD_LABELS = {rows: with_hard_labels(rows) for rows in _KL.values()}


def _are_usable(targets: Array, argument: str) -> Array:
    """Whether a loss may be finite: a log-probability may be -inf."""
    finite = jnp.isfinite(targets) if argument == "labels" else targets < jnp.inf
    return finite.all(-1)


def _linear(
    name: str,
    rows: Rows,
    head_arguments: tuple[Any, ...],
    indices: ArrayLike,
    argument: str,
    targets: ArrayLike | None,
    options: tuple[ArrayLike | None, ...],
    hard_labels: tuple[ArrayLike | None, ArrayLike, ArrayLike],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    axis_name: AxisName | None,
    class_axis_name: AxisName | None,
    chunk_size: int | None,
    accumulation_dtype: DTypeLike | None,
) -> Array:
    z_loss, soft_cap, logit_scale, temperature = options
    linear_head, axis = head(name, "", *head_arguments)
    shape = linear_head.hidden.shape[:-1]
    i, t = prepare_named(name, indices, argument, targets, shape)
    linear_head = widened(linear_head, t)
    dtype = dtype_of(linear_head)
    classes = all_classes(linear_head, axis, class_axis_name)
    cap = arguments.option(name, "soft_cap", soft_cap, np.inf, shape, dtype)
    scale = arguments.option(name, "logit_scale", logit_scale, 1, shape, dtype)
    mask = prepare_mask(name, where, weights, shape, dtype)
    T = mask.fill_options(arguments.option(name, "temperature", temperature, 1, shape, dtype))
    tokens: Tokens = i, t, arguments.option(name, "z_loss", z_loss, 0, shape, dtype), *at_temperature(cap, scale, T)
    usable = is_finite_row(linear_head.hidden) & are_valid(i, classes) & _are_usable(t, argument)
    labels, soft_weight, hard_weight = hard_labels
    check_weights(name, labels, soft_weight=soft_weight, hard_weight=hard_weight)
    if labels is not None:
        hard, valid = hard_tokens(
            name, labels, soft_weight, hard_weight, (cap, scale), linear_head.hidden, dtype, classes
        )
        rows, tokens, usable = _WITH_HARD_LABELS[rows], hard + tokens, usable & valid
    chunk_plan = plan(name, rows, (linear_head,), (axis,), class_axis_name, chunk_size, accumulation_dtype)
    mask = mask.exclude(usable)
    arguments.choice(name, "reduction", reduction, axis_name)
    return reduced(chunk_plan, (linear_head,), tokens, mask, reduction, axis_name)[0]


@compiled(z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def linear_cross_entropy_with_indexed_labels(
    hidden: ArrayLike,
    weight: ArrayLike,
    indices: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
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
    r"""Cross entropy of ``softmax(hidden @ weight + bias)`` with a probability for a few classes, named by index.

    .. math::
        \ell = -\sum_{j=1}^{k} t_j \log p_{i_j}, \quad p = \mathrm{softmax}(x), \quad x = h W + b, \qquad
        \frac{\partial \ell}{\partial x_c} = p_c \sum_j t_j - \sum_{j : i_j = c} t_j

    :func:`softmax_cross_entropy_with_indexed_labels` without the logits, as :func:`linear_cross_entropy`. Use it for
    several right classes, for a few teacher's probabilities as they are, and for both in one pass, at a share
    :math:`\alpha` of the teacher's::

        indices = jnp.concatenate([labels[..., None], teacher_indices], -1)
        probabilities = jnp.concatenate([jnp.full_like(first, 1 - alpha), alpha * teacher_probabilities], -1)

    where ``first`` is ``teacher_probabilities[..., :1]``: those of a class that is named twice are added up. Against
    a teacher at a temperature, or whose other classes are to count, see
    :func:`linear_kl_divergence_with_top_k_targets`.

    Args:
      hidden: floating array (..., features).
      weight: floating array (features, classes), or its transpose with ``class_axis=0``.
      indices: integers (..., k), the classes of each token, in any order. Fewer than k are padded with -1. Any other
        integer outside of [0, classes) gives NaN.
      labels: real, of the shape of ``indices``: the probabilities :math:`t_j`. They need not sum to 1. If omitted,
        1 / n for each of the n classes that are named.
      bias: shape (classes,). A bias of ``-inf`` removes a class.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      z_loss: :math:`\zeta \ge 0`: adds :math:`\zeta\, \mathrm{logsumexp}(x)^2`, in nats squared.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``.
      where: boolean, broadcast to the shape of ``hidden`` without its last axis: False masks a token, see
        :func:`jaxloss.reduce`.
      weights: real, broadcast to the same. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight`` and ``bias`` are
        split; indices count all classes.
      chunk_size: of how many tokens a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up, as there.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if ``hidden``, ``weight``
      or ``labels`` is, else float32.

    Raises:
      TypeError: ``hidden`` or ``weight`` is not floating, ``indices`` is not integer, ``where`` is not boolean.
      ValueError: features or shapes do not agree, an option does not broadcast, ``chunk_size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> indices, labels = jnp.array([[0, 2], [1, -1]]), jnp.array([[0.7, 0.3], [1.0, 0.0]])
      >>> print(jaxloss.linear_cross_entropy_with_indexed_labels(hidden, weight, indices, labels).round(4))
      [0.8373 1.5184]

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.3.
    """
    head_arguments = hidden, weight, bias, class_axis
    options = z_loss, soft_cap, logit_scale, None
    others = where, weights, reduction, axis_name, class_axis_name, chunk_size, accumulation_dtype
    name = "linear_cross_entropy_with_indexed_labels"
    return _linear(name, _CROSS_ENTROPY, head_arguments, indices, "labels", labels, options, (None, 1, 1), *others)


@compiled(temperature=arguments.POSITIVE, soft_cap=arguments.POSITIVE)
def linear_kl_divergence_with_top_k_targets(
    hidden: ArrayLike,
    weight: ArrayLike,
    indices: ArrayLike,
    log_probs: ArrayLike,
    *,
    rest: Rest = "bucket",
    temperature: ArrayLike = 1.0,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    labels: ArrayLike | None = None,
    soft_weight: ArrayLike = 1.0,
    hard_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    class_axis_name: AxisName | None = None,
    chunk_size: int | None = None,
    accumulation_dtype: DTypeLike | None = None,
) -> Array:
    r"""Kullback-Leibler divergence of a student from a teacher's k most probable classes, from hidden states.

    .. math::
        \ell = \sum_{j=1}^{k} t_j (\log t_j - \log q_{i_j}) + r_t (\log r_t - \log r_q), \quad
        q = \mathrm{softmax}\Bigl(\frac{h W + b}{T}\Bigr), \quad
        r_t = 1 - \sum_j t_j, \quad r_q = \sum_{c \notin \{i_j\}} q_c

    :func:`softmax_kl_divergence_with_top_k_targets` without the logits, as :func:`linear_kl_divergence`, and with the
    conventions of ``rest`` that are explained there. A teacher's targets are computed once, and stored as k numbers a
    token.

    Args:
      hidden: floating array (..., features).
      weight: floating array (features, classes), or its transpose with ``class_axis=0``.
      indices: integers (..., k), as ``jax.lax.top_k`` returns them, padded with -1. A class that is named twice, and
        any other integer outside of [0, classes), give NaN. Teacher and student share a vocabulary: the indices of
        another tokenizer name other tokens.
      log_probs: floating, of the shape of ``indices``: the teacher's :math:`\log t_j`, at the temperature.
      rest: what becomes of the classes that are not named: ``"bucket"``, ``"renormalize"`` or ``"drop"``.
      temperature: :math:`T > 0`, which divides the logits, after scale and cap. It may differ from token to token.
      bias: shape (classes,). A bias of ``-inf`` removes a class.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``.
      labels: integers in [0, classes), one a token: adds their cross entropy, as in :func:`linear_kl_divergence`.
      soft_weight: weight of the divergence beside labels.
      hard_weight: weight of the cross entropy of the labels.
      where: boolean, broadcast to the shape of ``hidden`` without its last axis: False masks a token, see
        :func:`jaxloss.reduce`.
      weights: real, broadcast to the same. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight`` and ``bias`` are
        split; indices count all classes.
      chunk_size: of how many tokens a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up, as there.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if ``hidden``, ``weight``
      or ``log_probs`` is, else float32.

    Raises:
      TypeError: ``hidden``, ``weight`` or ``log_probs`` is not floating, ``indices`` is not integer, ``where`` is not
        boolean.
      ValueError: features or shapes do not agree, an option does not broadcast, ``rest`` is unknown.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden = jnp.array([[1.0, 2.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> teacher = jax.nn.log_softmax(jnp.array([[0.5, 0.3, -1.0]]))
      >>> log_probs, indices = jax.lax.top_k(teacher, 2)
      >>> loss = jaxloss.linear_kl_divergence_with_top_k_targets(hidden, weight, indices, log_probs)
      >>> print(f"{loss[0]:.4f}")
      0.1277

    References:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531.
    """
    name = "linear_kl_divergence_with_top_k_targets"
    rows = _KL[kl_divergence(name, rest)]
    head_arguments = hidden, weight, bias, class_axis
    options = 0.0, soft_cap, logit_scale, temperature
    others = where, weights, reduction, axis_name, class_axis_name, chunk_size, accumulation_dtype
    targets = arguments.floating(name, "log_probs", log_probs)
    hard_labels = labels, soft_weight, hard_weight
    return _linear(name, rows, head_arguments, indices, "log_probs", targets, options, hard_labels, *others)
