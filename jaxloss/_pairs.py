"""Losses of queries and references, of which each query has its own: text and images, questions and answers."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import in_range, one_hot_mask
from ._core.compiler import compiled
from ._core.cross_entropy import Options, indexed_cross_entropy
from ._core.masks import Mask, finite_where_unweighted, prepare_mask, weigh
from ._core.matched_pairs import Matched, are_others, own_logits, prepare_matched, scaled_by
from ._core.pair_devices import over_devices, reduced
from ._core.pair_softmaxes import least, logsumexps_where, weighted_softmaxes
from ._core.pairs import (
    Cotangents,
    Pairs,
    Plan,
    accumulate,
    around,
    embeddings_of,
    losses_and_columns,
    narrowed,
    plan,
    tangent_of,
)
from ._core.rows import is_finite_row
from ._core.special import softplus
from ._core.types import AxisName, Reduction

_NAMES = "queries", "references"


def _others(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Array]:
    """Of each query the logsumexp of the others, and of each reference."""
    return logsumexps_where(scaled_by(products, numbers[0]), *are_others(rows[0], columns))


def _statistics(chunks: Plan, axes: tuple[str, ...], pairs: Pairs) -> tuple[Array, Array]:
    """For each query the logsumexps of the others in its row and in its reference's column."""
    if not chunks.ring:
        in_row, in_column = losses_and_columns(chunks, pairs, axes)
        return in_row, in_column[_index(pairs)] if axes else in_column

    def step(in_row: Array, visiting: Any) -> tuple[Array, Any]:
        references, columns, in_column = visiting
        of_row, of_column = losses_and_columns(chunks, pairs._replace(references=references, columns=columns), ())
        return jnp.logaddexp(in_row, of_row), (references, columns, jnp.logaddexp(in_column, of_column))

    none = jnp.full(pairs.queries.shape[:1], least(pairs.rows[1]), pairs.rows[1].dtype)
    in_row, (*_, in_column) = around(
        chunks.ring, step, none, (narrowed(chunks, pairs.references), pairs.columns, none), pairs
    )
    return in_row, in_column


def _index(pairs: Pairs) -> Array:
    index: Array = pairs.rows[0].position
    return index


def _of_columns(chunks: Plan, pairs: Pairs, axes: tuple[str, ...], x: Array) -> Array:
    """For each reference what its query has."""
    if chunks.ring or not axes:
        return x
    found: Array = lax.psum(jnp.zeros_like(pairs.references[:, 0], x.dtype).at[_index(pairs)].set(x), axes)
    return found


def _clip(own: Array, in_row: Array, in_column: Array) -> Array:
    return (softplus(in_row - own) + softplus(in_column - own)) / 2


_NOTHING = Matched(None, None, None)  # has no derivative

# The sums over columns have to be known before a gradient is. So there are two passes over the products, and a gradient
# by the logit z_ij is a_i exp(z_ij - in_row_i) + c_j exp(z_ij - in_column_j), by z_ii, which is not in the sums,
# -a_i - c_i.


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _clip_sum(chunks: Plan, axes: tuple[str, ...], pairs: Pairs, weight: Array) -> Array:
    """The sum of weight * loss over a device's queries."""
    return weigh(weight, _clip(pairs.rows[1], *_statistics(chunks, axes, pairs))).sum()


def _clip_sum_rule(chunks: Plan, axes: tuple[str, ...], primals: Any, tangents: Any) -> tuple[Array, Array]:
    pairs, weight = primals
    row, own = pairs.rows
    in_row, in_column = _statistics(chunks, axes, pairs)
    losses = _clip(own, in_row, in_column)
    a, c = (weight / 2 * jax.nn.sigmoid(others - own) for others in (in_row, in_column))
    of_columns = tuple(_of_columns(chunks, pairs, axes, x) for x in (c, in_column))
    known = pairs._replace(rows=(row, (a, in_row)), columns=(pairs.columns, of_columns))
    _, gradients = accumulate(chunks, known, None, _clip_cotangents)
    gradients = gradients._replace(rows=(_NOTHING, -a - c), columns=_NOTHING)
    total = weigh(weight, losses).sum()
    return total, tangent_of(total, (gradients, finite_where_unweighted(weight, losses)), tangents)


_clip_sum.defjvp(_clip_sum_rule, symbolic_zeros=True)


def _clip_cotangents(products: Array, rows: Any, columns: Any, numbers: Any, _: None) -> tuple[None, Cotangents]:
    (row, of_row), (column, of_column), (scale,) = rows, columns, numbers
    ct = weighted_softmaxes(scaled_by(products, scale), are_others(row, column), of_row, of_column)
    constant = jax.tree.map(jnp.zeros_like, of_column)  # these depend on all pairs, see above
    ct_scale = None if scale is None else (ct * products).sum()
    return None, Cotangents(scaled_by(ct, scale), None, (_NOTHING, constant), (ct_scale,))


@compiled()
def clip_loss(
    queries: ArrayLike,
    references: ArrayLike,
    *,
    logit_scale: ArrayLike,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""CLIP's loss, the symmetric InfoNCE of pairs: each query is to find its reference, and each reference its query.

    .. math::
        \ell_i = \tfrac{1}{2} \Bigl(\log \sum_j e^{z_{ij}} - z_{ii}\Bigr)
               + \tfrac{1}{2} \Bigl(\log \sum_j e^{z_{ji}} - z_{ii}\Bigr), \qquad z_{ij} = s\, q_i \cdot r_j

    The products of all queries with all references never exist: chunks of queries are compared with all references,
    and the sums over queries are added up. A sure pair does not round to 0.

    Args:
      queries: :math:`q`, floating, of shape (batch, features), such as the embeddings of images. In bfloat16 they are
        multiplied in bfloat16, and the products added up in float32.
      references: :math:`r`, floating, of the shape of ``queries``: reference i belongs to query i.
      logit_scale: :math:`s`, a number: for a learned logarithm ``jnp.exp(log_scale)``. CLIP starts at 1 / 0.07, and
        its trainer keeps it below 100.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are multiplied as they are.
      where: boolean, broadcast to (batch,): False masks a pair, which may contain anything. No other is compared with
        it. To leave out single products, such as those of equal captions, take the mean of two :func:`info_nce_loss`,
        whose masks have two axes.
      weights: real, broadcast to (batch,). A pair of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. CLIP takes the mean.
      axis_name: inside of ``shard_map``, the mapped axis over which pairs are split. References are gathered where a
        device has fewer than 512, and travel from device to device where it has more, as on an explicit mesh. Value and
        gradients are those of the whole batch, but for ``grad`` inside of ``check_vma=False``, see
        :func:`jaxloss.reduce`: there those by embeddings are as many times too large as there are devices.
      chunk_size: how many queries a device compares at a time, by default for a million products.

    Returns:
      The loss in nats, of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: an embedding is not floating, ``where`` is not boolean.
      ValueError: embeddings are not of two axes and one shape, ``logit_scale`` is not a number, a mask or weight does
        not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> images, texts = jnp.array([[1.0, 0.2], [-0.4, 0.9]]), jnp.array([[0.9, 0.1], [0.1, 1.1]])
      >>> print(jaxloss.clip_loss(images, texts, logit_scale=2.0, normalize=True).round(4))
      [0.1437 0.1796]

    References:
      Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
      https://arxiv.org/abs/2103.00020.
    """
    name = "clip_loss"
    numbers = {"logit_scale": logit_scale}
    pairs, mask, kind = prepare_matched(
        name, ("queries", "references"), queries, references, numbers, normalize, where, weights, reduction, axis_name
    )
    pairs = pairs._replace(rows=(pairs.rows, own_logits(pairs, kind)))
    chunks = plan(name, _others, pairs.queries, pairs.references, chunk_size, kind, is_sum=True)
    mapped = () if axis_name is None else axis_name if isinstance(axis_name, tuple) else (axis_name,)
    shape, dtype = pairs.queries.shape[:1], arguments.compute_dtype(pairs.queries, pairs.references)
    weight = None if reduction == "none" else mask.example_weights(shape, dtype, reduction, axis_name)

    def local(chunks: Plan, pairs: Pairs, weight: Array | None, axes: tuple[str, ...]) -> tuple[Array, Any]:
        if weight is None:
            return _clip(pairs.rows[1], *_statistics(chunks, (*axes, *mapped), pairs)), ()
        total = _clip_sum(chunks, (*axes, *mapped), pairs, weight)
        return lax.psum(total, axes) if axes else total, ()

    found, _ = over_devices(chunks, local, pairs, weight, axis_name)
    if weight is None:
        return mask.reduce(found, reduction)
    return found if axis_name is None else lax.psum(found, axis_name)


def _siglip(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Any]:
    """The part of the others."""
    scale, bias = numbers
    z = scaled_by(products, scale) + bias
    return softplus(jnp.where(are_others(rows, columns)[0], z, least(z))).sum(-1), ()  # softplus(least) = 0


@compiled()
def siglip_loss(
    queries: ArrayLike,
    references: ArrayLike,
    *,
    logit_scale: ArrayLike,
    bias: ArrayLike,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""SigLIP's loss of pairs: for each query and each reference, whether they belong together.

    .. math::
        \ell_i = \sum_j \mathrm{softplus}(-y_{ij} z_{ij}), \qquad z_{ij} = s\, q_i \cdot r_j + b, \qquad
        y_{ij} = 1 \text{ for } i = j, \text{ else } -1

    The mean over queries is that of big_vision and open_clip: the sum over all pairs, divided by the batch. Programs
    that take the mean over all pairs divide by the batch once more. The products of all queries with all references
    never exist.

    Args:
      queries: :math:`q`, floating, of shape (batch, features), such as the embeddings of images. In bfloat16 they are
        multiplied in bfloat16, and the products added up in float32.
      references: :math:`r`, floating, of the shape of ``queries``: reference i belongs to query i.
      logit_scale: :math:`s`, a number: for a learned logarithm ``jnp.exp(log_scale)``, of which ``log_scale`` starts at
        log(10).
      bias: :math:`b`, a number. It starts at -10, as most pairs do not belong together.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are multiplied as they are.
      where: boolean, broadcast to (batch,): False masks a pair, which may contain anything. No other is compared with
        it.
      weights: real, broadcast to (batch,): the weight of a query's own :math:`\ell_i`. A pair of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. ``"sum"`` and ``"mean"`` compute no
        product twice.
      axis_name: inside of ``shard_map``, the mapped axis over which pairs are split. References are gathered where a
        device has fewer than 512, and travel from device to device where it has more, as on an explicit mesh. Value and
        gradients are those of the whole batch, but for ``grad`` inside of ``check_vma=False``, see
        :func:`jaxloss.reduce`: there those by embeddings are as many times too large as there are devices.
      chunk_size: how many queries a device compares at a time, by default for a million products.

    Returns:
      The loss in nats, of shape (batch,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: an embedding is not floating, ``where`` is not boolean.
      ValueError: embeddings are not of two axes and one shape, ``logit_scale`` or ``bias`` is not a number, a mask or
        weight does not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> images, texts = jnp.array([[1.0, 0.2], [-0.4, 0.9]]), jnp.array([[0.9, 0.1], [0.1, 1.1]])
      >>> print(jaxloss.siglip_loss(images, texts, logit_scale=10.0, bias=-10.0, normalize=True))
      [0.7129 1.5153]

    References:
      Zhai et al., Sigmoid Loss for Language Image Pre-Training, https://arxiv.org/abs/2303.15343.
    """
    name = "siglip_loss"
    numbers = {"logit_scale": logit_scale, "bias": bias}
    pairs, mask, kind = prepare_matched(
        name, ("queries", "references"), queries, references, numbers, normalize, where, weights, reduction, axis_name
    )
    chunks = plan(name, _siglip, pairs.queries, pairs.references, chunk_size, kind, is_sum=True)
    of_others, _ = reduced(chunks, pairs, mask, reduction, axis_name)
    of_own = softplus(-own_logits(pairs, kind) - pairs.numbers[1])
    return of_others + mask.reduce(of_own, reduction, axis_name)


def _info_nce(products: Array, rows: Any, columns: Any, numbers: Any) -> tuple[Array, Any]:
    labels, examples, classes = rows
    scale, hardness = numbers
    z = scale * products
    if hardness is not None:
        z += jnp.where(one_hot_mask(labels, z), 0, hardness * lax.stop_gradient(products))
    return indexed_cross_entropy(z, labels, Mask(examples, classes), Options()), ()


def _is_compared(pairs_mask: Array, references: int, axis_name: AxisName | None) -> Array:
    """Which of a device's references some query is compared with."""
    found = pairs_mask.any(0)
    if axis_name is None:
        return found
    found = lax.psum(found.astype(np.int32), axis_name) > 0
    return lax.dynamic_slice_in_dim(found, lax.axis_index(axis_name) * references, references)


@compiled()
def info_nce_loss(
    queries: ArrayLike,
    references: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    logit_scale: ArrayLike = 1.0,
    hardness: ArrayLike = 0.0,
    normalize: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    chunk_size: int | None = None,
) -> Array:
    r"""InfoNCE: the cross entropy of each query's own reference among all references. Also multiple negatives ranking.

    .. math::
        \ell_i = \log \sum_j e^{z_{ij}} - z_{i y_i}, \qquad z_{ij} = s\, q_i \cdot r_j

    Additional references are extra negatives, such as hard ones. The products of all queries with all
    references never exist. In both directions, without more negatives: :func:`clip_loss`.

    Args:
      queries: :math:`q`, floating, of shape (queries, features). In bfloat16 they are multiplied in bfloat16, and the
        products added up in float32.
      references: :math:`r`, floating, of shape (references, features).
      labels: :math:`y`, integers in [0, references), of shape (queries,): which reference belongs to a query; reference
        i to query i by default, on each device of ``axis_name`` of its own. Any other integer gives NaN.
      logit_scale: :math:`s`, a number: one over the temperature.
      hardness: :math:`\alpha`, a number. :math:`\alpha\, q_i \cdot r_j`, without derivative, is added to the logit of
        each negative, so that similar ones weigh more.
      normalize: whether to divide the embeddings by their norm, of any length from 1e-30 to 1e30; a vector of zeros
        remains one. By default they are multiplied as they are.
      where: boolean, broadcast to (queries,): False masks a query, which may contain anything. Or of shape (queries,
        references): False leaves a reference out for a query, such as another one with the same text. Leave the query's
        own in, or the loss is infinite. A reference that no query is compared with may contain anything.
      weights: real, broadcast to (queries,). A query of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`. ``"sum"`` and ``"mean"`` compute no
        product twice.
      axis_name: inside of ``shard_map``, the mapped axis over which queries and references are split. References are
        gathered, those of the first device first: ``labels`` are positions among all, and a ``where`` of pairs has the
        shape (queries of the device, all references). Put hard negatives behind a
        device's references on that device. Gradients: as of :func:`clip_loss`.
      chunk_size: how many queries a device compares at a time, by default for a million products.

    Returns:
      The loss in nats, of shape (queries,), or a scalar; float64 if an embedding is, else float32.

    Raises:
      TypeError: an embedding is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: embeddings are not of two axes with as many features, there are fewer references than queries and no
        labels, ``logit_scale`` or ``hardness`` is not a number, a mask or weight does not broadcast, ``axis_name`` is
        not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> questions, answers = jnp.array([[1.0, 0.2], [-0.4, 0.9]]), jnp.array([[0.9, 0.1], [0.1, 1.1], [-1.0, 0.3]])
      >>> print(jaxloss.info_nce_loss(questions, answers, logit_scale=20.0, normalize=True).round(4))
      [0.     0.0118]

    References:
      van den Oord et al., Representation Learning with Contrastive Predictive Coding, https://arxiv.org/abs/1807.03748.
      Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply,
      https://arxiv.org/abs/1705.00652.
    """
    name = "info_nce_loss"
    q, r = arguments.floating(name, "queries", queries), arguments.floating(name, "references", references)
    if q.ndim != 2 or q.shape[1] == 0:
        raise ValueError(f"{name}: expected `queries` of shape (queries, features), got {q.shape}.")
    if r.ndim != 2 or r.shape[1] != q.shape[1]:
        raise ValueError(f"{name}: expected `references` of shape (references, {q.shape[1]}), got {r.shape}.")
    arguments.choice(name, "reduction", reduction, axis_name if reduction != "none" else None)
    arguments.mapped(name, "axis_name", axis_name)
    if not r.shape[0]:
        raise ValueError(f"{name}: expected at least one of `references`, got shape {r.shape}.")
    devices: int = 1 if axis_name is None else lax.axis_size(axis_name)
    if labels is not None:
        y = arguments.integer(name, "labels", labels)
        arguments.same_shape(name, "labels", y, q.shape[:1])
    elif r.shape[0] < q.shape[0]:
        raise ValueError(f"{name}: expected `references` for {q.shape[0]} queries, or `labels`, got {r.shape[0]}.")
    else:
        y = jnp.arange(q.shape[0], dtype=np.int32)
        y += 0 if axis_name is None else lax.axis_index(axis_name) * r.shape[0]
    dtype, pairs_mask = arguments.compute_dtype(q, r), None
    if where is not None and jnp.ndim(where) == 2:
        shape = q.shape[0], devices * r.shape[0]
        pairs_mask, where = arguments.broadcast(name, "where", arguments.boolean(name, "where", where), shape), None
        r = Mask(_is_compared(pairs_mask, r.shape[0], axis_name)).fill(r)
    mask = prepare_mask(name, where, weights, q.shape[:1], dtype)._replace(classes=pairs_mask).without_empty_rows()
    mask = mask.exclude(is_finite_row(q) & in_range(y, devices * r.shape[0]))
    q = Mask(mask.examples).fill(q)
    arguments.flag(name, "normalize", normalize)
    q, r, kind = embeddings_of(q, r, dtype, normalize)
    alpha = None if arguments.is_number(hardness, 0) else arguments.scalar(name, "hardness", hardness, dtype)
    numbers = arguments.scalar(name, "logit_scale", logit_scale, dtype), alpha
    real = jnp.ones_like(y, bool) if mask.examples is None else mask.examples  # False for what fills up a chunk
    pairs = Pairs(q, r, (y, real, pairs_mask), (), numbers)
    chunks = plan(name, _info_nce, q, r, chunk_size, kind)
    return reduced(chunks, pairs, mask._replace(classes=None), reduction, axis_name)[0]
