"""Cross entropies of a softmax, from logits."""

from __future__ import annotations

import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import broadcast_class_weights
from ._core.compiler import compiled
from ._core.cross_entropy import (
    Options,
    TokenMetrics,
    as_metrics,
    dense_cross_entropy,
    indexed_cross_entropy,
    measure,
    smooth,
)
from ._core.derivatives import custom_derivative
from ._core.masks import Mask
from ._core.named_classes import CROSS_ENTROPY, prepare_named_rows
from ._core.rows import as_rows, prepare_indexed, prepare_rows
from ._core.types import Axis, AxisName, Reduction


def _options(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    label_smoothing: ArrayLike,
    z_loss: ArrayLike,
    soft_cap: ArrayLike | None,
    logit_scale: ArrayLike,
) -> Options:
    def option(argument: str, value: ArrayLike | None, neutral: float) -> Array | None:
        return arguments.option(name, argument, value, neutral, shape, dtype)

    return Options(
        option("label_smoothing", label_smoothing, 0),
        option("z_loss", z_loss, 0),
        option("soft_cap", soft_cap, np.inf),
        option("logit_scale", logit_scale, 1),
    )


@compiled(label_smoothing=arguments.UNIT, z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Cross entropy of a softmax with a probability for each class.

    .. math::
        \ell = -\sum_c t_c \log p_c, \quad p = \mathrm{softmax}(x), \qquad
        \frac{\partial \ell}{\partial x_c} = p_c \sum_j t_j - t_c, \qquad
        \frac{\partial \ell}{\partial t_c} = -\log p_c

    Args:
      logits: floating array, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of probability
        0.
      labels: target probabilities :math:`t`, real, of the shape of ``logits``. They need not sum to 1.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      label_smoothing: :math:`\alpha` in [0, 1]: labels become :math:`(1 - \alpha) t_c + \alpha / K`, with K classes
        kept.
      class_weights: shape (classes,): each example's weight is multiplied by :math:`\sum_c t_c w_c`.
      z_loss: :math:`\zeta \ge 0`: adds :math:`\zeta\, \mathrm{logsumexp}(x)^2`, in nats squared.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: an inverse temperature that multiplies the logits, before ``soft_cap``.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split: ``"sum"`` and ``"mean"`` run
        over it as well, see :func:`jaxloss.reduce`.

    The numbers among the options may be traced, and may differ from row to row: they broadcast to the loss.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
      >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
      >>> print(jaxloss.softmax_cross_entropy(logits, labels))
      [0.2761 2.9518]

    Keras: ``CategoricalCrossentropy(from_logits=True)``, (labels, logits). PyTorch: ``cross_entropy`` with probability
    targets and classes on axis 1; its mean divides by the number of examples even with class weights.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.3. Smoothing: Szegedy et al.,
      https://arxiv.org/abs/1512.00567. z-loss: Chowdhery et al., https://arxiv.org/abs/2204.02311.
    """
    name = "softmax_cross_entropy"
    x, t, mask = prepare_rows(name, ("logits", "labels"), logits, labels, axis, where, weights)
    dtype, shape = arguments.compute_dtype(x, t), x.shape[:-1]
    if class_weights is not None:
        factor = (
            mask.fill(t.astype(dtype)) * broadcast_class_weights(name, "class_weights", class_weights, x, dtype)
        ).sum(-1)
        mask = mask.weigh(factor).exclude()
    options = _options(name, shape, dtype, label_smoothing, z_loss, soft_cap, logit_scale)
    arguments.choice(name, "reduction", reduction, axis_name)
    losses = dense_cross_entropy(x, t, mask.without_weight(), options, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction, axis_name)


@compiled(label_smoothing=arguments.UNIT, z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    label_smoothing: ArrayLike = 0.0,
    class_weights: ArrayLike | None = None,
    z_loss: ArrayLike = 0.0,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Cross entropy of a softmax with the index of the right class.

    .. math::
        \ell = -\log p_y, \quad p = \mathrm{softmax}(x), \qquad
        \frac{\partial \ell}{\partial x_c} = p_c - [c = y]

    The same as :func:`softmax_cross_entropy` with one-hot labels, without ever building them, label smoothing included.

    Args:
      logits: floating array, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of probability
        0.
      labels: integers in [0, classes), of the shape of ``logits`` without ``axis``; for several axes, an index into
        them flattened. Any other integer, -1 too, gives NaN for its example, value and gradient: exclude what is to be
        ignored with ``where=labels != -100``.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      label_smoothing: :math:`\alpha` in [0, 1]: the target is :math:`(1 - \alpha) [c = y] + \alpha / K`, with K classes
        kept.
      class_weights: shape (classes,): each example's weight is multiplied by :math:`w_y`.
      z_loss: :math:`\zeta \ge 0`: adds :math:`\zeta\, \mathrm{logsumexp}(x)^2`, in nats squared.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: an inverse temperature that multiplies the logits, before ``soft_cap``.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split: ``"sum"`` and ``"mean"`` run
        over it as well, see :func:`jaxloss.reduce`.

    The numbers among the options may be traced, and may differ from row to row: they broadcast to the loss.

    Returns:
      The loss in nats, of the shape of ``labels``, or a scalar; float64 if ``logits`` is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1], [0.1, 0.2, 0.3]])
      >>> labels = jnp.array([0, 1, -100])
      >>> f = jaxloss.softmax_cross_entropy_with_integer_labels
      >>> print(f(logits, labels, where=labels != -100))
      [0.2761 2.9518 0.    ]
      >>> print(f"{f(logits, labels, where=labels != -100, reduction='mean'):.4f}")
      1.6140

    Keras: ``SparseCategoricalCrossentropy(from_logits=True)``, (labels, logits), ``ignore_class``. PyTorch:
    ``cross_entropy`` with index targets, classes on axis 1, ``ignore_index``; label smoothing and class weights there
    weigh the smoothed target, here the example.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.3.
    """
    name = "softmax_cross_entropy_with_integer_labels"
    x, y, mask = prepare_indexed(name, "logits", logits, labels, axis, where, weights, class_weights)
    options = _options(name, y.shape, arguments.compute_dtype(x), label_smoothing, z_loss, soft_cap, logit_scale)
    arguments.choice(name, "reduction", reduction, axis_name)
    losses = indexed_cross_entropy(x, y, mask.without_weight(), options, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction, axis_name)


_indexed_labels = custom_derivative(*CROSS_ENTROPY)


@compiled(z_loss=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def softmax_cross_entropy_with_indexed_labels(
    logits: ArrayLike,
    indices: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    axis: int = -1,
    z_loss: ArrayLike = 0.0,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Cross entropy of a softmax with a probability for a few classes, named by index.

    .. math::
        \ell = -\sum_{j=1}^{k} t_j \log p_{i_j}, \quad p = \mathrm{softmax}(x), \qquad
        \frac{\partial \ell}{\partial x_c} = p_c \sum_j t_j - \sum_{j : i_j = c} t_j

    The same as :func:`softmax_cross_entropy` with labels of 0 for all other classes, without ever building them: for
    several right classes, or the probabilities that a teacher gives to a few. Without the logits:
    :func:`linear_cross_entropy_with_indexed_labels`.

    Args:
      logits: floating array, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of probability
        0.
      indices: integers, of the shape of ``logits`` with k in place of the classes, in any order. Fewer than k are
        padded with -1. Any other integer outside of [0, classes) gives NaN for its example.
      labels: real, of the shape of ``indices``: the probabilities :math:`t_j`. They need not sum to 1, and those of a
        class that is named twice are added up. If omitted, 1 / n for each of the n classes that are named.
      axis: the class axis.
      z_loss: :math:`\zeta \ge 0`: adds :math:`\zeta\, \mathrm{logsumexp}(x)^2`, in nats squared.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: an inverse temperature that multiplies the logits, before ``soft_cap``.
      where: boolean, broadcast to the shape of the loss: False masks an example, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split: ``"sum"`` and ``"mean"`` run
        over it as well, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``indices`` is not integer, ``where`` is not boolean.
      ValueError: a shape does not fit, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
      >>> indices, labels = jnp.array([[0, 2], [1, -1]]), jnp.array([[0.7, 0.3], [1.0, 0.0]])
      >>> print(jaxloss.softmax_cross_entropy_with_indexed_labels(logits, indices, labels))
      [0.7861 2.9518]

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.3.
    """
    name = "softmax_cross_entropy_with_indexed_labels"
    x, i, t, mask = prepare_named_rows(name, logits, indices, "labels", labels, axis, where, weights)
    options = _options(name, x.shape[:-1], arguments.compute_dtype(x, t), 0.0, z_loss, soft_cap, logit_scale)
    arguments.choice(name, "reduction", reduction, axis_name)
    losses = _indexed_labels(x, i, t, mask.without_weight(), options, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction, axis_name)


@compiled(soft_cap=arguments.POSITIVE)
def token_metrics(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
) -> TokenMetrics:
    r"""Accuracy, top-k accuracy, logsumexp and entropy of each row of logits, to log beside a cross entropy.

    .. math::
        \mathrm{lse} = \log \sum_c e^{x_c}, \quad \mathrm{entropy} = -\sum_c p_c \log p_c, \quad
        \mathrm{rank} = \#\{c : x_c > x_y\} + \#\{c < y : x_c = x_y\}, \quad \mathrm{correct} = [\mathrm{rank} = 0]

    In one program with :func:`softmax_cross_entropy_with_integer_labels` the compiler shares what both compute.
    Without the logits: :func:`linear_cross_entropy_with_metrics`.

    Args:
      logits: floating array, the classes along ``axis``.
      labels: integers in [0, classes), of the shape of ``logits`` without ``axis``. Any other integer is not correct,
        and its rank is the number of classes.
      axis: the class axis, or several, flattened together.
      where: boolean, of the shape of the labels or of the rank of the logits: False masks a row, or a class.
      soft_cap: :math:`s > 0`: the statistics are those of :math:`s \tanh(x / s)`.
      logit_scale: multiplies the logits, before ``soft_cap``.

    Returns:
      A :class:`TokenMetrics` of arrays of the shape of ``labels``, without derivative.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits = jnp.array([[1.2, -0.8, -0.5], [0.9, -1.2, 1.1]])
      >>> metrics = jaxloss.token_metrics(logits, jnp.array([0, 1]))
      >>> print(metrics.correct, metrics.rank, jaxloss.reduce(metrics.rank < 2))
      [ True False] [0 2] 0.5
    """
    name = "token_metrics"
    x, y, mask = prepare_indexed(name, "logits", logits, labels, axis, where, None)
    options = _options(name, y.shape, arguments.compute_dtype(x), 0.0, 0.0, soft_cap, logit_scale)
    return as_metrics(*measure(lax.stop_gradient(x), y, mask, options))


def safe_softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    """:func:`softmax_cross_entropy`, which is safe already, under the name that optax gives its safe form.

    A logit of ``-inf`` with label 0 costs nothing, in value and in both modes of the derivative by the logits.
    Arguments, result and errors are those of :func:`softmax_cross_entropy`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits, labels = jnp.array([1.0, 2.0, -jnp.inf]), jnp.array([0.0, 1.0, 0.0])
      >>> print(f"{jaxloss.safe_softmax_cross_entropy(logits, labels):.4f}")
      0.3133
    """
    return softmax_cross_entropy(logits, labels, where=where, weights=weights, reduction=reduction)


@compiled(alpha=arguments.UNIT)
def smooth_labels(labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None) -> Array:
    r"""Label smoothing: :math:`(1 - \alpha) t_c + \alpha / K`.

    Args:
      labels: target probabilities, floating, the classes along ``axis``.
      alpha: the smoothing, in [0, 1]; broadcasts to ``labels`` without ``axis``.
      axis: the class axis, or several, or None for all.
      where: boolean, broadcast to the shape of ``labels``: the K classes that share :math:`\alpha`. The others get 0.

    Returns:
      An array of the shape of ``labels``; float64 if it is, else float32.

    Raises:
      TypeError: ``labels`` is not floating or ``where`` not boolean.
      ValueError: ``where`` or ``alpha`` does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jaxloss.smooth_labels(jnp.array([0.0, 1.0]), 0.1))
      [0.05 0.95]

    optax gives masked classes the same share, so that its rows sum to more than 1.

    References:
      Szegedy et al., https://arxiv.org/abs/1512.00567, section 7.
    """
    name = "smooth_labels"
    t = arguments.floating(name, "labels", labels)
    t = t.astype(arguments.compute_dtype(t))
    axes = arguments.class_axes(name, axis, t.shape)
    rows = as_rows(t, axes)
    alpha = arguments.real(name, "alpha", alpha).astype(t.dtype)
    alpha = arguments.broadcast(name, "alpha", alpha, rows.shape[:-1])[..., None]
    classes = None
    if where is not None:
        classes = arguments.broadcast(name, "where", arguments.boolean(name, "where", where), t.shape)
        classes = as_rows(classes, axes)
    unmoved = [a for a in range(t.ndim) if a not in axes] + list(axes)
    moved = smooth(rows, Mask(classes=classes), alpha).reshape([t.shape[a] for a in unmoved])
    return moved.transpose(np.argsort(unmoved))
