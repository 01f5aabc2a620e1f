"""Losses of cosines that are to be high within a label and low between labels."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.labelled_pairs import BatchOptions, pair_masks, prepare_labelled
from ._core.matched_pairs import are_others, prepare_matched
from ._core.pair_devices import reduced
from ._core.pair_softmaxes import logsumexp_where
from ._core.pairs import Pairs, plan
from ._core.special import relu, softplus
from ._core.types import AxisName, Reduction
from ._core.vectors import unit_vectors


def _circle(s: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Any]:
    identity, g, m = (rows[0], *(option[:, None] for option in rows[1:]))
    positives, negatives = pair_masks(identity, columns)
    too_low = logsumexp_where(-g * relu(1 + m - s) * (s - (1 - m)), positives)
    too_high = logsumexp_where(g * relu(s + m) * (s - m), negatives)
    return softplus(too_low + too_high), ()


@compiled(gamma=arguments.POSITIVE)
def circle_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    remove_diagonal: bool = True,
    gamma: ArrayLike = 80.0,
    margin: ArrayLike = 0.4,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Circle loss: cosines are to be high within a label and low between labels, each weighed by how far it is off.

    .. math::
        \ell_i = \log\Bigl(1 + \sum_{j:\, y_j = y_i} e^{-\gamma \max(0,\, 1 + m - s_{ij}) (s_{ij} - (1 - m))}
        \sum_{k:\, y_k \ne y_i} e^{\gamma \max(0,\, s_{ik} + m) (s_{ik} - m)}\Bigr), \qquad s_{ij} = \cos(x_i, x_j)

    The gradient is that of this formula; in the paper's code the weights :math:`\max(0, \cdot)` are constants. An
    example without another one of its label, or without one of another label, costs 0, with gradient 0. Only
    directions count, and an embedding of zeros has the cosine 0 with all, and gradient 0.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features).
      labels: :math:`y`, real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      remove_diagonal: whether example i and reference i, which without references is itself, are no pair of one label.
        With references of their own, which are not the batch once more, take False.
      gamma: :math:`\gamma`, the scale of the cosines. Like ``margin`` it may be traced, and broadcasts to the loss.
      margin: :math:`m`: cosines are to be above :math:`1 - m` and below :math:`m`.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without
        references no example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the cosines at a time, by default a million cosines.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.9, 0.1], [0.6, 0.7]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.circle_loss(embeddings, labels))
      [23.9577 17.1099  0.    ]

    Keras: ``circle``, (labels, embeddings), multiplies the embeddings as they are, which are to have length 1. The
    product has the precision of ``jax.default_matmul_precision``. In a sharded batch each device has its examples
    beside all of them.

    References:
      Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, https://arxiv.org/abs/2002.10857.
    """
    name = "circle_loss"
    references = reference_embeddings, reference_labels
    arguments.flag(name, "remove_diagonal", remove_diagonal)
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"gamma": gamma, "margin": margin}
    prepared = prepare_labelled(
        name, _circle, embeddings, labels, references, given, options, remove_diagonal=remove_diagonal
    )
    return reduced(*prepared, reduction, axis_name)[0]


def _multi_similarity(s: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Any]:
    identity, a, b, base = (rows[0], *(option[:, None] for option in rows[1:]))
    positives, negatives = pair_masks(identity, columns)
    too_low = softplus(logsumexp_where(a * (base - s), positives)) / a[:, 0]
    too_high = softplus(logsumexp_where(b * (s - base), negatives)) / b[:, 0]
    return too_low + too_high, ()


@compiled(alpha=arguments.POSITIVE, beta=arguments.POSITIVE)
def multi_similarity_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    alpha: ArrayLike = 2.0,
    beta: ArrayLike = 50.0,
    base: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Multi-similarity loss: cosines are to be above a base within a label and below it between labels.

    .. math::
        \ell_i = \frac{1}{\alpha} \log\Bigl(1 + \sum_{j:\, y_j = y_i} e^{\alpha (b - s_{ij})}\Bigr)
        + \frac{1}{\beta} \log\Bigl(1 + \sum_{k:\, y_k \ne y_i} e^{\beta (s_{ik} - b)}\Bigr), \qquad
        s_{ij} = \cos(x_i, x_j)

    Each sum weighs a pair by how it compares with the others. All pairs are in the sums: the paper first drops those
    that the easiest pair of the other kind beats by a margin.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). Only directions count.
      labels: :math:`y`, real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      alpha: :math:`\alpha > 0`. Like ``beta`` and ``base`` it may be traced, and broadcasts to (batch,).
      beta: :math:`\beta > 0`.
      base: :math:`b`.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the cosines at a time, by default a million cosines.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.9, 0.1], [0.6, 0.7]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.multi_similarity_loss(embeddings, labels).round(4))
      [0.4447 0.3883 0.2882]

    References:
      Wang et al., Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning,
      https://arxiv.org/abs/1904.06627.
    """
    name = "multi_similarity_loss"
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"alpha": alpha, "beta": beta, "base": base}
    prepared = prepare_labelled(name, _multi_similarity, embeddings, labels, references, given, options)
    return reduced(*prepared, reduction, axis_name)[0]


def _angular(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Any]:
    label, own, row = rows
    their_label, column = columns
    negatives = (label[:, None] != their_label[None, :]) & are_others(row, column)[0]
    squared_tangent = jnp.square(jnp.tan(numbers[0]))
    of_negatives = logsumexp_where(4 * squared_tangent * products, negatives)
    return softplus(of_negatives - 2 * (1 + squared_tangent) * own), ()


@compiled()
def angular_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    alpha: ArrayLike = math.pi / 4,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Angular loss: in the triangle of a pair and a negative, the angle at the negative is to be small.

    .. math::
        \ell_i = \log\Bigl(1 + \sum_{k:\, y_k \ne y_i}
        e^{4 \tan^2 \alpha\; (a_i + p_i) \cdot p_k - 2 (1 + \tan^2 \alpha)\; a_i \cdot p_i}\Bigr)

    The negatives of a pair are the positives of others, as in N-pairs, which is :func:`info_nce_loss` of anchors and
    positives.

    Args:
      anchors: :math:`a`, floating, of shape (batch, features).
      positives: :math:`p`, floating, of the shape of ``anchors``: positive i belongs to anchor i.
      labels: :math:`y`, real, of shape (batch,), only compared, over devices too: number them over the whole batch. By
        default each pair has its own.
      alpha: :math:`\alpha`, a number in radians, below :math:`\pi / 2`. It may be traced.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30, as the paper does.
      where: boolean, broadcast to (batch,): False masks a pair, which may contain anything. No other is compared with
        it.
      weights: real, broadcast to (batch,). A pair of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which pairs are split. Value and gradients are those of
        the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many pairs a device has the products at a time, by default a million of them.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: an embedding is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: embeddings are not of two axes and one shape, ``labels`` has another length, ``alpha`` is not a
        number, a mask or weight does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> anchors, positives = jnp.array([[1.0, 0.2], [-0.4, 0.9]]), jnp.array([[0.9, 0.1], [0.1, 1.1]])
      >>> print(jaxloss.angular_loss(anchors, positives, normalize=True).round(4))
      [0.1212 0.02  ]

    PyTorch Metric Learning: ``AngularLoss``, all pairs and all negatives of a batch, in degrees, of 40 by default.

    References:
      Wang et al., Deep Metric Learning with Angular Loss, https://arxiv.org/abs/1708.01682. N-pairs: Sohn, Improved
      Deep Metric Learning with Multi-class N-pair Loss Objective, 2016.
    """
    name = "angular_loss"
    arguments.flag(name, "normalize", normalize)
    names, numbers, normalized = ("anchors", "positives"), {"alpha": alpha}, False
    pairs, mask, _ = prepare_matched(
        name, names, anchors, positives, numbers, normalized, where, weights, reduction, axis_name
    )
    label: Array = pairs.rows.position
    if labels is not None:
        given = arguments.real(name, "labels", *arguments.identities(labels))
        arguments.same_shape(name, "labels", given, label.shape)
        label = given
    a, p = (unit_vectors(x, x.dtype) if normalize else x for x in (pairs.queries, pairs.references))
    rows, columns = (label, (a * p).sum(-1), pairs.rows), (label, pairs.columns)
    pairs = Pairs(a + p, p, rows, columns, pairs.numbers)
    return reduced(plan(name, _angular, a, p, chunk_size), pairs, mask, reduction, axis_name)[0]
