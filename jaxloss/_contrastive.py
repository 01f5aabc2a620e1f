"""Contrastive losses: every example of a batch is compared with every other one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.cross_entropy import Options, dense_cross_entropy
from ._core.labelled_pairs import BatchOptions, Identity, pair_masks, prepare_labelled, reduced_over_numbers
from ._core.masks import Mask
from ._core.pair_softmaxes import logsumexp_where
from ._core.special import root, softplus
from ._core.types import AxisName, Reduction


def _against_negatives(own: Array, others: Array, rows: Identity, columns: Identity) -> tuple[Array, Array]:
    """The cost of each example's pairs, by their logits beside those of the negatives, and the number of pairs."""
    positives, negatives = pair_masks(rows, columns)
    costs = softplus(logsumexp_where(others, negatives)[:, None] - own)
    return jnp.where(positives, costs, 0).sum(-1), positives.sum(-1).astype(costs.dtype)


def _ntxent(cosines: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Array]:
    identity, t = rows
    s = cosines / t[:, None]
    return _against_negatives(s, s, identity, columns)


@compiled(temperature=arguments.POSITIVE)
def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Normalised temperature-scaled cross entropy (NT-Xent), over all pairs of examples with the same label.

    .. math::
        \ell_i = \sum_{j \ne i,\, y_j = y_i} -\log \frac{e^{s_{ij}}}{e^{s_{ij}} + N_i}, \qquad
        N_i = \sum_{k:\, y_k \ne y_i} e^{s_{ik}}, \qquad s_{ij} = \frac{\cos(x_i, x_j)}{T}

    A pair costs :math:`\mathrm{softplus}(\log N_i - s_{ij})`, and pulls its cosine with
    :math:`-\mathrm{sigmoid}(\log N_i - s_{ij}) / T`. The denominator of a pair holds no other positive: with two views
    of each image that is SimCLR's. Only directions count, of vectors as short as 1e-30 and as long as 1e30; one of
    zeros has the cosine 0 with all, and gradient 0.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). For SimCLR, both views of each image.
      labels: :math:`y`, real, of shape (batch,), only compared, over devices too: for SimCLR the number of the image in
        the whole batch.
      temperature: :math:`T > 0`. It may be traced, and may differ from example to example: it broadcasts to (batch,).
        Cosines are exact to a few roundings, which are divided by it.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,): the weight of an example's own :math:`\ell_i`. An example of
        weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``: :math:`w_i \ell_i`, their sum, or that over the number of pairs
        (i, j), each of weight :math:`w_i`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the cosines at a time, by default a million cosines: of
        65,536 examples, all would take 16 GiB.

    Returns:
      A scalar, or of shape (batch,) for ``"none"``; float64 if ``embeddings`` is, else float32. Without any pair it is
      0, and a pair without a negative example costs 0, with gradient 0.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> first, second = jnp.array([[1.0, 0.2], [-1.0, 0.3]]), jnp.array([[0.9, 0.1], [-0.8, 0.1]])
      >>> views, images = jnp.concatenate([first, second]), jnp.array([0, 1, 0, 1])
      >>> print(f"{jaxloss.ntxent(views, images, 0.5):.4f}")
      0.0420

    The product of the embeddings has the precision of ``jax.default_matmul_precision``: where that is less than that of
    float32, take ``"highest"``. In a sharded batch each device has its examples beside all of them.

    optax: at a temperature of 0.02 the gradient of the four views above is NaN, without a pair the loss is; embeddings
    as short as 1e-4 have other cosines.

    References:
      Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
      https://arxiv.org/abs/2002.05709.
    """
    name = "ntxent"
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    prepared = prepare_labelled(name, _ntxent, embeddings, labels, references, {"temperature": temperature}, options)
    return reduced_over_numbers(*prepared, options)


def _tuplet_margin(cosines: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Array]:
    identity, scale, margin = (rows[0], *(option[:, None] for option in rows[1:]))
    lowered = jnp.cos(margin) * cosines + jnp.sin(margin) * root(1 - cosines * cosines)  # cos(angle - margin)
    return _against_negatives(scale * lowered, scale * cosines, identity, columns)


@compiled(scale=arguments.POSITIVE)
def tuplet_margin_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    scale: ArrayLike = 64.0,
    margin: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Tuplet margin loss: a pair of one label is compared with all negatives of the example, its angle less a margin.

    .. math::
        \ell_i = \sum_{j \ne i,\, y_j = y_i}
        \log\Bigl(1 + \sum_{k:\, y_k \ne y_i} e^{s (\cos \theta_{ik} - \cos(\theta_{ij} - m))}\Bigr)

    Pairs whose angle is the margin cost least: they need not collapse. Angles below 1e-3 are rounded to 0 in float32.
    With a margin of 0 it is :func:`ntxent`, of the temperature 1 / s.

    Args:
      embeddings: floating, of shape (batch, features). Only directions count.
      labels: :math:`y`, real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      scale: :math:`s > 0`. Like ``margin`` it may be traced, and broadcasts to (batch,).
      margin: :math:`m`, in radians.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``: :math:`w_i \ell_i`, their sum, or that over the number of pairs
        (i, j), each of weight :math:`w_i`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the cosines at a time, by default a million cosines.

    Returns:
      The loss in nats, of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.9, 0.5], [0.6, 0.7]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.tuplet_margin_loss(embeddings, labels, scale=10.0).round(4))
      [0.138  0.5111 0.    ]

    PyTorch Metric Learning: ``TupletMarginLoss``, whose margin is in degrees.

    References:
      Yu and Tao, Deep Metric Learning with Tuplet Margin Loss, 2019.
    """
    name = "tuplet_margin_loss"
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    given = {"scale": scale, "margin": margin}
    prepared = prepare_labelled(name, _tuplet_margin, embeddings, labels, references, given, options)
    return reduced_over_numbers(*prepared, options)


def _supervised(cosines: Array, rows: Any, columns: Any, _: Any, decoupled: bool = False) -> tuple[Array, Array]:
    """The loss of each example, and 1 for those that have a positive, else 0."""
    identity, t = rows
    positives, negatives = pair_masks(identity, columns)
    s, number = cosines / t[:, None], positives.sum(-1).astype(t.dtype)
    shares = positives.astype(t.dtype) / jnp.maximum(number, 1)[:, None]
    if not s.shape[1]:
        return number, number
    if decoupled:
        losses = logsumexp_where(s, negatives) - (shares * s).sum(-1)
        some = (number > 0) & negatives.any(-1)
    else:
        some = number > 0
        others = (positives | negatives) | ~some[:, None]  # a row without others has a loss that nobody reads
        losses = dense_cross_entropy(s, shares, Mask(classes=others), Options())
    return jnp.where(some, losses, 0), some.astype(t.dtype)


@compiled(temperature=arguments.POSITIVE)
def supervised_contrastive_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: ArrayLike | None = None,
    temperature: ArrayLike = 0.1,
    decoupled: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""Supervised contrastive loss (SupCon, SimCLR): the log-softmax over all others, averaged over the same label.

    .. math::
        \ell_i = -\frac{1}{|P_i|} \sum_{j \in P_i} \log \frac{e^{s_{ij}}}{\sum_{k \ne i} e^{s_{ik}}}, \qquad
        P_i = \{j \ne i: y_j = y_i\}, \qquad s_{ij} = \frac{\cos(x_i, x_j)}{T}

    With two views of each image, and the number of the image as label, it is SimCLR's loss. The denominator has all
    others; that of :func:`ntxent` has one positive at a time, which is the same for two views. Only directions count.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). For SimCLR, both views of each image.
      labels: :math:`y`, real, of shape (batch,), only compared, over devices too: number them over the whole batch.
      temperature: :math:`T > 0`. It may be traced, and may differ from example to example: it broadcasts to (batch,).
      decoupled: whether the denominator is :math:`\sum_{k:\, y_k \ne y_i} e^{s_{ik}}`, without positives (DCL). The
        loss may then be negative.
      reference_embeddings: floating, of shape (references, features): what each example is compared with, instead of
        the batch, such as embeddings of earlier batches. All of them: put none of the batch itself there.
      reference_labels: of shape (references,), of the dtype of ``labels``; ``labels`` by default.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. Without references no
        example is compared with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. An example without a
        positive costs 0 and does not count.
      axis_name: inside of ``shard_map``, the mapped axis over which examples and references are split. Value and
        gradients are those of the whole batch, but for ``check_vma=False``: see :func:`jaxloss.clip_loss`.
      chunk_size: for how many examples a device has the cosines at a time, by default a million cosines.

    Returns:
      The loss in nats, of shape (batch,), or a scalar; float64 if ``embeddings`` is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.9, 0.1], [0.6, 0.7]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.supervised_contrastive_loss(embeddings, labels).round(4))
      [0.1164 0.0679 0.    ]

    References:
      Khosla et al., Supervised Contrastive Learning, https://arxiv.org/abs/2004.11362. Decoupled: Yeh et al.,
      https://arxiv.org/abs/2110.06848.
    """
    name = "supervised_contrastive_loss"
    arguments.flag(name, "decoupled", decoupled)
    formula = partial(_supervised, decoupled=decoupled)
    references = reference_embeddings, reference_labels
    options = BatchOptions(where, weights, reduction, axis_name, chunk_size)
    prepared = prepare_labelled(name, formula, embeddings, labels, references, {"temperature": temperature}, options)
    return reduced_over_numbers(*prepared, options)
