"""Pairs that are split over devices, by an explicit mesh or a mapped axis: each device meets all references."""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from . import arguments
from .compiler import replicate_from_axis, reshard
from .masks import Mask
from .pairs import Pairs, Plan, loss_of_each, narrowed, weighted_sum
from .types import AxisName, Reduction


def reduced(
    plan: Plan, pairs: Pairs, mask: Mask, reduction: Reduction, axis_name: AxisName | None = None
) -> tuple[Array, Any]:
    """The losses or what they reduce to, and the arrays without derivative.

    Where devices split the queries, each has its own beside all references.
    """
    shape, dtype = pairs.queries.shape[:1], arguments.compute_dtype(pairs.queries, pairs.references)
    weight = None if reduction == "none" else mask.example_weights(shape, dtype, reduction, axis_name)

    def local(plan: Plan, pairs: Pairs, weight: Array | None, axes: tuple[str, ...]) -> tuple[Array, Any]:
        if weight is None:
            return loss_of_each(plan, pairs)
        found, aux = weighted_sum(plan, pairs, weight)
        return lax.psum(found, axes) if axes else found, aux

    found, aux = over_devices(plan, local, pairs, weight, axis_name)
    if weight is None:
        return mask.reduce(found, reduction), aux
    return found if axis_name is None else lax.psum(found, axis_name), aux


_TRAVEL = 512  # pairs of a device: products of as many keep it busy while the next ones arrive


def _meet(plan: Plan, pairs: Pairs, axes: AxisName | None) -> tuple[Plan, Pairs]:
    """Has references travel round the devices, if the loss allows it and each device has many; else gathers them."""
    if not axes:
        return plan, pairs
    n = pairs.queries.shape[0]
    if plan.is_sum and isinstance(n, int) and n >= _TRAVEL:
        return plan._replace(ring=axes), pairs
    references, columns = lax.all_gather((narrowed(plan, pairs.references), pairs.columns), axes, tiled=True)
    return plan, pairs._replace(references=references, columns=columns)


def over_devices(
    plan: Plan,
    local: Callable[..., tuple[Array, Any]],
    pairs: Pairs,
    weight: Array | None,
    axis_name: AxisName | None = None,
) -> tuple[Array, Any]:
    """``local`` (plan, pairs, weight, axes) on each device of a mapped axis or an explicit mesh, with its queries and
    all references; and the axes of the mesh that split the queries.
    """
    spec, from_spec = (jax.typeof(x).sharding.spec for x in (pairs.queries, pairs.references))
    if not any(spec) and not any(from_spec):
        rows, columns, weight = jax.tree.map(replicate_from_axis, (pairs.rows, pairs.columns, weight))
        pairs = pairs._replace(rows=rows, columns=columns)
        return local(*_meet(plan, pairs, axis_name), weight, ())
    _, pairs = _meet(plan._replace(is_sum=False), pairs, axis_name)
    axes = _axes(spec[0])
    gathered = axes if _axes(from_spec[0]) == axes else ()  # what is split otherwise is replicated before
    like = pairs.queries if any(spec) else pairs.references
    mesh = jax.typeof(like).sharding.mesh
    of_rows, of_columns = P(axes or None), P(gathered or None)

    def on_device(pairs: Pairs, weight: Array | None) -> tuple[Array, Any]:
        alone = axis_name is None  # a ring is of one kind of axes
        return local(*_meet(plan._replace(devices=1, is_sum=plan.is_sum and alone), pairs, gathered), weight, axes)

    specs = Pairs(
        of_rows,
        of_columns,
        jax.tree.map(lambda _: of_rows, pairs.rows),
        jax.tree.map(lambda _: of_columns, pairs.columns),
        jax.tree.map(lambda _: P(), pairs.numbers),
    )
    in_specs = specs, None if weight is None else of_rows
    arrays: tuple[Pairs, Array | None] = jax.tree.map(lambda x, spec: reshard(x, spec, like), (pairs, weight), in_specs)
    if not axes and not gathered:
        return local(plan, *arrays, ())
    out_specs = P() if weight is not None else of_rows, of_rows
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    names = {name for name, kind in kinds if kind == jax.sharding.AxisType.Explicit}
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=names)
    found: tuple[Array, Any] = mapped(*arrays)
    return found


def _axes(entry: Any) -> tuple[str, ...]:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def sharded_alike(q: Array, r: Array) -> tuple[Array, Array]:
    """Two arrays of one shape, on an explicit mesh split as the first one is that is split along its rows."""
    specs = [jax.typeof(x).sharding.spec for x in (q, r)]
    if not any(any(spec) for spec in specs):
        return q, r
    rows = next((spec[0] for spec in specs if spec[0] is not None), None)
    like = q if any(specs[0]) else r
    return reshard(q, P(rows, None), like), reshard(r, P(rows, None), like)
