"""Losses of queries and references of which each query has its own, on the same device."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .masks import Mask, prepare_mask
from .pair_devices import sharded_alike
from .pairs import Kind, Pairs, embeddings_of
from .rows import is_finite_row
from .types import AxisName, Reduction
from .vectors import inverse_norm


class Matched(NamedTuple):
    """Of queries and of their references."""

    position: Any  # an array; -1 for what fills up a chunk
    exists: Array | None
    is_compared: Array | None  # False for a weight of 0, too


def prepare_matched(
    name: str,
    names: tuple[str, str],
    queries: ArrayLike,
    references: ArrayLike,
    numbers: dict[str, ArrayLike],
    normalize: bool,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    axis_name: AxisName | None,
) -> tuple[Pairs, Mask, Kind]:
    """Pairs of which query i belongs to reference i, each with an index and whether it is compared; the mask;
    and the kind of products. A ``logit_scale`` of None has multiplied the queries already, which are fewer than the
    products.
    """
    q, r = (arguments.floating(name, *x) for x in zip(names, (queries, references), strict=True))
    if q.ndim != 2 or q.shape[1] == 0:
        raise ValueError(f"{name}: expected `{names[0]}` of shape (batch, features), got {q.shape}.")
    arguments.same_shape(name, names[1], r, q.shape)
    q, r = sharded_alike(q, r)
    dtype = arguments.compute_dtype(q, r)
    arguments.choice(name, "reduction", reduction)
    arguments.mapped(name, "axis_name", axis_name)
    mask = prepare_mask(name, where, weights, q.shape[:1], dtype).exclude(is_finite_row(q) & is_finite_row(r))
    compared = mask.examples if mask.weight is None else mask.weight != 0
    q, r = Mask(mask.examples).fill(q), Mask(mask.examples).fill(r)
    arguments.flag(name, "normalize", normalize)
    q, r, kind = embeddings_of(q, r, dtype, normalize)
    index = jnp.arange(q.shape[0])
    if axis_name is not None:
        index += lax.axis_index(axis_name) * q.shape[0]
    scalars: dict[str, Array | None]
    scalars = {argument: arguments.scalar(name, argument, value, dtype) for argument, value in numbers.items()}
    scale = scalars.get("logit_scale")
    if scale is not None and not kind.narrow:
        q, scalars["logit_scale"] = scale * q, None
    identity = Matched(index, mask.examples, compared)
    return Pairs(q, r, identity, identity, tuple(scalars.values())), mask, kind


def own_logits(pairs: Pairs, kind: Kind) -> Array:
    """Of each query with its own reference."""
    q, r = pairs.queries, pairs.references
    norms = (inverse_norm(q), inverse_norm(r)) if kind.cosines else ()
    return scaled_by(math.prod(norms, start=(q * r).sum(-1)), pairs.numbers[0])


def scaled_by(products: Array, scale: Array | None) -> Array:
    return products if scale is None else scale * products


def are_others(row: Matched, column: Matched) -> tuple[Array, Array]:
    """Which references are another query's, and are compared with it; and which queries with a reference.

    One of weight 0 has a loss, by which its weight may learn, but is in no other's.
    """
    others: Array = (row.position[:, None] != column.position[None, :]) & (row.position >= 0)[:, None]
    of_rows = _and(others, row.exists, column.is_compared)
    return of_rows, others if row.is_compared is None else _and(others, row.is_compared, column.exists)


def _and(pairs: Array, rows: Array | None, columns: Array | None) -> Array:
    for mask in (None if rows is None else rows[:, None], None if columns is None else columns[None, :]):
        pairs = pairs if mask is None else pairs & mask
    return pairs
