"""Contrastive losses: every example of a batch is compared with every other one."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn import softplus
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, replicate_from_axis
from ._core.masks import Mask, prepare_mask
from ._core.rows import is_finite_row, per_example_option
from ._core.special import relu
from ._core.types import Reduction
from ._core.vectors import largest_power


@partial(jax.checkpoint, prevent_cse=False, static_argnums=7)
def _circle(
    s: Array,
    y: Array,
    y_references: Array,
    examples: Array | None,
    reference_mask: Array | None,
    g: Array,
    m: Array,
    remove_diagonal: bool,
) -> Array:
    positives, negatives = _pairs(y, y_references, examples, reference_mask, remove_diagonal)
    g, m = g[:, None], m[:, None]
    too_low = _logsumexp(-g * relu(1 + m - s) * (s - (1 - m)), positives)
    too_high = _logsumexp(g * relu(s + m) * (s - m), negatives)
    return jnp.where(positives.any(-1) & negatives.any(-1), softplus(too_low + too_high), 0)


def _batch(
    name: str,
    names: tuple[str, str],
    embeddings: ArrayLike,
    labels: ArrayLike,
    features: int | None = None,
    dtype: np.dtype | None = None,
) -> tuple[Array, Array]:
    """Embeddings and their labels; of references, of as many features and of the dtype that those of the batch have."""
    x, y = arguments.floating(name, names[0], embeddings), arguments.real(name, names[1], labels)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected `{names[0]}` of shape (batch, features), got {x.shape}.")
    arguments.same_shape(name, names[0], x, (x.shape[0], features or x.shape[1]))
    arguments.same_shape(name, names[1], y, x.shape[:1])
    if dtype is not None and y.dtype != dtype:
        raise TypeError(f"{name}: expected `{names[1]}` of dtype {dtype}, got {y.dtype}.")
    return x, y


@partial(jax.checkpoint, prevent_cse=False)
def _cosines(x: Array, references: Array) -> Array:
    """The cosine of each row of x with each reference."""
    dtype = arguments.compute_dtype(x, references)
    u, v = (_unit(replicate_from_axis(a, axis).astype(dtype)) for a, axis in ((x, 1), (references, 0)))
    return u @ v.T


def _unit(x: Array) -> Array:
    """x / |x|, and 0 / |0| = 0. A power of two, which is exact, scales it first: squares stay in range."""
    x = x * (1 / largest_power(x))
    squared = jnp.square(x).sum(-1, keepdims=True)
    zero = squared == 0
    return x * jnp.where(zero, 0, 1 / jnp.sqrt(jnp.where(zero, 1, squared)))


def _pairs(
    y: Array, y_references: Array, examples: Array | None, reference_mask: Array | None, remove_diagonal: bool
) -> tuple[Array, Array]:
    """Where two have the same label, and where they have not."""
    same = y[:, None] == replicate_from_axis(y_references)[None, :]
    positives, negatives = same, ~same
    if remove_diagonal:
        positives &= lax.broadcasted_iota(np.int32, same.shape, 0) != lax.broadcasted_iota(np.int32, same.shape, 1)
    if examples is not None:
        positives, negatives = positives & examples[:, None], negatives & examples[:, None]
    if reference_mask is not None:
        reference_columns = replicate_from_axis(reference_mask)[None, :]
        positives, negatives = positives & reference_columns, negatives & reference_columns
    return positives, negatives


def _logsumexp(x: Array, examples: Array) -> Array:
    """The logsumexp over the unmasked entries of each row, 0 if there is none."""
    top = lax.stop_gradient(x).max(-1, where=examples, initial=-jnp.inf, keepdims=True)
    top = jnp.where(top == -jnp.inf, 0, top)
    total = jnp.where(examples, jnp.exp(jnp.where(examples, x - top, 0)), 0).sum(-1)
    return top[:, 0] + jnp.log(jnp.where(total == 0, 1, total))


# Of the arrays of a number for each two examples, the derivatives keep the cosines alone.


@partial(jax.checkpoint, prevent_cse=False)
def _over_pairs(
    cosines: Array, y: Array, examples: Array | None, compared: Array | None, t: Array
) -> tuple[Array, Array]:
    """The cost of each example's pairs, and their number."""
    positives, negatives = _pairs(y, y, examples, compared, True)
    s = cosines / t[:, None]
    costs = softplus(_logsumexp(s, negatives)[:, None] - s)
    costs = jnp.where(positives & negatives.any(-1, keepdims=True), costs, 0)
    return costs.sum(-1), positives.sum(-1).astype(costs.dtype)


@compiled(temperature=arguments.POSITIVE)
def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
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
    x, y = _batch(name, ("embeddings", "labels"), embeddings, labels)
    mask = prepare_mask(name, where, weights, y.shape, arguments.compute_dtype(x)).exclude(is_finite_row(x))
    compared = mask.examples if mask.weight is None else mask.weight != 0
    t = per_example_option(name, "temperature", temperature, mask, y.shape, arguments.compute_dtype(x))
    cosines = _cosines(mask.fill(x), Mask(compared).fill(x))
    sums, pairs = _over_pairs(cosines, y, mask.examples, compared, t)
    # Of the means over each example's pairs, weighted by their number, the mean is that over all pairs.
    weight = pairs if mask.weight is None else mask.weight * pairs
    return Mask(pairs > 0, weight=weight).reduce(sums / jnp.maximum(pairs, 1), reduction)


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
      labels: :math:`y`, real, of shape (batch,), only compared.
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

    Returns:
      The loss of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: embeddings are not floating, labels are not real or of two dtypes, ``where`` is not boolean.
      ValueError: embeddings are not of two axes, labels have another length, ``reference_labels`` come without
        ``reference_embeddings``, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> embeddings, labels = jnp.array([[1.0, 0.2], [0.9, 0.1], [0.6, 0.7]]), jnp.array([0, 0, 1])
      >>> print(jaxloss.circle_loss(embeddings, labels))
      [23.9577 17.1099  0.    ]

    Keras: ``circle``, (labels, embeddings), multiplies the embeddings as they are, which are to have length 1. The
    product has the precision of ``jax.default_matmul_precision``. In a sharded batch each device has its examples
    beside all of them; inside ``shard_map`` the others have to be gathered, as references.

    References:
      Sun et al., Circle Loss: A Unified Perspective of Pair Similarity Optimization, https://arxiv.org/abs/2002.10857.
    """
    name = "circle_loss"
    arguments.choice(name, "reduction", reduction)
    labels, reference_labels = arguments.identities(labels, reference_labels)
    x, y = references, y_references = _batch(name, ("embeddings", "labels"), embeddings, labels)
    if reference_embeddings is not None:
        labels = y if reference_labels is None else reference_labels
        names = "reference_embeddings", "reference_labels"
        references, y_references = _batch(name, names, reference_embeddings, labels, features=x.shape[1], dtype=y.dtype)
    elif reference_labels is not None:
        raise ValueError(f"{name}: expected `reference_embeddings` with `reference_labels`, got None.")
    dtype = arguments.compute_dtype(x, references)
    mask = prepare_mask(name, where, weights, y.shape, dtype).exclude(is_finite_row(x))
    g, m = (
        per_example_option(name, *option, mask, y.shape, dtype) for option in (("gamma", gamma), ("margin", margin))
    )
    reference_mask = None
    if reference_embeddings is None:
        reference_mask = mask.examples if mask.weight is None else mask.weight != 0
        references = Mask(reference_mask).fill(x)
    x = mask.fill(x)
    losses = _circle(_cosines(x, references), y, y_references, mask.examples, reference_mask, g, m, remove_diagonal)
    return mask.reduce(losses, reduction)
