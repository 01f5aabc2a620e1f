"""Losses of queries and references of which each query has its own, on the same device."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .masks import Mask, prepare_mask
from .pairs import Pairs, embeddings_of, sharded_alike
from .rows import is_finite_row
from .types import AxisName, Reduction


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
) -> tuple[Pairs, Mask, bool]:
    """Pairs of which query i belongs to reference i, each with an index and whether it is compared; the mask;
    and `Plan.cosines`.
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
    q, r = Mask(compared).fill(q), Mask(compared).fill(r)
    arguments.flag(name, "normalize", normalize)
    q, r, cosines = embeddings_of(q, r, dtype, normalize)
    index = jnp.arange(q.shape[0])
    if axis_name is not None:
        index += lax.axis_index(axis_name) * q.shape[0]
    scalars = tuple(arguments.scalar(name, argument, value, dtype) for argument, value in numbers.items())
    return Pairs(q, r, (index, compared), (index, compared), scalars), mask, cosines


def own_and_others(rows: Any, columns: Any) -> tuple[Array, Array]:
    """The query's own reference, and what else it is compared with."""
    (index, examples), (reference_index, compared) = rows, columns
    own = index[:, None] == reference_index[None, :]
    others = ~own & (index >= 0)[:, None]
    return own, others if examples is None else others & examples[:, None] & compared[None, :]
