"""Divergences of a student's distribution from a teacher's, both from hidden states."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.compiler import compiled
from .._core.cross_entropy import Options, transform_logits, transform_logits_backward
from .._core.masks import Mask, prepare_mask
from .._core.rows import is_finite_row
from .._core.softmax_divergence import JS, KL, Formula, divergence, gradients, summarize
from .._core.types import AxisName, Reduction
from ._call import all_classes, at_temperature, dtype_of, head, plan, reduced
from ._hard_labels import check_weights, hard_tokens, with_hard_labels
from ._head import Rows, Tokens


def _divergence(
    name: str,
    rows: Rows,
    numbers: dict[str, ArrayLike],
    student: tuple[Any, ...],
    teacher: tuple[Any, ...],
    logit_scale: ArrayLike,
    temperature: ArrayLike,
    labels: ArrayLike | None,
    soft_weight: ArrayLike,
    hard_weight: ArrayLike,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    axis_name: AxisName | None,
    class_axis_name: AxisName | None,
    chunk_size: int | None,
    accumulation_dtype: DTypeLike | None,
) -> Array:
    (learner, axis), (guide, guide_axis) = head(name, "", *student[:-1]), head(name, "teacher_", *teacher[:-1])
    dtype, shape = np.promote_types(dtype_of(learner), dtype_of(guide)), learner.hidden.shape[:-1]
    arguments.same_shape(name, "teacher_hidden", guide.hidden, (*shape, guide.hidden.shape[-1]))
    classes, teacher_shape = learner.weight.shape[axis], list(guide.weight.shape)
    teacher_shape[guide_axis] = classes
    hint = "; student and teacher share a vocabulary: classes of another tokenizer are other tokens"
    arguments.same_shape(name, "teacher_weight", guide.weight, teacher_shape, hint)
    usable = is_finite_row(learner.hidden) & is_finite_row(guide.hidden)
    scale = arguments.option(name, "logit_scale", logit_scale, 1, shape, dtype)
    cap = arguments.option(name, "soft_cap", student[-1], np.inf, shape, dtype)
    teacher_cap = arguments.option(name, "teacher_soft_cap", teacher[-1], np.inf, shape, dtype)
    mask = prepare_mask(name, where, weights, shape, dtype)
    T = mask.fill_options(arguments.option(name, "temperature", temperature, 1, shape, dtype))
    (student_cap, soft_scale), (teacher_cap, _) = (at_temperature(c, scale, T) for c in (cap, teacher_cap))
    options = (arguments.option(name, argument, number, np.nan, shape, dtype) for argument, number in numbers.items())
    tokens: Tokens = soft_scale, student_cap, teacher_cap, *options
    check_weights(name, labels, soft_weight=soft_weight, hard_weight=hard_weight)
    if labels is not None:
        classes = all_classes(learner, axis, class_axis_name)
        hard, valid = hard_tokens(name, labels, soft_weight, hard_weight, (cap, scale), learner.hidden, dtype, classes)
        rows, tokens, usable = _WITH_HARD_LABELS[rows], hard + tokens, usable & valid
    mask = mask.exclude(usable)
    arguments.choice(name, "reduction", reduction, axis_name)
    chunk_plan = plan(name, rows, (learner, guide), (axis, guide_axis), class_axis_name, chunk_size, accumulation_dtype)
    return reduced(chunk_plan, (learner, guide), tokens, mask, reduction, axis_name)[0]


def _rows(formula: Formula) -> Rows:
    """Rows of logits of a student and of a teacher."""

    def transformed_logits(raw_logits: Any, tokens: Any, examples: Array | None) -> tuple[Array, Array]:
        scale, *caps = tokens[:3]
        mask = Mask(examples)
        student, teacher = (
            transform_logits(x, mask, mask.fill_options(Options(soft_cap=cap, logit_scale=scale)))
            for x, cap in zip(raw_logits, caps, strict=True)
        )
        # Two fusions that compute a logit may round it in different ways, and its maximum is one of the logits.
        computed = any(number is not None for number in tokens[:3])
        return lax.optimization_barrier((student, teacher)) if computed else (student, teacher)

    def forward(
        raw_logits: Any, tokens: Any, examples: Array | None, class_axis_name: AxisName | None
    ) -> tuple[Any, tuple[()], Any]:
        summary = summarize(
            formula, transformed_logits(raw_logits, tokens, examples), None, tokens[3:], class_axis_name
        )
        losses = jnp.where(summary.tops.empty, jnp.nan, divergence(formula, summary, tokens[3:]))
        return (losses,), (), (raw_logits, summary, tokens, examples)

    def backward(saved: Any, cotangents: tuple[Array], class_axis_name: AxisName | None) -> tuple[Tokens, Tokens]:
        (raw_logits, summary, tokens, examples), (g,) = saved, cotangents
        scale, *caps = tokens[:3]
        mask = Mask(examples)
        g = mask.fill_options(g, 0)
        logits = transformed_logits(raw_logits, tokens, examples)
        *ct_logits, _, d_numbers = gradients(formula, logits, summary, None, tokens[3:], class_axis_name)
        (ct_student, ct_cap, ct_scale), (ct_teacher, ct_teacher_cap, ct_teacher_scale) = (
            transform_logits_backward(
                g[..., None] * gradient,
                x,
                mask,
                mask.fill_options(Options(soft_cap=cap, logit_scale=scale)),
                class_axis_name,
            )
            for gradient, x, cap in zip(ct_logits, raw_logits, caps, strict=True)
        )
        if ct_scale is not None and ct_teacher_scale is not None:
            ct_scale += ct_teacher_scale
        return (ct_student, ct_teacher), (
            ct_scale,
            ct_cap,
            ct_teacher_cap,
            *(g * derivative for derivative in d_numbers),
        )

    return Rows(forward, backward)


_KL, _JS = _rows(KL), _rows(JS)
_WITH_HARD_LABELS = {rows: with_hard_labels(rows) for rows in (_KL, _JS)}


@compiled(temperature=arguments.POSITIVE, soft_cap=arguments.POSITIVE, teacher_soft_cap=arguments.POSITIVE)
def linear_kl_divergence(
    hidden: ArrayLike,
    weight: ArrayLike,
    teacher_hidden: ArrayLike,
    teacher_weight: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    class_axis: int = -1,
    teacher_class_axis: int = -1,
    soft_cap: ArrayLike | None = None,
    teacher_soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    temperature: ArrayLike = 1.0,
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
    r"""Kullback-Leibler divergence of a student from a teacher, both from hidden states, without the logits.

    .. math::
        \ell = \sum_c t_c (\log t_c - \log q_c), \quad
        q = \mathrm{softmax}(h W + b), \quad t = \mathrm{softmax}(h' W' + b'), \qquad
        \frac{\partial \ell}{\partial x} = q - t

    Use it instead of :func:`kl_divergence_with_log_targets` of two ``log_softmax``, for large vocabularies. The two
    models share a vocabulary, not their width. It is never negative. The teacher's gradient is computed only if its
    arrays depend on what is differentiated: with shared parameters use ``jax.lax.stop_gradient``. For the reverse
    divergence exchange student and teacher. As in :func:`linear_cross_entropy`, ``"sum"`` and ``"mean"`` compute no
    product twice, and ``"none"`` computes the logits twice.

    Args:
      hidden: the student's, a floating array (..., features).
      weight: the student's, (features, classes), or its transpose with ``class_axis=0``.
      teacher_hidden: (..., features of the teacher), with the tokens of ``hidden``.
      teacher_weight: (features of the teacher, classes), or its transpose with ``teacher_class_axis=0``.
      bias: the student's, shape (classes,). A class with ``-inf`` has probability 0.
      teacher_bias: the same for the teacher. Padding of the vocabulary needs both.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      teacher_class_axis: that of ``teacher_weight``.
      soft_cap: :math:`s > 0`: the student's logits become :math:`s \tanh(x / s)`.
      teacher_soft_cap: the same for the teacher's.
      logit_scale: multiplies the logits of both, before the caps.
      temperature: :math:`T > 0`, which divides the logits of both, after scale and caps. Multiply the loss by T
        squared, as is usual, to keep the size of the gradient.
      labels: integers in [0, classes), one a token. If given, the loss is ``soft_weight`` :math:`\ell` +
        ``hard_weight`` :math:`\times` the :func:`linear_cross_entropy` of the labels, which has no temperature, of the
        same logits. A label where ``hard_weight`` is 0 may be any integer.
      soft_weight: weight of the divergence beside labels, as ``(1 - a) * T**2``. It may differ from token to token.
      hard_weight: weight of the cross entropy, as ``a``. It may differ from token to token.
      where: boolean mask, broadcast to the tokens, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the tokens. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split: ``"sum"`` and ``"mean"`` run over
        it as well.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of both are split.
      chunk_size: of how many tokens a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of weights and biases are added up, as there.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: a hidden or a weight is not floating, ``where`` is not boolean.
      ValueError: features, tokens or classes do not agree, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden, teacher_hidden = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> teacher_weight = jnp.array([[0.1, 0.7, 0.3], [0.5, 0.3, -0.1], [-0.6, 0.2, 0.4]])
      >>> loss = jaxloss.linear_kl_divergence(hidden, weight, teacher_hidden, teacher_weight)
      >>> print(loss.round(4))
      [0.4269]

    References:
      Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531.
    """
    student = hidden, weight, bias, class_axis, soft_cap
    teacher = teacher_hidden, teacher_weight, teacher_bias, teacher_class_axis, teacher_soft_cap
    rest = (
        logit_scale,
        temperature,
        labels,
        soft_weight,
        hard_weight,
        where,
        weights,
        reduction,
        axis_name,
        class_axis_name,
        chunk_size,
        accumulation_dtype,
    )
    return _divergence("linear_kl_divergence", _KL, {}, student, teacher, *rest)


@compiled(
    beta=arguments.UNIT,
    temperature=arguments.POSITIVE,
    soft_cap=arguments.POSITIVE,
    teacher_soft_cap=arguments.POSITIVE,
)
def linear_jensen_shannon_divergence(
    hidden: ArrayLike,
    weight: ArrayLike,
    teacher_hidden: ArrayLike,
    teacher_weight: ArrayLike,
    *,
    beta: ArrayLike = 0.5,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    class_axis: int = -1,
    teacher_class_axis: int = -1,
    soft_cap: ArrayLike | None = None,
    teacher_soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    temperature: ArrayLike = 1.0,
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
    r"""Jensen-Shannon divergence between a student and a teacher, both from hidden states, without the logits.

    .. math::
        \ell = \beta\, \mathrm{KL}(t \,\|\, m) + (1 - \beta)\, \mathrm{KL}(q \,\|\, m), \quad
        m = \beta t + (1 - \beta) q, \quad
        q = \mathrm{softmax}(h W + b), \quad t = \mathrm{softmax}(h' W' + b')

    Use it instead of :func:`jensen_shannon_divergence` of two ``log_softmax``, for large vocabularies. The rest is as
    in :func:`linear_kl_divergence`.

    Args:
      hidden: the student's, a floating array (..., features).
      weight: the student's, (features, classes), or its transpose with ``class_axis=0``.
      teacher_hidden: (..., features of the teacher), with the tokens of ``hidden``.
      teacher_weight: (features of the teacher, classes), or its transpose with ``teacher_class_axis=0``.
      beta: :math:`\beta` in [0, 1], the weight of the teacher. At 0 and at 1 the loss is 0: where a trainer means
        :math:`\mathrm{KL}(t \| q)` there, the limit of :math:`\ell / \beta`, call :func:`linear_kl_divergence`, and
        for :math:`\mathrm{KL}(q \| t)` the same with student and teacher exchanged.
      bias: the student's, shape (classes,). A class with ``-inf`` has probability 0.
      teacher_bias: the same for the teacher. Padding of the vocabulary needs both.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      teacher_class_axis: that of ``teacher_weight``.
      soft_cap: :math:`s > 0`: the student's logits become :math:`s \tanh(x / s)`.
      teacher_soft_cap: the same for the teacher's.
      logit_scale: multiplies the logits of both, before the caps.
      temperature: :math:`T > 0`, which divides the logits of both, after scale and caps. Multiply the loss by T
        squared, as is usual, to keep the size of the gradient.
      labels: integers in [0, classes), one a token. If given, the loss is ``soft_weight`` :math:`\ell` +
        ``hard_weight`` :math:`\times` the :func:`linear_cross_entropy` of the labels, which has no temperature, of the
        same logits. A label where ``hard_weight`` is 0 may be any integer.
      soft_weight: weight of the divergence beside labels, as ``(1 - a) * T**2``. It may differ from token to token.
      hard_weight: weight of the cross entropy, as ``a``. It may differ from token to token.
      where: boolean mask, broadcast to the tokens, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the tokens. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split: ``"sum"`` and ``"mean"`` run over
        it as well.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of both are split.
      chunk_size: of how many tokens a device has the logits at a time, see :func:`linear_cross_entropy`.
      accumulation_dtype: in which the gradients of weights and biases are added up, as there.

    Returns:
      The loss in nats, of the shape of ``hidden`` without its last axis, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: a hidden or a weight is not floating, ``where`` is not boolean.
      ValueError: features, tokens or classes do not agree, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden, teacher_hidden = jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0, 1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> teacher_weight = jnp.array([[0.1, 0.7, 0.3], [0.5, 0.3, -0.1], [-0.6, 0.2, 0.4]])
      >>> loss = jaxloss.linear_jensen_shannon_divergence(hidden, weight, teacher_hidden, teacher_weight)
      >>> print(loss.round(4))
      [0.1136]

    References:
      Agarwal et al., On-Policy Distillation of Language Models, https://arxiv.org/abs/2306.13649.
    """
    student = hidden, weight, bias, class_axis, soft_cap
    teacher = teacher_hidden, teacher_weight, teacher_bias, teacher_class_axis, teacher_soft_cap
    rest = (
        logit_scale,
        temperature,
        labels,
        soft_weight,
        hard_weight,
        where,
        weights,
        reduction,
        axis_name,
        class_axis_name,
        chunk_size,
        accumulation_dtype,
    )
    return _divergence("linear_jensen_shannon_divergence", _JS, {"beta": beta}, student, teacher, *rest)
