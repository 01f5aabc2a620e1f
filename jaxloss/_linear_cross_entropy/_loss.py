"""The cross entropy of hidden states against labels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from .._core import arguments
from .._core.classes import class_weight, in_range
from .._core.compiler import compiled
from .._core.cross_entropy import (
    Options,
    TokenMetrics,
    as_metrics,
    indexed_cross_entropy_backward,
    indexed_cross_entropy_forward,
    measure,
)
from .._core.masks import Mask, prepare_mask
from .._core.rows import is_finite_row
from .._core.types import AxisName, Reduction
from ._call import all_classes, dtype_of, head, plan, reduced
from ._head import Rows, Tokens


def _linear(
    name: str,
    rows: Rows,
    labels: ArrayLike,
    head_arguments: tuple[Any, ...],
    options: tuple[Any, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    axis_name: AxisName | None,
    class_axis_name: AxisName | None,
    chunk_size: int | None,
    accumulation_dtype: DTypeLike | None,
) -> tuple[Array, Any]:
    label_smoothing, class_weights, z_loss, soft_cap, logit_scale = options
    linear_head, axis = head(name, "", *head_arguments)
    dtype, shape = dtype_of(linear_head), linear_head.hidden.shape[:-1]
    y = arguments.fill_row_targets(name, "labels", arguments.integer(name, "labels", labels), linear_head.hidden)
    chunk_plan = plan(name, rows, (linear_head,), (axis,), class_axis_name, chunk_size, accumulation_dtype)
    mask = prepare_mask(name, where, weights, shape, dtype)
    if class_weights is not None:
        factor = class_weight(name, class_weights, y, linear_head.weight.shape[axis], dtype, class_axis_name)
        mask = mask.weigh(mask.fill_options(factor))
    classes = all_classes(linear_head, axis, class_axis_name)
    mask = mask.exclude(is_finite_row(linear_head.hidden) & in_range(y, classes))
    tokens = (
        y,
        arguments.option(name, "label_smoothing", label_smoothing, 0, shape, dtype),
        arguments.option(name, "z_loss", z_loss, 0, shape, dtype),
        arguments.option(name, "soft_cap", soft_cap, jnp.inf, shape, dtype),
        arguments.option(name, "logit_scale", logit_scale, 1, shape, dtype),
    )
    arguments.choice(name, "reduction", reduction, axis_name)
    return reduced(chunk_plan, (linear_head,), tokens, mask, reduction, axis_name)


def _forward(
    logits: tuple[Array], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
) -> tuple[tuple[Array], tuple[()], Any]:
    labels, *options = tokens
    losses, saved = indexed_cross_entropy_forward(*logits, labels, Mask(examples), Options(*options), class_axis_name)
    return (losses,), (), saved


def _forward_with_metrics(
    logits: tuple[Array], tokens: Any, examples: Array | None, class_axis_name: AxisName | None
) -> tuple[tuple[Array], tuple[Array, Array, Array], Any]:
    losses, _, saved = _forward(logits, tokens, examples, class_axis_name)
    rows, *_ = saved
    return losses, measure(rows.x, rows.labels, rows.mask, rows.options, class_axis_name), saved


def _backward(
    saved: Any, cotangents: tuple[Array], class_axis_name: AxisName | None
) -> tuple[tuple[Array | None], Tokens]:
    ct_logits, _, _, ct_options = indexed_cross_entropy_backward(saved, *cotangents, class_axis_name)
    return (ct_logits,), (None, *ct_options)


_PLAIN = Rows(_forward, _backward)

_WITH_METRICS = Rows(_forward_with_metrics, _backward)


@compiled(label_smoothing=arguments.UNIT, z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
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
    r"""Cross entropy of ``softmax(hidden @ weight + bias)`` with the index of the right class, without the logits.

    .. math::
        \ell = -\log p_y, \quad p = \mathrm{softmax}(x), \quad x = h W + b, \qquad
        \frac{\partial \ell}{\partial h} = W (p - e_y), \qquad
        \frac{\partial \ell}{\partial W} = h \otimes (p - e_y)

    Use it instead of ``softmax_cross_entropy_with_integer_labels(hidden @ weight, labels)`` where [tokens, classes] is
    too large. Tokens are processed in chunks, and the logits of one chunk are all that exists beside the gradients.
    ``"sum"`` and ``"mean"`` compute the gradients while the logits are there: no product is done twice, and that of a
    frozen ``hidden`` or ``weight`` is not done. ``"none"`` computes the logits twice, a third more work: prefer
    ``weights``, ``where`` and ``reduction`` in the call to a reduction after it.

    For next-token prediction keep the length, and mask the last position and the padding::

        labels = jnp.roll(tokens, -1, axis=-1)
        where = (jnp.arange(tokens.shape[-1]) < tokens.shape[-1] - 1) & (labels != padding)

    Args:
      hidden: floating array (..., features), such as [batch, length, features].
      weight: floating array (features, classes), or its transpose with ``class_axis=0``, as a tied embedding is stored.
      labels: integers in [0, classes), of the shape of ``hidden`` without its last axis. Any other integer, -1 too,
        gives NaN: exclude what is to be ignored with ``where=labels != -100``.
      bias: shape (classes,). A bias of ``-inf`` removes a class, as of a padded vocabulary; not with label_smoothing,
        which gives each class some mass, nor with soft_cap, which makes it :math:`-s`.
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      label_smoothing: :math:`\alpha` in [0, 1]: the target is :math:`(1 - \alpha) [c = y] + \alpha / K`.
      class_weights: shape (classes,): each token's weight is multiplied by :math:`w_y`.
      z_loss: :math:`\zeta \ge 0`: adds :math:`\zeta\, \mathrm{logsumexp}(x)^2`, in nats squared.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``: of a model that caps at s, at temperature T, pass 1 / T
        and a ``soft_cap`` of s / T.
      where: boolean, broadcast to the shape of ``labels``: False masks a token, see :func:`jaxloss.reduce`. Masked
        rows of ``hidden`` may contain anything.
      weights: real, broadcast to the shape of ``labels``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split: ``"sum"`` and ``"mean"`` run over
        it as well.
      class_axis_name: inside of ``shard_map``, the mapped axis over which the classes of ``weight``, ``bias`` and
        ``class_weights`` are split; labels count all classes.
      chunk_size: of how many tokens a device has the logits, or their gradients, at a time. The default is about the
        number of features, at least 256 and at most 1024, and half their number if there are more than 2048. Less is
        less memory. On an automatic mesh of n devices n times as many tokens are taken at a time, by default no more
        than a quarter of all, unless one device would take them.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up over the chunks; by default
        float32, or float64 if the loss is. ``"bfloat16"`` needs 2 to 4 bytes less for each entry of ``weight``, and
        rounds after each chunk: the gradient of a bfloat16 weight has an error of 0.005 after 16 chunks, not of 0.002.
        With ``"none"`` it rounds tangents of ``weight`` and ``bias``, too.

    The numbers among the options may be traced, and may differ from token to token: they broadcast to the loss. Pass
    a batch as leading axes rather than by ``vmap``, which has the logits of a chunk of each example at a time.

    On an explicit mesh each device has its own tokens and classes; on an automatic one the compiler splits the chunks
    as it finds ``hidden`` and ``weight``. A weight that is split along its features, as fully sharded parameters are,
    is gathered once. On an automatic mesh this works only if JAX can see the mesh: that of ``jax.set_mesh``, or of a
    committed hidden or weight. Else, as with NumPy arrays and ``in_shardings`` alone, gather it before::

        weight = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P(None, "model")))

    with ``P()`` if no axis splits the classes. docs/large_vocabularies.md says which sharding costs what.

    Returns:
      The loss in nats, of the shape of ``labels``, or a scalar; float64 if ``hidden`` or ``weight`` is, else float32.
      Where ``hidden`` and ``weight`` are bfloat16 they are multiplied as such, and accumulated in float32, in the
      gradients too; what devices add up of a gradient has the dtype of its argument. Else they are multiplied in the
      dtype of the loss: for products in bfloat16 cast a float32 weight first. ``jax.default_matmul_precision`` applies.
      Gradients have their argument's dtype.

    Raises:
      TypeError: ``hidden``, ``weight`` or ``accumulation_dtype`` is not floating, ``labels`` is not integer, ``where``
        is not boolean.
      ValueError: features or shapes do not agree, an option does not broadcast, ``chunk_size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> labels = jnp.array([0, 1, -100])
      >>> print(jaxloss.linear_cross_entropy(hidden, weight, labels, where=labels != -100))
      [0.5973 1.5184 0.    ]

    PyTorch: ``linear_cross_entropy`` (input, linear_weight of (classes, features), target), whose mean is the default.

    References:
      Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, https://arxiv.org/abs/2411.09009. Gradients
      in the forward pass: Hsu et al., Liger Kernel, https://arxiv.org/abs/2410.10989.
    """
    head_arguments = hidden, weight, bias, class_axis
    options = label_smoothing, class_weights, z_loss, soft_cap, logit_scale
    others = where, weights, reduction, axis_name, class_axis_name, chunk_size, accumulation_dtype
    return _linear("linear_cross_entropy", _PLAIN, labels, head_arguments, options, *others)[0]


@compiled(label_smoothing=arguments.UNIT, z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def linear_cross_entropy_with_metrics(
    hidden: ArrayLike,
    weight: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_axis: int = -1,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
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
) -> tuple[Array, TokenMetrics]:
    r"""What :func:`linear_cross_entropy` returns, and statistics of each token's logits from the same pass.

    They are those of the logits after scale and cap, are not reduced, and have no derivative: for an entropy to
    differentiate use :func:`linear_log_probs`. The accuracy is
    ``jaxloss.reduce(metrics.correct, where=where, weights=weights)``, the top-5 accuracy that of ``metrics.rank < 5``,
    and with ``z_loss`` the loss contains ``jaxloss.reduce(z_loss * metrics.lse**2, ...)``, to be logged apart. If the
    logits exist, :func:`token_metrics` gives the same of them.

    Args:
      hidden: (..., features). This and all that follows is as in :func:`linear_cross_entropy`.
      weight: (features, classes), or its transpose with ``class_axis=0``.
      labels: integers in [0, classes).
      bias: shape (classes,).
      class_axis: the axis of ``weight`` along which the classes are, -1 or 0.
      label_smoothing: :math:`\alpha` in [0, 1]. The statistics do not depend on it.
      class_weights: shape (classes,).
      z_loss: :math:`\zeta \ge 0`. The statistics do not depend on it.
      soft_cap: :math:`s > 0`.
      logit_scale: multiplies the logits, before ``soft_cap``.
      where: boolean, broadcast to the shape of ``labels``.
      weights: real, broadcast to the shape of ``labels``.
      reduction: of the loss alone, ``"none"``, ``"sum"`` or ``"mean"``.
      axis_name: inside of ``shard_map``, the mapped axis over which tokens are split.
      class_axis_name: inside of ``shard_map``, the mapped axis over which classes are split.
      chunk_size: of how many tokens a device has the logits at a time.
      accumulation_dtype: in which the gradients of ``weight`` and ``bias`` are added up.

    Returns:
      The loss, and a :class:`TokenMetrics` of arrays of the shape of ``labels``.

    Raises:
      TypeError: as :func:`linear_cross_entropy`.
      ValueError: as :func:`linear_cross_entropy`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0]])
      >>> weight = jnp.array([[0.2, -0.4, 0.6], [0.5, 0.3, -0.1]])
      >>> loss, metrics = jaxloss.linear_cross_entropy_with_metrics(hidden, weight, jnp.array([0, 1]), reduction="mean")
      >>> print(f"{loss:.4f}", metrics.correct)
      1.0578 [ True False]
    """
    head_arguments = hidden, weight, bias, class_axis
    options = label_smoothing, class_weights, z_loss, soft_cap, logit_scale
    others = where, weights, reduction, axis_name, class_axis_name, chunk_size, accumulation_dtype
    loss, metrics = _linear(
        "linear_cross_entropy_with_metrics", _WITH_METRICS, labels, head_arguments, options, *others
    )
    return loss, as_metrics(*metrics)
