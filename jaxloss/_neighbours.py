"""Losses that look for one neighbour of each example first, and then compare the two to the last digit."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, take_rows
from ._core.labelled_pairs import BatchOptions, centred, pair_masks, prepare_labelled
from ._core.masks import Mask
from ._core.pair_devices import reduced
from ._core.pairs import Pairs, Plan
from ._core.special import root
from ._core.types import AxisName, Reduction
from ._cosine import cosine_distance
from ._embedding import triplet_margin_loss


def _found(
    chunks: Plan, pairs: Pairs, references: Array, axis_name: AxisName | None
) -> tuple[Array, list[tuple[Array, Array]]]:
    """All references, and what the formula finds of each example: their indices, and whether there is one."""
    constant = pairs._replace(queries=lax.stop_gradient(pairs.queries), references=lax.stop_gradient(pairs.references))
    _, found = reduced(chunks, constant, Mask(), "none", axis_name)
    if references.shape[0] == 0:  # something to take, which does not count
        references = jnp.zeros((1, references.shape[1]), references.dtype)
    return references if axis_name is None else lax.all_gather(references, axis_name, tiled=True), found


def _hardest(products: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Any]:
    squared_references, references = columns
    from_own = squared_references[None, :] - 2 * products  # the squared distance, but for a number of the row
    positives, negatives = pair_masks(rows[0], references)
    return _largest((from_own, positives), (-from_own, negatives))


def _largest(*numbers_and_masks: tuple[Array, Array]) -> tuple[Array, list[tuple[Array, Array]]]:
    """No losses; in each row the index of the largest of the unmasked numbers, and whether there is one."""
    found = [(jnp.where(mask, x, -jnp.inf), mask) for x, mask in numbers_and_masks]
    losses = jnp.zeros(found[0][0].shape[:1], found[0][0].dtype)
    return losses, [(jnp.argmax(x, -1) if x.shape[1] else jnp.zeros(len(x), int), mask.any(-1)) for x, mask in found]


@compiled()
def batch_hard_triplet_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    margin: ArrayLike = 1.0,
    soft_margin: bool = False,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Triplet loss of each example with its farthest positive and its nearest negative (batch hard).

    .. math::
        \ell_i = \max\Bigl(0,\; \max_{j \in P_i} d_{ij} - \min_{k \in N_i} d_{ik} + m\Bigr), \qquad
        d_{ij} = \|x_i - x_j\|

    over the others of the same label, :math:`P`, and those of another one, :math:`N`. The two are found by products,
    and their distances then computed from differences, which is exact. Of equally far ones the first counts.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features).
      labels: real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      margin: :math:`m`, in the unit of the distance. It may be traced, and broadcasts to (batch,).
      soft_margin: whether softplus takes the place of :math:`\max(0, \cdot)`. Pass ``margin=0.0`` for the soft margin
        of the paper.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are compared as they are.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. An example without a positive or
        without a negative costs 0 and does not count.
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
      >>> print(jaxloss.batch_hard_triplet_loss(embeddings, labels).round(4))
      [0.5 1.  0. ]

    TensorFlow Addons: ``TripletHardLoss``. sentence-transformers: ``BatchHardTripletLoss``, margin 5, and
    ``BatchHardSoftMarginTripletLoss``. PyTorch Metric Learning: ``BatchHardMiner`` before ``TripletMarginLoss``.

    References:
      Hermans, Beyer and Leibe, In Defense of the Triplet Loss for Person Re-Identification,
      https://arxiv.org/abs/1703.07737.
    """
    name = "batch_hard_triplet_loss"
    arguments.flag(name, "normalize", normalize)
    arguments.flag(name, "soft_margin", soft_margin)
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"margin": margin}
    chunks, pairs, mask = prepare_labelled(
        name, _hardest, embeddings, labels, references, given, options, normalize=normalize
    )
    about_mean, _ = centred(pairs, axis_name)
    squared_references = jnp.square(lax.stop_gradient(about_mean.references)).sum(-1)
    about_mean = about_mean._replace(columns=(squared_references, pairs.columns))
    all_references, ((farthest, has_positive), (nearest, has_negative)) = _found(
        chunks, about_mean, pairs.references, axis_name
    )
    counted = has_positive & has_negative
    mask = mask.only(counted)
    losses = triplet_margin_loss(
        pairs.queries,
        take_rows(all_references, farthest),
        take_rows(all_references, nearest),
        eps=0,
        margin=pairs.rows[1],
        soft_margin=soft_margin,
        where=counted,
    )
    return mask.reduce(losses, reduction, axis_name)


def _nearest(products: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Any]:
    others, _ = pair_masks(rows[0], columns)
    return _largest((products, others))


@compiled(epsilon=arguments.NOT_NEGATIVE)
def koleo_loss(
    embeddings: ArrayLike,
    *,
    epsilon: ArrayLike = 1e-8,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""KoLeo regularizer: directions are to be far from their nearest neighbour, so that they fill the sphere.

    .. math::
        \ell_i = -\log\Bigl(\min_{j \ne i} \|u_i - u_j\| + \epsilon\Bigr), \qquad u_i = x_i / \|x_i\|

    The neighbour is found by products, of those that are equally near to rounding one of them, and its distance
    computed from the difference: that is exact for near ones of similar length.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). Only directions count.
      epsilon: :math:`\epsilon \ge 0`. It may be traced, and broadcasts to (batch,). With the default, that of DINOv2,
        two equal directions cost 18.4, with 0 infinity, both with gradient 0.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. No other is compared
        with it.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. An example that is alone costs 0 and
        does not count.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split. Value and gradients are those
        of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the products at a time, by default a million of them.

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: ``embeddings`` is not floating, ``where`` is not boolean.
      ValueError: ``embeddings`` is not of two axes, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.1], [0.0, -1.0]])
      >>> print(jaxloss.koleo_loss(embeddings))
      [ 2.9967  2.9967 -0.3466]

    DINOv2 looks for neighbours on each device; here ``axis_name`` or a sharded batch makes them those of all devices.

    References:
      Sablayrolles et al., Spreading vectors for similarity search, https://arxiv.org/abs/1806.03198. Oquab et al.,
      DINOv2, https://arxiv.org/abs/2304.07193.
    """
    name = "koleo_loss"
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    x = arguments.floating(name, "embeddings", embeddings)
    alike = jnp.zeros(x.shape[:1])
    given = {"epsilon": epsilon}
    chunks, pairs, mask = prepare_labelled(name, _nearest, x, alike, (None, None), given, options, normalize=True)
    x = mask.fill(x.astype(pairs.queries.dtype))
    all_references, ((nearest, counted),) = _found(chunks, pairs, x, axis_name)
    mask = mask.only(counted)
    half = cosine_distance(x, take_rows(all_references, nearest), where=counted)  # of the squared distance
    return mask.reduce(-jnp.log(jnp.where(counted, root(2 * half) + pairs.rows[1], 1)), reduction, axis_name)
