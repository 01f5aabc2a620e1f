"""Losses of the margins between the scores of classes: hinges and the perceptron."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import in_range, infinite_if_masked, nan_unless, one_hot_mask, take_label
from ._core.compiler import compiled, cpu_sum_barrier, match_varying_axes, shard_like
from ._core.derivatives import custom_derivative, recompute_in_backward
from ._core.masks import Mask
from ._core.rows import per_example_option, prepare_indexed, prepare_rows
from ._core.special import multiply_no_nan, relu, subtract_no_nan
from ._core.types import Axis, AxisName, Reduction


def prepare_scores(
    name: str,
    scores: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    class_weights: ArrayLike | None = None,
) -> tuple[tuple[Array, Array, Array | None], Mask]:
    """The scores and labels, 0 where an example is masked, with the mask of classes; and the mask."""
    arguments.choice(name, "reduction", reduction)
    s, y, mask = prepare_indexed(name, "scores", scores, labels, axis, where, weights, class_weights, arguments.real)
    return (mask.fill(s), mask.fill_options(y, 0), mask.classes), mask


def _other_scores_and_label(s: Array, y: Array, classes: Array | None) -> tuple[Array, Array]:
    """The scores without the label's, and the label's; all NaN, with their derivatives, for a label out of range."""
    s = s.astype(arguments.compute_dtype(s))
    s = s if classes is None else jnp.where(classes, s, -jnp.inf)
    valid = nan_unless(in_range(y, s.shape[-1]), s.dtype)
    return jnp.where(one_hot_mask(y, s), -jnp.inf, s * valid[..., None]), take_label(s, y) * valid


@jax.custom_jvp
def _top(x: Array) -> Array:
    """The maximum, with the derivative of `jnp.max`, shared by ties: on a CPU JAX's writes the ties to memory."""
    return x.max(-1)


@_top.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    top = _top(x)
    is_top = x == top[..., None]
    ties = cpu_sum_barrier(is_top.astype(x.dtype).sum(-1))
    return top, jnp.where(is_top, tangents[0], 0).sum(-1) / ties


def _excess(other_scores: Array, label: Array) -> Array:
    """How far others are above the label: -inf if they cannot be chosen, 0 for equal infinities."""
    return jnp.where(other_scores == -jnp.inf, -jnp.inf, subtract_no_nan(other_scores, label))


# The scores are subtracted before the margin is added: a large score plus 1 is that score.


def _perceptron_of_row(s: Array, y: Array, classes: Array | None) -> Array:
    other_scores, label = _other_scores_and_label(s, y, classes)
    return relu(_excess(_top(other_scores), label))


def _crammer_singer_of_row(s: Array, y: Array, classes: Array | None) -> Array:
    other_scores, label = _other_scores_and_label(s, y, classes)
    return relu(1 + _excess(_top(other_scores), label))


def _margins(s: Array, y: Array, classes: Array | None, margin: Array) -> Array:
    other_scores, label = _other_scores_and_label(s, y, classes)
    return relu(margin[..., None] + _excess(other_scores, label[..., None]))


# Scores and labels are saved; everything else is recomputed.

_best_above = recompute_in_backward(_perceptron_of_row)

_crammer_singer = recompute_in_backward(_crammer_singer_of_row)

_weston_watkins = recompute_in_backward(lambda *args: _margins(*args).sum(-1))

_weston_watkins_squared = recompute_in_backward(lambda *args: jnp.square(_margins(*args)).sum(-1))


@compiled()
def multiclass_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Multiclass hinge loss of Crammer and Singer: the margin to the best of the other classes.

    .. math::
        \ell = \max\left(0,\; 1 + \max_{c \ne y} s_c - s_y\right)

    The gradient is 1 at the best of the other classes and -1 at the label, 0 where the margin is met. Classes that tie
    share the 1.

    Args:
      scores: :math:`s`, real, the classes along ``axis``. ``-inf`` is a class that cannot be chosen.
      labels: :math:`y`, integers in [0, classes), of the shape of ``scores`` without ``axis``; for several axes, an
        index into them flattened. Any other integer, -1 too, gives NaN for its example.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``scores`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``labels``, or a scalar; float64 if ``scores`` is, else float32.

    Raises:
      TypeError: ``scores`` is not real, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> scores = jnp.array([[2.0, 1.5, 0.0], [-5.0, -10.0, -9.0]])
      >>> print(jaxloss.multiclass_hinge_loss(scores, jnp.array([0, 0])))
      [0.5 0. ]

    Three losses go by the name of multiclass hinge. PyTorch's ``multi_margin_loss`` is
    :func:`weston_watkins_hinge_loss` over the number of classes, Keras' ``categorical_hinge`` is
    :func:`categorical_hinge_loss_with_zero_class`.

    References:
      Crammer and Singer, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, 2001.
    """
    row, mask = prepare_scores("multiclass_hinge_loss", scores, labels, axis, where, weights, reduction)
    return mask.reduce(infinite_if_masked(_crammer_singer(*row, unweighted=mask.unweighted), *row[1:]), reduction)


@compiled()
def multiclass_perceptron_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Multiclass perceptron loss: how far the best class is above the label.

    .. math::
        \ell = \max_c s_c - s_y

    The gradient is 1 at the best class and -1 at the label, 0 where the label is a best class.

    Args:
      scores: :math:`s`, real, the classes along ``axis``. ``-inf`` is a class that cannot be chosen.
      labels: :math:`y`, integers in [0, classes), of the shape of ``scores`` without ``axis``; for several axes, an
        index into them flattened. Any other integer, -1 too, gives NaN for its example.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``scores`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``labels``, or a scalar; float64 if ``scores`` is, else float32.

    Raises:
      TypeError: ``scores`` is not real, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> scores = jnp.array([[2.0, 1.5, 0.0], [1.0, 3.5, 0.0]])
      >>> print(jaxloss.multiclass_perceptron_loss(scores, jnp.array([0, 0])))
      [0.  2.5]

    References:
      Collins, Discriminative Training Methods for Hidden Markov Models, 2002.
    """
    row, mask = prepare_scores("multiclass_perceptron_loss", scores, labels, axis, where, weights, reduction)
    return mask.reduce(infinite_if_masked(_best_above(*row, unweighted=mask.unweighted), *row[1:]), reduction)


@compiled()
def weston_watkins_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    power: Literal[1, 2] = 1,
    class_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Multiclass hinge loss of Weston and Watkins: the sum of the margins to all other classes.

    .. math::
        \ell = \sum_{c \ne y} \max(0,\; m + s_c - s_y)^p

    Args:
      scores: :math:`s`, real, the classes along ``axis``. ``-inf`` is a class that cannot be chosen.
      labels: :math:`y`, integers in [0, classes), of the shape of ``scores`` without ``axis``; for several axes, an
        index into them flattened. Any other integer, -1 too, gives NaN for its example.
      margin: :math:`m`, in the unit of the scores. It may be traced, and may differ from row to row.
      power: :math:`p`, 1 or 2.
      class_weights: shape (classes,): each example's weight is multiplied by :math:`w_y`.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``scores`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split: ``"sum"`` and ``"mean"`` run
        over it as well, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``labels``, or a scalar; float64 if ``scores`` is, else float32.

    Raises:
      TypeError: ``scores`` is not real, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, ``power`` is not 1 or 2, an option does not
        broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> scores = jnp.array([[2.0, 1.5, 0.0], [0.0, 1.0, 0.0]])
      >>> print(jaxloss.weston_watkins_hinge_loss(scores, jnp.array([0, 0])))
      [0.5 3. ]

    PyTorch: ``multi_margin_loss(p=power)``, which divides by the number of classes, and its weighted mean by the number
    of examples.

    References:
      Weston and Watkins, Support Vector Machines for Multi-Class Pattern Recognition, 1999.
    """
    name = "weston_watkins_hinge_loss"
    if not isinstance(power, int) or power not in (1, 2):
        raise ValueError(f"{name}: expected `power` to be 1 or 2, got {power!r}.")
    arguments.choice(name, "reduction", reduction, axis_name)
    row, mask = prepare_scores(name, scores, labels, axis, where, weights, reduction, class_weights)
    m = per_example_option(name, "margin", margin, mask, row[0].shape[:-1], arguments.compute_dtype(row[0]))
    losses = (_weston_watkins if power == 1 else _weston_watkins_squared)(*row, m, unweighted=mask.unweighted)
    return mask.reduce(infinite_if_masked(losses, *row[1:]), reduction, axis_name)


# One class of all rows after the other is the label, as an array of all pairs would be that many times the scores.


def _yes_and_no(t: Array, classes: Array | None, dtype: np.dtype) -> tuple[Array, Array]:
    yes = t.astype(dtype)
    return yes, 1 - yes if classes is None else jnp.where(classes, 1 - yes, 0)


def _take_entry(x: Array, is_label: Array) -> Array:
    return jnp.where(is_label, x, 0).sum(-1, keepdims=True)


def _multilabel_forward(s: Array, t: Array, margin: Array, classes: Array | None) -> tuple[Array, tuple[Any, ...]]:
    scores = s.astype(margin.dtype)
    yes, no = _yes_and_no(t, classes, margin.dtype)

    def step(j: int, losses: Array) -> Array:
        is_label = shard_like(scores, one_hot_mask(jnp.full_like(margin, j, np.int32), scores))
        above = relu(margin[..., None] + _excess(scores, _take_entry(scores, is_label)))
        return losses + multiply_no_nan(_take_entry(yes, is_label)[..., 0], multiply_no_nan(no, above).sum(-1))

    start = jnp.zeros_like(yes.sum(-1) + margin)
    return lax.fori_loop(0, s.shape[-1], step, match_varying_axes((s, t), start)), (s, t, margin, classes)


def _multilabel_backward(saved: tuple[Any, ...], g: Array) -> tuple[Array | None, ...]:
    s, t, margin, classes = saved
    s = s.astype(margin.dtype)
    yes, no = _yes_and_no(t, classes, margin.dtype)

    def step(j: int, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        d_s, d_t, d_margin = sums
        is_label = shard_like(s, one_hot_mask(jnp.full_like(margin, j, np.int32), s))
        above = margin[..., None] + _excess(s, _take_entry(s, is_label))
        label = _take_entry(yes, is_label)
        broken = label * jnp.where(above > 0, no, 0)
        count = broken.sum(-1, keepdims=True)
        label_term = multiply_no_nan(no, relu(above)).sum(-1, keepdims=True)
        d_s += broken - jnp.where(is_label, count, 0)
        d_t += jnp.where(is_label, label_term, 0) - multiply_no_nan(label, relu(above))
        return d_s, d_t, d_margin + count[..., 0]

    zeros = jnp.zeros_like(s), jnp.zeros_like(s), jnp.zeros_like(yes.sum(-1) + margin)
    d_s, d_t, d_margin = lax.fori_loop(0, s.shape[-1], step, match_varying_axes((s, t, margin), zeros))
    return g[..., None] * d_s, g[..., None] * d_t, g * d_margin, None


_multilabel = custom_derivative(_multilabel_forward, _multilabel_backward, loop=True)


@compiled()
def multilabel_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Multilabel hinge loss: the sum of the margins of every label to every class that is none.

    .. math::
        \ell = \sum_{j} \sum_{i} t_j (1 - t_i) \max(0,\; m + s_i - s_j)

    Of a single label it is :func:`weston_watkins_hinge_loss`. It compares all pairs, and once compiled keeps none.

    Args:
      scores: :math:`s`, real, the classes along ``axis``. ``-inf`` is a class that cannot be chosen.
      labels: :math:`t`, 1 for each label and 0 for the rest, real or boolean, of the shape of ``scores``.
      margin: :math:`m`, in the unit of the scores. It may be traced, and may differ from row to row.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``scores`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``scores`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``scores`` or ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``scores``, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.multilabel_hinge_loss(jnp.array([2.0, 1.5, 0.0]), jnp.array([1, 0, 1])))
      3.0

    PyTorch: ``multilabel_margin_loss``, which divides by the number of classes, and takes for labels their indices
    (once each), filled up with -1: ``jax.nn.one_hot(indices, classes).max(-2)``.

    References:
      Elisseeff and Weston, A kernel method for multi-labelled classification, 2001.
    """
    name = "multilabel_hinge_loss"
    arguments.choice(name, "reduction", reduction)
    s, t, mask = prepare_rows(name, ("scores", "labels"), scores, labels, axis, where, weights, arguments.real)
    s, t = (mask.fill(a) for a in (s, t))
    m = per_example_option(name, "margin", margin, mask, s.shape[:-1], arguments.compute_dtype(s, t))
    return mask.reduce(_multilabel(s, t, m, mask.classes, unweighted=mask.unweighted), reduction)


def _zero_class_of_row(s: Array, t: Array, classes: Array | None) -> Array:
    dtype = arguments.compute_dtype(s, t)
    s, t = s.astype(dtype), t.astype(dtype)
    other_scores = multiply_no_nan(1 - t, s)
    if classes is not None:
        other_scores = jnp.where(classes, other_scores, -jnp.inf)
    return relu(1 + subtract_no_nan(_top(other_scores), multiply_no_nan(t, s).sum(-1)))


_zero_class = recompute_in_backward(_zero_class_of_row)


@compiled()
def categorical_hinge_loss_with_zero_class(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Keras' categorical hinge: that of Crammer and Singer beside one more class, whose score is always 0.

    .. math::
        \ell = \max\left(0,\; 1 + \max_c\, (1 - t_c) s_c - \sum_c t_c s_c\right)

    The label's own entry in the inner maximum is 0, so that scores [-5, -10] with the first class cost 6: beating all
    others is not enough, a label must beat 0 by the margin. For that, take :func:`multiclass_hinge_loss`.

    Args:
      scores: :math:`s`, real, the classes along ``axis``.
      labels: :math:`t`, one-hot, real, of the shape of ``scores``.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``scores`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``scores`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``scores`` or ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``scores``, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> scores = jnp.array([[3.0, 1.0], [-5.0, -10.0]])
      >>> print(jaxloss.categorical_hinge_loss_with_zero_class(scores, jnp.array([[1.0, 0.0], [1.0, 0.0]])))
      [0. 6.]

    References:
      Keras documentation, ``keras.losses.categorical_hinge``, (targets, predictions).
    """
    name = "categorical_hinge_loss_with_zero_class"
    arguments.choice(name, "reduction", reduction)
    s, t, mask = prepare_rows(name, ("scores", "labels"), scores, labels, axis, where, weights, arguments.real)
    s, t = (mask.fill(a) for a in (s, t))
    return mask.reduce(_zero_class(s, t, mask.classes, unweighted=mask.unweighted), reduction)
