"""Losses of the distances between all examples of a batch: what should be near, and what far."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.labelled_pairs import BatchOptions, centred, pair_masks, prepare_labelled, reduced_over_numbers
from ._core.masks import Mask
from ._core.pair_devices import reduced
from ._core.pair_softmaxes import logsumexp_where
from ._core.pairs import Pairs, Plan
from ._core.special import relu, root, softplus
from ._core.types import AxisName, Reduction


def _prepare(name: str, *args: Any, normalize: bool) -> tuple[Plan, Pairs, Mask]:
    """`prepare_labelled`, with the squared length of each vector as well, and the unit of distances."""
    arguments.flag(name, "normalize", normalize)
    chunks, pairs, mask = prepare_labelled(name, *args, normalize=normalize)
    options: BatchOptions = args[-1]
    pairs, unit = centred(pairs, options.axis_name)
    squares, squared_references = (jnp.square(x).sum(-1) for x in (pairs.queries, pairs.references))
    rows, columns = (squares, *pairs.rows), (squared_references, pairs.columns)
    return chunks, pairs._replace(rows=rows, columns=columns, numbers=(unit,)), mask


def _distances(products: Array, squares: Array, squared_references: Array, numbers: tuple[Array]) -> Array:
    """Of each vector to each reference. One of 0 has the derivative 0."""
    return numbers[0] * root(squares[:, None] + squared_references[None, :] - 2 * products)


def _mean_where(x: Array, mask: Array) -> Array:
    return jnp.where(mask, x, 0).sum(-1) / jnp.maximum(mask.sum(-1), 1).astype(x.dtype)


def _contrastive(products: Array, rows: Any, columns: Any, numbers: Any, squared: bool) -> tuple[Array, Any]:
    squares, identity, near, far = rows
    squared_references, references = columns
    d = _distances(products, squares, squared_references, numbers)
    too_far, too_near = relu(d - near[:, None]), relu(far[:, None] - d)
    if squared:
        too_far, too_near = jnp.square(too_far), jnp.square(too_near)
    positives, negatives = pair_masks(identity, references)
    return _mean_where(too_far, positives) + _mean_where(too_near, negatives), ()


@compiled()
def contrastive_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    positive_margin: ArrayLike = 0.0,
    negative_margin: ArrayLike = 1.0,
    squared: bool = True,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Contrastive loss of all pairs: distances are to be small within a label, and at least a margin between labels.

    .. math::
        \ell_i = \frac{1}{|P_i|} \sum_{j \in P_i} \max(0,\, d_{ij} - m_+)^2
        + \frac{1}{|N_i|} \sum_{k \in N_i} \max(0,\, m_- - d_{ik})^2, \qquad d_{ij} = \|x_i - x_j\|

    over the others of the same label, and those of another one.

    Distances are square roots of differences of products: those below 3e-4 of the distance from the batch's mean are
    rounded to nothing in float32.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features).
      labels: real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      positive_margin: :math:`m_+`, up to which a pair of one label costs nothing. It may be traced, and may differ from
        example to example: it broadcasts to (batch,), as does ``negative_margin``.
      negative_margin: :math:`m_-`, from which on a pair of two labels costs nothing.
      squared: whether to square what is too far or too near, as the paper does.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are compared as they are.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the distances at a time, by default a million of them.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.contrastive_loss(embeddings, labels).round(4))
      [0.25  0.5   0.125]

    The paper halves it. PyTorch Metric Learning: ``ContrastiveLoss``, not squared, of normalised embeddings; its mean
    is over the pairs that cost something. Of given pairs, with a distance each: :func:`hinge_embedding_loss`.

    References:
      Hadsell, Chopra and LeCun, Dimensionality Reduction by Learning an Invariant Mapping, 2006.
    """
    name = "contrastive_loss"
    arguments.flag(name, "squared", squared)
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"positive_margin": positive_margin, "negative_margin": negative_margin}
    formula = partial(_contrastive, squared=squared)
    prepared = _prepare(name, formula, embeddings, labels, references, given, options, normalize=normalize)
    return reduced(*prepared, reduction, axis_name)[0]


def _negatives(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Any]:
    squares, identity, _, far = rows
    squared_references, references = columns
    d = _distances(products, squares, squared_references, numbers)
    return logsumexp_where(far[:, None] - d, pair_masks(identity, references)[1]), ()


def _lifted_structure(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Array]:
    of_negatives, (squares, identity, near, _) = rows
    of_their_negatives, (squared_references, references) = columns
    d = _distances(products, squares, squared_references, numbers)
    costs = relu(jnp.logaddexp(of_negatives[:, None], of_their_negatives[None, :]) + d - near[:, None])
    positives, _ = pair_masks(identity, references)
    return jnp.where(positives, jnp.square(costs) / 2, 0).sum(-1), positives.sum(-1).astype(d.dtype)


@compiled()
def lifted_structure_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    positive_margin: ArrayLike = 0.0,
    negative_margin: ArrayLike = 1.0,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Lifted structure loss: a pair of one label is to be nearer than either is to any example of another label.

    .. math::
        \ell_i = \sum_{j \in P_i} \frac{1}{2} \max\Bigl(0,\;
        \log \Bigl(\sum_{k \in N_i} e^{m_- - d_{ik}} + \sum_{k \in N_j} e^{m_- - d_{jk}}\Bigr) + d_{ij} - m_+\Bigr)^2,
        \qquad d_{ij} = \|x_i - x_j\|

    over the others of the same label, :math:`P`, and those of another one, :math:`N`.

    Distances are square roots of differences of products: those below 3e-4 of the distance from the batch's mean are
    rounded to nothing in float32.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features).
      labels: real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      positive_margin: :math:`m_+`. It may be traced, and broadcasts to (batch,), as does ``negative_margin``.
      negative_margin: :math:`m_-`.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are compared as they are.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. No other is compared
        with it.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``: :math:`w_i \ell_i`, their sum, or that over the number of pairs
        (i, j), each of weight :math:`w_i`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split. Value and gradients are those
        of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the distances at a time, by default a million of them.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: ``embeddings`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``embeddings`` is not of two axes, ``labels`` has another length, an option does not broadcast,
        ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> embeddings, labels = jnp.array([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.lifted_structure_loss(embeddings, labels))
      [1.0865 1.0865 0.    ]

    References:
      Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, https://arxiv.org/abs/1511.06452.
    """
    name = "lifted_structure_loss"
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"positive_margin": positive_margin, "negative_margin": negative_margin}
    chunks, pairs, mask = _prepare(
        name, _negatives, embeddings, labels, (None, None), given, options, normalize=normalize
    )
    of_negatives, _ = reduced(chunks, pairs, Mask(), "none", axis_name)
    pairs = pairs._replace(rows=(of_negatives, pairs.rows), columns=(of_negatives, pairs.columns))
    return reduced_over_numbers(chunks._replace(formula=_lifted_structure), pairs, mask, options)


def _neighbours(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Array]:
    """-log of the probability of the positives, and 1 where there are some, else 0."""
    _, identity, scale = rows
    squared_references, references = columns
    unit = numbers[0]
    # -scale d^2, but for a number of the row
    z = scale[:, None] * unit * unit * (2 * products - squared_references[None, :])
    positives, negatives = pair_masks(identity, references)
    some = positives.any(-1)
    losses = softplus(logsumexp_where(z, negatives) - logsumexp_where(z, positives | ~some[:, None]))
    return jnp.where(some, losses, 0), some.astype(z.dtype)


@compiled(scale=arguments.POSITIVE)
def nca_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    scale: ArrayLike = 1.0,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Neighbourhood components analysis: that a neighbour drawn by distance has the same label, as a cross entropy.

    .. math::
        \ell_i = -\log \frac{\sum_{j \in P_i} e^{-s\, d_{ij}^2}}{\sum_{k \ne i} e^{-s\, d_{ik}^2}}, \qquad
        d_{ij} = \|x_i - x_j\|

    over the others of the same label, :math:`P`. With learned proxies as references, one of each class, it is the proxy
    form (ProxyNCA++), with class means the loss of prototypical networks.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features).
      labels: real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      scale: :math:`s > 0`. It may be traced, and may differ from example to example: it broadcasts to (batch,).
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are compared as they are.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. An example without a
        positive costs 0 and does not count.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`. If all
        devices have the same references, such as proxies, leave it out, and reduce by :func:`jaxloss.reduce`.
      chunk_size: for how many examples a device has the distances at a time, by default a million of them.

    Returns:
      The loss in nats, of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> embeddings, labels = jnp.array([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.nca_loss(embeddings, labels))
      [0.3869 0.6931 0.    ]

    References:
      Goldberger et al., Neighbourhood Components Analysis, 2004. Proxies: Movshovitz-Attias et al.,
      https://arxiv.org/abs/1703.07464, whose denominator leaves the example's own proxy out; Teh, DeVries and Taylor,
      https://arxiv.org/abs/2004.01113. Prototypes: Snell, Swersky and Zemel, https://arxiv.org/abs/1703.05175.
    """
    name = "nca_loss"
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"scale": scale}
    prepared = _prepare(name, _neighbours, embeddings, labels, references, given, options, normalize=normalize)
    return reduced_over_numbers(*prepared, options)


def _semi_hard(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Array]:
    squares, identity, margin = rows
    squared_references, references = columns
    d = _distances(products, squares, squared_references, numbers)
    positives, negatives = pair_masks(identity, references)
    # Sorted, a negative before a positive of the same distance, the next negative of a pair is the one that is farther.
    kind = jnp.where(negatives, 0, jnp.where(positives, 1, 2))
    d, kind = lax.sort((d, kind), num_keys=2)
    negatives, position = kind == 0, lax.broadcasted_iota(np.int32, d.shape, 1)
    farthest = jnp.where(negatives, position, 0).max(-1, keepdims=True, initial=0)
    following = lax.cummin(jnp.where(negatives, position, np.iinfo(np.int32).max), axis=1, reverse=True)
    costs = relu(d - jnp.take_along_axis(d, jnp.minimum(following, farthest), -1) + margin[:, None])
    counted = (kind == 1) & negatives.any(-1, keepdims=True)
    return jnp.where(counted, costs, 0).sum(-1), counted.sum(-1).astype(d.dtype)


@compiled()
def semi_hard_triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    margin: ArrayLike = 1.0,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Triplet loss of each pair of one label with its semi-hard negative, the nearest one that is farther.

    .. math::
        \ell_i = \sum_{j \in P_i} \max(0,\; d_{ij} - d_{i n(i, j)} + m), \qquad
        n(i, j) = \arg\min_{k \in N_i,\; d_{ik} > d_{ij}} d_{ik}, \qquad d_{ij} = \|x_i - x_j\|

    over the others of the same label, :math:`P`, and those of another one, :math:`N`. Where none is farther it is the
    farthest. Distances of an example are sorted, so that no triplet is held.

    Distances are square roots of differences of products: those below 3e-4 of the distance from the batch's mean are
    rounded to nothing in float32.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features).
      labels: real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      margin: :math:`m`, in the unit of the distance. It may be traced, and broadcasts to (batch,).
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are compared as they are.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``: :math:`w_i \ell_i`, their sum, or that over the number of pairs
        (i, j), each of weight :math:`w_i`, of examples that have a negative.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the distances at a time, by default a million of them.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[0.0, 0.0], [0.3, 0.4], [0.6, 0.8]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.semi_hard_triplet_loss(embeddings, labels).round(4))
      [0.5 1.  0. ]

    TensorFlow Addons: ``TripletSemiHardLoss``. sentence-transformers: ``BatchSemiHardTripletLoss``, margin 5.

    References:
      Schroff, Kalenichenko and Philbin, FaceNet, https://arxiv.org/abs/1503.03832, with squared distances.
    """
    name = "semi_hard_triplet_loss"
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"margin": margin}
    prepared = _prepare(name, _semi_hard, embeddings, labels, references, given, options, normalize=normalize)
    return reduced_over_numbers(*prepared, options)
