"""Losses over classes or features: from the arguments of a call to rows, and what all of them share."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import _inputs
from ._reduction import excluding, merge, weigh
from ._types import Axis, AxisName


def rows(x: Array, axes: tuple[int, ...]) -> Array:
    """x with the class axes at the end, in that order, as one."""
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return x if len(axes) == 1 else x.reshape(*x.shape[: -len(axes)], math.prod(x.shape[-len(axes) :]))


def prologue(
    name: str,
    argument: str,
    logits: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    kind: Callable[[str, str, ArrayLike], Array] = _inputs.floating,
) -> tuple[Array, Array | None, ArrayLike | None, tuple[int, ...]]:
    """The logits as rows, the mask of classes as rows, the mask of examples, the class axes."""
    x = kind(name, argument, logits)
    axes = _inputs.class_axes(name, axis, x.shape)
    if where is None or jnp.ndim(where) < x.ndim:
        return rows(x, axes), None, where, axes
    classes = _inputs.broadcast(name, "where", _inputs.boolean(name, "where", where), x.shape)
    return rows(x, axes), rows(classes, axes), None, axes


def wide(x: Array, dtype: np.dtype) -> Array:
    """x as it is, to be widened where it is used, save what an input in float64 asks for, and integers."""
    return x.astype(dtype) if np.float64 in (dtype, x.dtype) or not jnp.issubdtype(x.dtype, np.floating) else x


def table(name: str, argument: str, class_weights: ArrayLike, x: Array, dtype: np.dtype) -> Array:
    """The class weights, in every row."""
    weights = _inputs.real(name, argument, class_weights).astype(dtype)
    _inputs.same_shape(name, argument, weights, x.shape[-1:])
    return jnp.broadcast_to(whole(weights), x.shape)


def of_each(
    name: str, argument: str, value: ArrayLike, kept: Array | None, shape: tuple[int, ...], dtype: np.dtype
) -> Array:
    """An option for each example, harmless where that is excluded."""
    number = _inputs.broadcast(name, argument, _inputs.hyperparameter(name, argument, value, dtype), shape)
    return number if kept is None else jnp.where(kept, number, 1)


def whole(x: Array, axis: int = 0) -> Array:
    """x, from that axis on not split over the devices of an explicit mesh."""
    spec = jax.typeof(x).sharding.spec
    if not any(spec[axis:]):
        return x
    gathered: Array = jax.sharding.reshard(x, jax.sharding.PartitionSpec(*spec[:axis], *[None] * (x.ndim - axis)))
    return gathered


def class_weight(
    name: str, class_weights: ArrayLike, labels: Array, classes: int, dtype: np.dtype, across: AxisName | None
) -> Array:
    """The class weight of each label, without a table in every row."""
    weights = _inputs.real(name, "class_weights", class_weights).astype(dtype)
    _inputs.same_shape(name, "class_weights", weights, (classes,))
    mine = here(labels, weights, across)
    valid = in_range(mine, classes)
    sharding = jax.typeof(labels).sharding
    if any(sharding.spec):  # an explicit mesh wants to know
        found = whole(weights).at[jnp.where(valid, mine, 0)].get(out_sharding=sharding)
    else:
        found = weights[jnp.where(valid, mine, 0)]
    if across is not None:
        found = lax.psum(jnp.where(valid, found, 0), across)
        valid = in_range(labels, count(weights, across))
    factor: Array = jnp.where(valid, found, jnp.nan)
    return factor


def any_left(kept: Array | None, classes: Array | None) -> Array | None:
    """An example without any class left is excluded."""
    if classes is None:
        return kept
    return classes.any(-1) if kept is None else kept & classes.any(-1)


def is_finite(x: Array) -> Array:
    """Whether a row is finite."""
    return jnp.isfinite(x).all(-1)


def removed_as(value: float, x: Array, kept: Array | None, classes: Array | None) -> Array:
    """x with that value in the entries and in the rows that a mask removes."""
    if classes is not None:
        x = jnp.where(classes, x, value)
    return x if kept is None else jnp.where(kept[..., None], x, value)


def labelled(
    name: str,
    argument: str,
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    class_weights: ArrayLike | None = None,
    kind: Callable[[str, str, ArrayLike], Array] = _inputs.floating,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    """Rows with an integer label each: the rows, the labels, the mask of classes, the mask and weight of each row."""
    x, classes, where, axes = prologue(name, argument, logits, axis, where, kind)
    dtype, shape = _inputs.compute_dtype(x), x.shape[:-1]
    y = _inputs.class_indices(name, labels, argument, jnp.shape(logits), axes)
    y = y if y.ndim or not shape else jnp.full_like(x[..., 0], y, y.dtype)
    _inputs.same_sharding(name, "labels", y, jax.typeof(x).sharding.spec[:-1])
    kept, weight = merge(name, where, weights, shape, dtype)
    usable = in_range(y, x.shape[-1])
    if class_weights is not None:
        factor = jnp.where(usable, pick(table(name, "class_weights", class_weights, x, dtype), y), jnp.nan)
        factor = factor if kept is None else jnp.where(kept, factor, 1)
        weight = factor if weight is None else weigh(weight, factor)
    kept, weight = excluding(any_left(kept, classes), weight, usable)
    return wide(x, dtype), y, classes, kept, weight


def paired(
    name: str,
    arguments: tuple[str, str],
    predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    kind: Callable[[str, str, ArrayLike], Array] = _inputs.floating,
) -> tuple[Array, Array, Array | None, Array | None, Array | None]:
    """Two rows each: both, the mask of classes, the mask and weight of each row."""
    given, t = kind(name, arguments[0], predictions), _inputs.real(name, arguments[1], targets)
    x, classes, where, axes = prologue(name, arguments[0], given, axis, where, kind)
    fill = _inputs.of_classes if arguments[1] == "labels" else _inputs.filling
    t = rows(fill(name, arguments[1], t, given), axes)
    _inputs.same_sharding(name, arguments[1], t, jax.typeof(x).sharding.spec)
    dtype = _inputs.compute_dtype(x, t)
    kept, weight = merge(name, where, weights, x.shape[:-1], dtype)
    kept, weight = excluding(any_left(kept, classes), weight)
    return wide(x, dtype), t, classes, kept, weight


def apart(*arrays: Array) -> tuple[Array, ...]:
    """The same arrays, behind which the compiler may not look on a CPU.

    There XLA has a fast sum over rows, of plain arithmetic without comparisons. It is several times slower if a number
    for each row is computed in front of it, or what follows it is fused into it; and what two sums have in common, be
    it a constant, is written to memory, which may take longer than all the sums. So a sum, and what goes into one of
    several, stands apart.
    """
    return tuple(lax.platform_dependent(a, cpu=lax.optimization_barrier, default=lambda a: a) for a in arrays)


def of_type(others: Any, arrays: Any) -> Any:
    """The arrays, in a shard_map varying over each axis that another array varies over.

    The first carry of a scan must have the type of the next one. And what JAX makes varying inside of a loop it sums
    over the devices inside of the transposed loop, each time.
    """
    empty = (lax.stop_gradient(a)[:0].sum().astype(np.float32) for a in jax.tree.leaves(others) if a.ndim)
    one = 1 + sum(empty, jnp.zeros((), np.float32))
    return jax.tree.map(lambda a: a * one.astype(a.dtype), arrays)


def in_range(labels: Array, classes: int) -> Array:
    return (labels >= 0) & (labels < classes)


def nan_unless(valid: Array, dtype: np.dtype) -> Array:
    """1, or NaN: what makes a row and its derivatives NaN by multiplication."""
    return jnp.where(valid, 1, jnp.nan).astype(dtype)


def at(labels: Array, x: Array) -> Array:
    """True at the label's entry of each row."""
    return lax.broadcasted_iota(labels.dtype, x.shape, x.ndim - 1) == labels[..., None]


def infinite_if_removed(losses: Array, labels: Array, classes: Array | None) -> Array:
    """The losses, infinite where the label's class is removed."""
    if classes is None:
        return losses
    there = (at(labels, classes) & classes).any(-1)
    return jnp.where(there | jnp.isnan(losses), losses, jnp.inf)


def summed(x: Array, across: AxisName | None) -> Array:
    """The sum over the classes, of which each device on the axis ``across`` has some."""
    return x.sum(-1) if across is None else lax.psum(x.sum(-1), across)


def largest(x: Array, across: AxisName | None) -> Array:
    """The maximum over the classes, likewise: a constant, for formulas that any number in its place leaves the same."""
    top = lax.stop_gradient(x).max(-1)
    return top if across is None else lax.pmax(top, across)


def count(x: Array, across: AxisName | None) -> int:
    """The number of classes."""
    devices: int = 1 if across is None else lax.axis_size(across)
    return devices * x.shape[-1]


def here(labels: Array, x: Array, across: AxisName | None) -> Array:
    """The labels, counted from the first class that this device has."""
    return labels if across is None else labels - (x.shape[-1] * lax.axis_index(across)).astype(labels.dtype)


def pick_across(x: Array, labels: Array, across: AxisName | None) -> Array:
    """`pick`, where each device has some of the classes."""
    if across is None:
        return pick(x, labels)
    mine = here(labels, x, across)
    picked: Array = lax.psum(jnp.where(in_range(mine, x.shape[-1]), pick(x, mine), 0), across)
    return picked


def split_classes(x: Array) -> bool:
    """Whether the type says that the classes are sharded, as on an explicit mesh."""
    return jax.typeof(x).sharding.spec[-1] is not None


@jax.custom_jvp
def pick(x: Array, labels: Array) -> Array:
    """x at the labels; of a label out of range, anything."""
    if split_classes(x):
        return _pick_by_select(x, labels)
    picked: Array = lax.platform_dependent(x, labels, cpu=_pick_by_gather, default=_pick_by_select)
    return picked


def _pick_by_select(x: Array, labels: Array) -> Array:
    return jnp.where(at(labels, x), x, 0).sum(-1)


def _pick_by_gather(x: Array, labels: Array) -> Array:
    labels = jnp.clip(labels, 0, x.shape[-1] - 1)
    return jnp.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


@pick.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    # The transpose of a gather would be a scatter, which explicit meshes refuse.
    select = jax.checkpoint(_pick_by_select, prevent_cse=False)
    return pick(*primals), select(tangents[0], primals[1])
