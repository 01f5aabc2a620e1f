"""On a mesh whose axes are part of the types: tokens and classes stay where they are, and each device has its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import PartitionSpec as P
from jax.sharding import reshard

from ._chunks import Head, Plan, Tokens, each, weighted_sum

# The axes of an explicit mesh that split tokens are those of hidden; those that split the classes of the weight, and no
# tokens, stay; a weight or a hidden that is split along its features, or over the axes of tokens, is gathered, once.


def loss_of_each(
    plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None
) -> tuple[tuple[Array, ...], Any]:
    found: tuple[tuple[Array, ...], Any] = _spread(_each, plan, heads, (tokens, examples), lambda token: token)
    return found


def sum_of_all(
    plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None, weight: Array
) -> tuple[Array, Any]:
    found: tuple[Array, Any] = _spread(_sum, plan, heads, (tokens, examples, weight), lambda token: (P(), token))
    return found


def _each(plan: Plan, token_axes: tuple[str, ...], heads: Any, arrays: Any) -> Any:
    return each(plan, heads, *arrays)


def _sum(plan: Plan, token_axes: tuple[str, ...], heads: Any, arrays: Any) -> Any:
    total, aux = weighted_sum(plan, heads, *arrays)
    return lax.psum(total, token_axes) if token_axes else total, aux


def _spread(
    function: Callable[..., Any], plan: Plan, heads: tuple[Head, ...], arrays: Any, out: Callable[[P], Any]
) -> Any:
    """The function on each device's part, if the types say that there are several."""
    if not any(_axes(x) for x in jax.tree.leaves((heads, arrays))):
        return function(plan, (), heads, arrays)
    first, class_axis = heads[0], plan.class_axes[0]
    token_axes = _axes(first.hidden, slice(-1))
    class_axes = tuple(a for a in _axes(first.weight, class_axis) if a not in token_axes)
    token, classes = P(*jax.typeof(first.hidden).sharding.spec[:-1]), class_axes or None
    rows, matrices = P(*token, None), (P(classes, None), P(None, classes))
    specs: Any = (
        tuple(
            Head(rows, *(matrices[axis], None if head.bias is None else P(classes)))  # type: ignore[arg-type]
            for head, axis in zip(heads, plan.class_axes, strict=True)
        ),
        jax.tree.map(lambda _: token, arrays),
    )
    class_axis_name = (*_names(plan.class_axis_name), *class_axes)
    mapped = jax.shard_map(
        partial(function, plan._replace(class_axis_name=class_axis_name or None), token_axes),
        mesh=jax.typeof(first.hidden).sharding.mesh,
        in_specs=specs,
        out_specs=out(token),
        axis_names={*token_axes, *class_axes},
    )
    return mapped(*jax.tree.map(reshard, (heads, arrays), specs))


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def _axes(x: Array, dimensions: slice | int = slice(None)) -> tuple[str, ...]:
    """The mesh axes in the type that split these dimensions."""
    spec = tuple(jax.typeof(x).sharding.spec)[dimensions]
    return tuple(name for entry in (spec if isinstance(dimensions, slice) else (spec,)) for name in _names(entry))
