"""Losses of ranked lists."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from . import _inputs
from ._compiled import compiled
from ._reduction import merge, reduce, weigh
from ._rows import rows
from ._softmax_rows import dense
from ._types import Axis


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
      axis: the axis of the items, or several that together are one, or None for all.
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
    x, y = _inputs.floating(name, "logits", logits), _inputs.real(name, "labels", labels)
    y = _inputs.of_classes(name, "labels", y, x)
    items, weight = merge(name, where, weights, x.shape, _inputs.compute_dtype(x, y))
    if weight is not None:
        y = y.astype(weight.dtype)
        y = weigh(weight, y if items is None else jnp.where(items, y, 0))
    axes = _inputs.class_axes(name, axis, x.shape)
    x, y, items = rows(x, axes), rows(y, axes), None if items is None else rows(items, axes)
    lists = None if items is None else items.any(-1)
    losses = dense(x, y, lists, items, None, None, None, None)
    if lists is not None:
        losses = jnp.where(lists, losses, 0)
    if reduce_fn is None:
        return losses
    if reduce_fn is jnp.mean:
        return reduce(losses, where=lists)
    return reduce_fn(losses, where=lists)
