"""The circle loss: every example of a batch is compared with every other one, or with references."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.nn import softplus
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.masks import Mask, prepare_mask
from ._core.pairs import Pairs, labelled, logsumexp_where, pair_masks, plan, reduced, unit_vectors
from ._core.rows import is_finite_row, per_example_option
from ._core.special import relu
from ._core.types import Reduction


def _circle(s: Array, rows: Any, columns: Any, _: Any) -> tuple[Array, Any]:
    (*labels, g, m) = rows
    positives, negatives = pair_masks(labels, columns)
    g, m = g[:, None], m[:, None]
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
      chunk_size: for how many examples a device has the cosines at a time, by default 128 to 512.

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
    x, y = references, y_references = labelled(name, ("embeddings", "labels"), embeddings, labels)
    if reference_embeddings is not None:
        labels = y if reference_labels is None else reference_labels
        names = "reference_embeddings", "reference_labels"
        references, y_references = labelled(
            name, names, reference_embeddings, labels, features=x.shape[1], dtype=y.dtype
        )
    elif reference_labels is not None:
        raise ValueError(f"{name}: expected `reference_embeddings` with `reference_labels`, got None.")
    dtype = arguments.compute_dtype(x, references)
    g, m = (
        per_example_option(name, *option, Mask(), y.shape, dtype) for option in (("gamma", gamma), ("margin", margin))
    )
    usable = is_finite_row(x) & jnp.isfinite(g) & jnp.isfinite(m)
    mask = prepare_mask(name, where, weights, y.shape, dtype).exclude(usable)
    g, m = mask.fill_options((g, m))
    reference_mask = None
    if reference_embeddings is None:
        reference_mask = mask.examples if mask.weight is None else mask.weight != 0
        references = Mask(reference_mask).fill(x)
    u, v = unit_vectors(mask.fill(x), dtype), unit_vectors(references, dtype)
    index = (jnp.arange(a.shape[0]) if remove_diagonal else None for a in (y, y_references))
    rows, columns = ((y, next(index), mask.examples, g, m), (y_references, next(index), reference_mask))
    pairs = Pairs(u, v, rows, columns, ())
    return reduced(plan(name, _circle, u, v, chunk_size), pairs, mask, reduction)[0]
