"""On a mesh: which tokens and classes are a device's own, what it gathers before the loop, what it adds up after it.

Where the axes of the mesh are part of the types, `split` says so. Tokens stay split as hidden is, and classes as the
weight is. What else splits a weight is gathered, once, and its gradient is added up and split again in one step. Along
an axis that splits both tokens and classes, the smaller of hidden and weight is gathered.

On an automatic mesh only the compiler knows. It follows one hint, see `whole_features`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from ._head import Head, Plan, Tokens

Axes = tuple[str, ...]


class Part(NamedTuple):
    """A device's part of an array, and the mesh axes over which the device then gathers each dimension."""

    spec: P
    gathered: tuple[Axes, ...]


class Split(NamedTuple):
    """What each device has of the tokens and the classes."""

    mesh: Any
    token: P  # of the tokens' dimensions
    token_axes: Axes
    class_axes: Axes
    heads: tuple[Head, ...]  # of Part


def split(plan: Plan, heads: tuple[Head, ...], arrays: Any) -> Split | None:
    """None where no axis of a mesh is part of the types of the heads, nor of arrays of tokens."""
    leaves = jax.tree.leaves((heads, arrays))
    if not any(axes for x in leaves for axes in _axes(x)):
        return None
    first, mesh = heads[0], next(m for x in leaves if not (m := jax.typeof(x).sharding.mesh).empty)
    tokens, classes = list(_axes(first.hidden)[:-1]), _axes(first.weight)[plan.class_axes[0]]
    if shared := {a for a in classes if any(a in axes for axes in tokens)}:
        token_split = {a for axes in tokens for a in axes} - shared
        token_bytes = _bytes([head.hidden for head in heads]) / math.prod(mesh.shape[a] for a in token_split)
        class_bytes = _bytes([head.weight for head in heads]) / math.prod(mesh.shape[a] for a in {*classes} - shared)
        if token_bytes < class_bytes:
            tokens = [tuple(a for a in axes if a not in shared) for axes in tokens]
        else:
            classes = tuple(a for a in classes if a not in shared)
    token_axes = tuple(a for axes in tokens for a in axes)
    # Gathering in a shard_map within another does not compile (JAX 0.10 to 0.12): there arrays are resharded before.
    nested = AxisType.Manual in mesh.axis_types

    def of_head(head: Head, class_axis: int) -> Head:
        weight = ((), classes) if class_axis == 1 else (classes, ())
        bias = None if head.bias is None else Part(P(classes or None), ((),))
        hidden = _part(head.hidden, (*tokens, ()), () if nested else classes)
        return Head(hidden, _part(head.weight, weight, () if nested else token_axes), bias)  # type: ignore[arg-type]

    return Split(
        mesh=mesh,
        token=_spec(tokens),
        token_axes=token_axes,
        class_axes=classes,
        heads=tuple(map(of_head, heads, plan.class_axes)),
    )


def _part(x: Array, left: tuple[Axes, ...], may_gather: Axes) -> Part:
    """The part of x that a device has, if ``left`` is how dimensions have to be split after it has gathered.

    A dimension that is split so and then further is gathered by the devices. Any other one is resharded before.
    """
    gathered = tuple(
        axes[len(kept) :] if axes[: len(kept)] == kept and {*axes[len(kept) :]} <= {*may_gather} else ()
        for axes, kept in zip(_axes(x), left, strict=True)
    )
    return Part(_spec([(*kept, *more) for kept, more in zip(left, gathered, strict=True)]), gathered)


def _spec(dimensions: Any) -> P:
    return P(*(axes or None for axes in dimensions))


def _bytes(arrays: list[Array]) -> float:
    """Of all; infinitely many if a size is a symbol, as in `jax.export`."""
    known = all(isinstance(size, int) for a in arrays for size in a.shape)
    return sum(a.size * a.dtype.itemsize for a in arrays) if known else math.inf


def _axes(x: Array) -> tuple[Axes, ...]:
    """The mesh axes in the type that split each dimension."""
    return tuple(axis_names(entry) for entry in jax.typeof(x).sharding.spec)


def axis_names(entry: Any) -> Axes:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def on_devices(
    plan: Plan,
    split: Split,
    function: Callable[..., Any],
    heads: tuple[Head, ...],
    arrays: tuple[Any, ...],
    out_specs: Any,
) -> Any:
    """The function of the plan, the heads and arrays of tokens, on each device with its part and what it gathers.

    The first of the arrays are those that a loss depends on, `Tokens`.
    """
    class_axes = (*axis_names(plan.class_axis_name), *split.class_axes)
    local_plan = plan._replace(class_axis_name=class_axes or None)

    def local(heads: tuple[Head, ...], arrays: Any) -> Any:
        return function(local_plan, _gather(split, heads), *arrays)

    specs = head_specs(split), (token_specs(plan, split, arrays[0]), *jax.tree.map(lambda _: split.token, arrays[1:]))
    arguments = jax.tree.map(lambda x, spec: reshard(x, NamedSharding(split.mesh, spec)), (heads, arrays), specs)
    axes = {*split.token_axes, *split.class_axes}
    if not axes:  # all is gathered
        return local(*arguments)
    mapped = jax.shard_map(local, mesh=split.mesh, in_specs=specs, out_specs=out_specs, axis_names=axes)
    return mapped(*arguments)


def token_specs(plan: Plan, split: Split, tokens: Tokens) -> tuple[Any, ...]:
    of_classes = P(*split.token, split.class_axes or None)
    specs = (of_classes if i in plan.rows.class_tokens else split.token for i in range(len(tokens)))
    return tuple(None if x is None else spec for x, spec in zip(tokens, specs, strict=True))


def head_specs(split: Split) -> Any:
    return jax.tree.map(lambda part: part.spec, split.heads, is_leaf=_is_part)


def _is_part(x: Any) -> bool:
    return isinstance(x, Part)


def _gather(split: Split, heads: tuple[Head, ...]) -> tuple[Head, ...]:
    """On a device: the tokens and classes with which it computes."""

    def gathered(part: Part, x: Array) -> Array:
        for dimension, axes in enumerate(part.gathered):
            x = lax.all_gather(x, axes, axis=dimension, tiled=True) if axes else x
        return x

    found: tuple[Head, ...] = jax.tree.map(gathered, split.heads, heads, is_leaf=_is_part)
    return found


def add_up(plan: Plan, split: Split | None, ct_heads: tuple[Head, ...]) -> tuple[Head, ...]:
    """On a device: its part of the gradients, added up over the devices that have other classes or other tokens."""
    class_axes = axis_names(plan.class_axis_name)
    token_axes = () if split is None else split.token_axes
    parts = tuple(Head(None, None, None) for _ in ct_heads) if split is None else split.heads  # type: ignore[arg-type]

    def added(gradient: Array | None, part: Part | None, axes: Axes) -> Array | None:
        if gradient is None:
            return None
        for dimension, gathered in enumerate(() if part is None else part.gathered):
            for axis in gathered:  # in turn: over several at once, compilers for TPUs add up all and then take a part
                gradient = lax.psum_scatter(gradient, axis, scatter_dimension=dimension, tiled=True)
            axes = tuple(a for a in axes if a not in gathered)
        return lax.psum(gradient, axes) if axes else gradient

    return tuple(
        Head(*map(added, ct_head, part, (class_axes, token_axes, token_axes)))  # type: ignore[arg-type]
        for ct_head, part in zip(ct_heads, parts, strict=True)
    )


def shard_tokens(arrays: Any, heads: tuple[Head, ...]) -> Any:
    """Arrays of tokens, split as hidden is."""
    sharding = jax.typeof(heads[0].hidden).sharding
    return jax.tree.map(lambda a: reshard(a, NamedSharding(sharding.mesh, P(*sharding.spec[:-1]))), arrays)


def automatic_mesh(heads: tuple[Head, ...]) -> tuple[Any, int]:
    """The mesh, and over how many devices its automatic axes go: only the compiler knows what they split."""
    meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(heads)] + [jax.sharding.get_abstract_mesh()]
    mesh = next((m for m in meshes if not m.empty), meshes[-1])
    kinds = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return mesh, math.prod(size for size, kind in kinds if kind == AxisType.Auto)


def whole_features(heads: tuple[Head, ...], class_axes: tuple[int, ...]) -> tuple[Head, ...]:
    """The heads, with the features of each weight on all devices of an automatic mesh, wherever its classes are.

    A loop would gather a weight that is split along its features, as fully sharded parameters are, in each step, and
    add up its gradient in each step.
    """
    mesh, devices = automatic_mesh(heads)

    def whole(head: Head, class_axis: int) -> Head:
        spec = P(None, P.UNCONSTRAINED) if class_axis == 1 else P(P.UNCONSTRAINED, None)
        return head._replace(weight=lax.with_sharding_constraint(head.weight, NamedSharding(mesh, spec)))

    return tuple(
        head if head.weight is None or devices == 1 else whole(head, axis)
        for head, axis in zip(heads, class_axes, strict=True)
    )
