"""Contrastive losses: every example of a batch is compared with every other one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.nn import softplus
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.cross_entropy import Options, dense_cross_entropy
from ._core.masks import Mask, divide_or_zero, prepare_mask
from ._core.pairs import Pairs, labelled, logsumexp_where, pair_masks, plan, reduced, unit_vectors
from ._core.rows import is_finite_row, per_example_option
from ._core.types import Reduction


def _ntxent(cosines: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Array]:
    """The cost of each example's pairs, and their number."""
    *labels, t = rows
    positives, negatives = pair_masks(labels, columns)
    s = cosines / t[:, None]
    costs = softplus(logsumexp_where(s, negatives)[:, None] - s)
    return jnp.where(positives, costs, 0).sum(-1), positives.sum(-1).astype(costs.dtype)


def _batch(
    name: str, x: Array, y: Array, temperature: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Pairs, Mask]:
    """Each example beside the whole batch, with its label, its index and whether it is compared."""
    dtype = arguments.compute_dtype(x)
    t = per_example_option(name, "temperature", temperature, Mask(), y.shape, dtype)
    mask = prepare_mask(name, where, weights, y.shape, dtype).exclude(is_finite_row(x) & jnp.isfinite(t))
    compared = mask.examples if mask.weight is None else mask.weight != 0
    t, index = mask.fill_options(t), jnp.arange(y.shape[0])
    u, v = unit_vectors(mask.fill(x), dtype), unit_vectors(Mask(compared).fill(x), dtype)
    return Pairs(u, v, (y, index, mask.examples, t), (y, index, compared), ()), mask


@compiled(temperature=arguments.POSITIVE)
def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
) -> Array:
    r"""Normalised temperature-scaled cross entropy (NT-Xent, InfoNCE), over all pairs of examples with the same label.

    .. math::
        \ell_i = \sum_{j \ne i,\, y_j = y_i} -\log \frac{e^{s_{ij}}}{e^{s_{ij}} + N_i}, \qquad
        N_i = \sum_{k:\, y_k \ne y_i} e^{s_{ik}}, \qquad s_{ij} = \frac{\cos(x_i, x_j)}{T}

    A pair costs :math:`\mathrm{softplus}(\log N_i - s_{ij})`, and pulls its cosine with
    :math:`-\mathrm{sigmoid}(\log N_i - s_{ij}) / T`. The denominator of a pair holds no other pair: with two views of
    each image that is SimCLR's. Only directions count, of vectors as short as 1e-30 and as long as 1e30; one of zeros
    has the cosine 0 with all, and gradient 0.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). For SimCLR, both views of each image.
      labels: :math:`y`, real, of shape (batch,), only compared: for SimCLR the number of the image.
      temperature: :math:`T > 0`. It may be traced, and may differ from example to example: it broadcasts to (batch,).
        Cosines are exact to a few roundings, which are divided by it.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. No
        example is compared with a masked one.
      weights: real, broadcast to (batch,): the weight of an example's own :math:`\ell_i`. An example of
        weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``: :math:`w_i \ell_i`, their sum, or that over the number of pairs
        (i, j), each of weight :math:`w_i`.
      chunk_size: for how many examples a device has the cosines at a time, by default 128 to 512: of 65,536
        examples, all would take 16 GiB.

    Returns:
      A scalar, or of shape (batch,) for ``"none"``; float64 if ``embeddings`` is, else float32. Without any pair it is
      0, and a pair without a negative example costs 0, with gradient 0.

    Raises:
      TypeError: ``embeddings`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``embeddings`` is not of two axes, ``labels`` has another length, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> first, second = jnp.array([[1.0, 0.2], [-1.0, 0.3]]), jnp.array([[0.9, 0.1], [-0.8, 0.1]])
      >>> views, images = jnp.concatenate([first, second]), jnp.array([0, 1, 0, 1])
      >>> print(f"{jaxloss.ntxent(views, images, 0.5):.4f}")
      0.0420

    The product of the embeddings has the precision of ``jax.default_matmul_precision``: where that is less than that of
    float32, take ``"highest"``. In a sharded batch each device has its examples beside all of them; inside
    ``shard_map`` only beside its own, unless ``jax.lax.all_gather`` has brought the others.

    optax: at a temperature of 0.02 the gradient of the four views above is NaN, without a pair the loss is; embeddings
    as short as 1e-4 have other cosines.

    References:
      Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
      https://arxiv.org/abs/2002.05709.
    """
    name = "ntxent"
    arguments.choice(name, "reduction", reduction)
    (labels,) = arguments.identities(labels)
    x, y = labelled(name, ("embeddings", "labels"), embeddings, labels)
    pairs, mask = _batch(name, x, y, temperature, where, weights)
    chunks = plan(name, _ntxent, pairs.queries, pairs.references, chunk_size)
    if reduction != "mean":
        return reduced(chunks, pairs, mask, reduction)[0]
    total, number = reduced(chunks, pairs, mask, "sum")
    # Of the means over each example's pairs, weighted by their number, the mean is that over all pairs.
    return divide_or_zero(total, (number if mask.weight is None else mask.weight * number).sum())


def _supervised(cosines: Array, rows: Any, columns: Any, _: Any, decoupled: bool = False) -> tuple[Array, Array]:
    """The loss of each example, and 1 for those that have a positive, else 0."""
    *labels, t = rows
    positives, negatives = pair_masks(labels, columns)
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
    temperature: ArrayLike = 0.1,
    decoupled: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    chunk_size: int | None = None,
) -> Array:
    r"""Supervised contrastive loss: a softmax over all others, of those with the same label. With two views SimCLR's.

    .. math::
        \ell_i = -\frac{1}{|P_i|} \sum_{j \in P_i} \log \frac{e^{s_{ij}}}{\sum_{k \ne i} e^{s_{ik}}}, \qquad
        P_i = \{j \ne i: y_j = y_i\}, \qquad s_{ij} = \frac{\cos(x_i, x_j)}{T}

    With the number of the image as label, and two views of each, it is SimCLR's loss as its authors compute it. The
    denominator has all others; :func:`ntxent` has there one positive at a time, and sums over positives. Only
    directions count. Inside of ``shard_map`` an example is compared with those of its device, unless
    ``jax.lax.all_gather`` has brought embeddings and labels of the others.

    Args:
      embeddings: :math:`x`, floating, of shape (batch, features). For SimCLR, both views of each image.
      labels: :math:`y`, real, of shape (batch,), only compared.
      temperature: :math:`T > 0`. It may be traced, and may differ from example to example: it broadcasts to (batch,).
      decoupled: whether the denominator is :math:`\sum_{k:\, y_k \ne y_i} e^{s_{ik}}`, without positives (DCL). The
        loss may then be negative.
      where: boolean, broadcast to (batch,): False masks an example, which may contain anything. No example is compared
        with a masked one.
      weights: real, broadcast to (batch,). An example of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. An example without another of its
        label costs 0 and does not count.
      chunk_size: for how many examples a device has the cosines at a time, by default 128 to 512.

    Returns:
      The loss in nats, of shape (batch,), or a scalar; float64 if ``embeddings`` is, else float32.

    Raises:
      TypeError: ``embeddings`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``embeddings`` is not of two axes, ``labels`` has another length, an option does not broadcast.

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
    arguments.choice(name, "reduction", reduction)
    (labels,) = arguments.identities(labels)
    x, y = labelled(name, ("embeddings", "labels"), embeddings, labels)
    pairs, mask = _batch(name, x, y, temperature, where, weights)
    chunks = plan(name, partial(_supervised, decoupled=decoupled), pairs.queries, pairs.references, chunk_size)
    if reduction != "mean":
        return reduced(chunks, pairs, mask, reduction)[0]
    total, some = reduced(chunks, pairs, mask, "sum")
    return divide_or_zero(total, (some if mask.weight is None else mask.weight * some).sum())
