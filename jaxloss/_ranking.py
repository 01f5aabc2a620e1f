"""Losses of ranked lists."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.cross_entropy import Options, dense_cross_entropy
from ._core.derivatives import recompute_in_backward
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.masks import Mask, prepare_mask, weigh
from ._core.pair_softmaxes import least
from ._core.reduction import reduce
from ._core.rows import as_rows, prepare_rows
from ._core.special import relu, softplus
from ._core.types import Axis, Reduction


@compiled()
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., Array] | None = jnp.mean,
) -> Array:
    r"""Softmax loss of ranked lists (ListNet): each item's relevance as the label of a softmax over its list.

    .. math::
        \ell = -\sum_i w_i\, y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}

    Here ``where`` and ``weights`` are of items, and ``reduce_fn`` reduces the lists, as in optax.

    Args:
      logits: the scores :math:`s`, floating, the items of a list along ``axis``.
      labels: the relevances :math:`y`, real, of the shape of ``logits``. They need not sum to 1.
      axis: the axis or axes of the items (flattened together); None for all.
      where: boolean, broadcast to the shape of ``logits``: True is an item, False fills up the list, and may hold
        anything. A list without items does not count.
      weights: :math:`w`, real, broadcast to the shape of ``logits``. An item of weight 0 remains in its list, as one of
        relevance 0.
      reduce_fn: ``jnp.mean`` is the mean over the lists that count, and 0 if none does; None returns the loss of each
        list. Any other is called with the losses and ``where=`` the lists that count, such as ``jnp.sum``. To weigh
        lists, take None, and :func:`jaxloss.reduce`.

    Returns:
      A scalar, or the loss of each list, in nats; float64 if ``logits`` or ``labels`` is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits, labels = jnp.array([[2.0, 1.0, 0.0], [1.0, 0.5, 1.5]]), jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
      >>> where = jnp.array([[True, True, False], [True, True, True]])
      >>> print(f"{jaxloss.ranking_softmax_loss(logits, labels, where=where):.4f}")
      0.4968

    References:
      Cao et al., Learning to Rank: From Pairwise Approach to Listwise Approach, 2007.
    """
    name = "ranking_softmax_loss"
    x, y = arguments.floating(name, "logits", logits), arguments.real(name, "labels", labels)
    y = arguments.fill_class_targets(name, "labels", y, x)
    items = prepare_mask(name, where, weights, x.shape, arguments.compute_dtype(x, y))
    if items.weight is not None:
        y = weigh(items.weight, items.fill_options(y.astype(items.weight.dtype), 0))
    axes = arguments.class_axes(name, axis, x.shape)
    x, y = as_rows(x, axes), as_rows(y, axes)
    mask = Mask(classes=None if items.examples is None else as_rows(items.examples, axes)).without_empty_rows()
    losses = mask.fill_options(dense_cross_entropy(x, y, mask, Options()), 0)
    if reduce_fn is None:
        return losses
    if reduce_fn is jnp.mean:
        return reduce(losses, where=mask.examples)
    return reduce_fn(losses, where=mask.examples)


# Of scores in order, item i comes first of those that are left with probability exp(s_i) / sum_{j >= i} exp(s_j). Its
# negative logarithm is softplus(logsumexp_{j > i}(s_j) - s_i).


def _plackett_luce(s: Array, items: Array) -> Array:
    lowest = least(s)  # of what is no item, and below all that are: the logsumexp of -inf has no slope
    s = jnp.where(items, jnp.maximum(s, lowest / 2), lowest)
    rest = lax.cumlogsumexp(s, axis=s.ndim - 1, reverse=True)
    gaps = jnp.concatenate([rest[..., 1:], jnp.full_like(rest[..., :1], lowest)], -1) - s
    return jnp.where(items, softplus(gaps), 0).sum(-1)


_plackett_luce_loss = recompute_in_backward(_plackett_luce)


@compiled()
def plackett_luce_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Negative log-likelihood of an order of a list's items under the model of Plackett and Luce (ListMLE).

    .. math::
        \ell = \sum_{i=1}^{n} \Bigl(\log \sum_{j=i}^{n} e^{s_j} - s_i\Bigr), \qquad
        \frac{\partial \ell}{\partial s_k} = \sum_{i \le k} \frac{e^{s_k}}{\sum_{j \ge i} e^{s_j}} - 1

    with the items in the order of their labels, the best first. Of two items it is Bradley and Terry's model. Scores
    that are sure of the order lose no digit.

    Args:
      logits: the scores :math:`s`, floating, the items of a list along ``axis``.
      labels: the relevances, real, of the shape of ``logits``: a larger one comes first. Items of the same relevance
        are taken in the order of the array. NaN gives NaN.
      axis: the axis or axes of the items (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks items, which fill up a list;
        with a lower rank, lists, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of each list in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is,
      else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no item, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits, labels = jnp.array([[2.0, 0.5, 1.0], [0.0, 0.0, 0.0]]), jnp.array([[3, 1, 2], [3, 2, 1]])
      >>> print([f"{loss:.3f}" for loss in jaxloss.plackett_luce_loss(logits, labels)])
      ['0.938', '1.792']

    References:
      Xia et al., Listwise Approach to Learning to Rank: Theory and Algorithm, 2008. Plackett, The Analysis of
      Permutations, 1975.
    """
    name = "plackett_luce_loss"
    (labels,) = arguments.identities(labels)
    x, y, mask = prepare_rows(name, ("logits", "labels"), logits, labels, axis, where, weights)
    arguments.choice(name, "reduction", reduction)
    dtype = arguments.compute_dtype(x, y)
    items = jnp.ones(x.shape, bool) if mask.classes is None else mask.classes
    if mask.examples is not None:
        items &= mask.examples[..., None]
    if jnp.issubdtype(y.dtype, np.floating):
        x, last = jnp.where(jnp.isnan(y), jnp.nan, x), -jnp.inf
    else:
        y = y.astype(np.int32) if y.dtype == np.bool_ else y
        last = jnp.iinfo(y.dtype).min
    order = jnp.argsort(jnp.where(items, y, last), axis=-1, stable=True, descending=True)
    x, items = (jnp.take_along_axis(a, order, -1) for a in (mask.fill(x), items))
    losses = _plackett_luce_loss(x.astype(dtype), items, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)


def _margin_ranking_slopes(x: Array, other: Array, t: Array, m: Array) -> tuple[Array, ...]:
    violated = t * (x - other) < m
    slope = -t * violated.astype(x.dtype)
    return slope, -slope, jnp.where(violated, other - x, 0), violated.astype(x.dtype)


_margin_ranking = elementwise(lambda x, other, t, m: relu(m - t * (x - other)), _margin_ranking_slopes)


@compiled()
def margin_ranking_loss(
    predictions: ArrayLike,
    others: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Margin ranking loss of two scores, one of which is to be above the other, for each element.

    .. math::
        \ell = \max(0,\; m - t (x_1 - x_2)), \qquad \frac{\partial \ell}{\partial x_1} = -t \, [t (x_1 - x_2) < m]

    Where the margin is met exactly the gradient is 0: with a margin of 0, do not start from equal scores.

    Args:
      predictions: the scores :math:`x_1`, floating, of any shape.
      others: the scores :math:`x_2`, real, of the shape of ``predictions``.
      targets: :math:`t`, of the shape of ``predictions``: 1 if :math:`x_1` is to be the larger, -1 if :math:`x_2` is.
        Booleans and unsigned integers, which cannot hold -1, raise.
      margin: :math:`m`, in the unit of the scores. It may be traced, and broadcasts to the loss.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``predictions``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``others`` is not real, ``targets`` is not signed, ``where`` is not
        boolean.
      ValueError: arrays have two shapes, the margin, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.margin_ranking_loss(jnp.array([2.0, 0.5]), jnp.array([1.0, 0.0]), jnp.array([1, -1])))
      [0.  0.5]
      >>> # The triplet loss of any distances: those to the negatives are to be larger.
      >>> to_positives, to_negatives = jnp.array([0.25, 0.75]), jnp.array([0.5, 2.0])
      >>> print(jaxloss.margin_ranking_loss(to_negatives, to_positives, jnp.ones(2), margin=1.0))
      [0.75 0.  ]

    The second example is PyTorch's ``triplet_margin_with_distance_loss``.

    References:
      Herbrich, Graepel and Obermayer, Large Margin Rank Boundaries for Ordinal Regression, 2000.
    """
    arrays, mask = prepare_elementwise(
        "margin_ranking_loss",
        {"predictions": predictions, "others": others, "targets": targets},
        {"margin": margin},
        where,
        weights,
        reduction,
        kinds=(arguments.floating, arguments.real, arguments.signed),
    )
    return mask.reduce(_margin_ranking(*arrays, unweighted=mask.unweighted), reduction)
