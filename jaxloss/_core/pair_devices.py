"""Pairs that are split over devices, by an explicit mesh or a mapped axis: each device meets all references."""

import math
from collections.abc import Callable
from functools import partial
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


def _travels(plan: Plan, queries: Any) -> bool:
    """Whether the loss allows references to travel round the devices, and a device has enough queries."""
    return plan.is_sum and isinstance(queries, int) and queries >= _TRAVEL


def _meet(plan: Plan, pairs: Pairs, axes: AxisName | None) -> tuple[Plan, Pairs]:
    """Has references travel round the devices of mapped axes, or gathers them."""
    if not axes:
        return plan, pairs
    if _travels(plan, pairs.queries.shape[0]):
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
    """``local`` (plan, pairs, weight, axes) of all queries, or of a device's: then with the axes that split them.

    On an explicit mesh references travel round the devices, or else the mesh is an automatic one within the loop.
    """
    spec, from_spec = (jax.typeof(x).sharding.spec for x in (pairs.queries, pairs.references))
    if not any(spec) and not any(from_spec):
        rows, columns, weight = jax.tree.map(replicate_from_axis, (pairs.rows, pairs.columns, weight))
        pairs = pairs._replace(rows=rows, columns=columns)
        return local(*_meet(plan, pairs, axis_name), weight, ())
    _, pairs = _meet(plan._replace(is_sum=False), pairs, axis_name)  # a ring is of one kind of axes
    like = pairs.queries if any(spec) else pairs.references
    mesh, axes = jax.typeof(like).sharding.mesh, _axes(spec[0])
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(name for name, kind in kinds if kind == jax.sharding.AxisType.Explicit)
    of_rows, of_all = P(axes or None), P()
    out_specs = of_rows if weight is None else of_all, of_rows
    queries_of_device = pairs.queries.shape[0] // math.prod(mesh.shape[axis] for axis in axes)
    found: tuple[Array, Any]
    if axis_name is not None or axes != _axes(from_spec[0]) or not _travels(plan, queries_of_device):
        shardings = jax.tree.map(partial(jax.sharding.NamedSharding, mesh), out_specs)
        automatic = jax.sharding.auto_axes(partial(local, plan, axes=()), axes=explicit, out_sharding=shardings)
        found = automatic(pairs, weight)
        return found
    specs = jax.tree.map(lambda _: of_rows, pairs)._replace(numbers=jax.tree.map(lambda _: of_all, pairs.numbers))
    in_specs = specs, None if weight is None else of_rows
    ring = partial(local, plan._replace(devices=1, ring=axes), axes=axes)
    mapped = jax.shard_map(ring, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=set(explicit))
    found = mapped(*jax.tree.map(lambda x, spec: reshard(x, spec, like), (pairs, weight), in_specs))
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
