"""Rows whose entries are classes: labels, masks of labels, and sums over classes that devices may share."""

from functools import reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .compiler import cpu_sum_barrier, replicate_from_axis
from .types import AxisName

_FEW_CLASSES = 10
_MANY_ENTRIES = 2**14  # with half as many, a loss gains 0.15 ms at most, for a longer trace


def broadcast_class_weights(name: str, argument: str, class_weights: ArrayLike, x: Array, dtype: np.dtype) -> Array:
    """The class weights, broadcast to the rows."""
    weights = arguments.real(name, argument, class_weights).astype(dtype)
    arguments.same_shape(name, argument, weights, x.shape[-1:])
    return jnp.broadcast_to(replicate_from_axis(weights), x.shape)


def class_weight(
    name: str, class_weights: ArrayLike, labels: Array, classes: int, dtype: np.dtype, class_axis_name: AxisName | None
) -> Array:
    """The class weight of each label, without broadcasting the weights to the rows."""
    weights = arguments.real(name, "class_weights", class_weights).astype(dtype)
    arguments.same_shape(name, "class_weights", weights, (classes,))
    local = local_labels(labels, weights, class_axis_name)
    valid = in_range(local, classes)
    sharding = jax.typeof(labels).sharding
    if any(sharding.spec):  # an explicit mesh wants to know
        found = replicate_from_axis(weights).at[jnp.where(valid, local, 0)].get(out_sharding=sharding)
    else:
        found = weights[jnp.where(valid, local, 0)]
    if class_axis_name is not None:
        found = lax.psum(jnp.where(valid, found, 0), class_axis_name)
        valid = in_range(labels, num_classes(weights, class_axis_name))
    factor: Array = jnp.where(valid, found, jnp.nan)
    return factor


def in_range(labels: Array, classes: int) -> Array:
    return (labels >= 0) & (labels < classes)


def nan_unless(valid: Array, dtype: np.dtype) -> Array:
    """1 where valid, else NaN: a factor that makes a row and its derivatives NaN."""
    return jnp.where(valid, 1, jnp.nan).astype(dtype)


def one_hot_mask(labels: Array, x: Array) -> Array:
    """True at the label's entry of each row."""
    return lax.broadcasted_iota(labels.dtype, x.shape, x.ndim - 1) == labels[..., None]


def infinite_if_masked(losses: Array, labels: Array, classes: Array | None) -> Array:
    """The losses, infinite where the label's class is masked."""
    if classes is None:
        return losses
    label_is_unmasked = (one_hot_mask(labels, classes) & classes).any(-1)
    return jnp.where(label_is_unmasked | jnp.isnan(losses), losses, jnp.inf)


def has_many_entries(x: Array) -> bool:
    is_known = all(isinstance(size, int) for size in x.shape)  # an export may leave sizes open
    return is_known and x.size >= _MANY_ENTRIES


def class_sum(x: Array, class_axis_name: AxisName | None) -> Array:
    """The sum over the classes, which may be split over the mapped axis ``class_axis_name``.

    On a CPU, XLA's sum of a short row takes longer than a pass over it: there few classes are added one by one.
    """
    are_few = has_many_entries(x) and x.shape[-1] <= _FEW_CLASSES and not split_classes(x)
    total = lax.platform_dependent(x, cpu=_one_by_one, default=_at_once) if are_few else _at_once(x)
    return total if class_axis_name is None else lax.psum(total, class_axis_name)


def _at_once(x: Array) -> Array:
    return x.sum(-1)


def _one_by_one(x: Array) -> Array:
    columns = (lax.index_in_dim(x, c, x.ndim - 1, keepdims=False) for c in range(x.shape[-1]))
    total: Array = lax.optimization_barrier(reduce(add, columns))
    return total


def class_sum_of_formulas(x: Array, class_axis_name: AxisName | None) -> Array:
    """The same of entries that take many operations, which XLA would fuse into a sum of a few, and not vectorise."""
    total = cpu_sum_barrier(x.sum(-1))
    return total if class_axis_name is None else lax.psum(total, class_axis_name)


def class_max(x: Array, class_axis_name: AxisName | None) -> Array:
    """The maximum over the classes, likewise, without a derivative: for formulas that hold for any number."""
    top = lax.stop_gradient(x).max(-1)
    return top if class_axis_name is None else lax.pmax(top, class_axis_name)


def num_classes(x: Array, class_axis_name: AxisName | None) -> int:
    """The number of classes."""
    devices: int = 1 if class_axis_name is None else lax.axis_size(class_axis_name)
    return devices * x.shape[-1]


def local_labels(labels: Array, x: Array, class_axis_name: AxisName | None) -> Array:
    """The labels, counted from the first class that this device has."""
    return (
        labels
        if class_axis_name is None
        else labels - (x.shape[-1] * lax.axis_index(class_axis_name)).astype(labels.dtype)
    )


def one_hot_mask_of_shards(labels: Array, x: Array, class_axis_name: AxisName | None) -> Array:
    """`one_hot_mask` of classes that are split over devices."""
    return one_hot_mask(local_labels(labels, x, class_axis_name), x)


def take_label_of_shards(x: Array, labels: Array, class_axis_name: AxisName | None) -> Array:
    """`take_label` of classes that are split over devices."""
    if class_axis_name is None:
        return take_label(x, labels)
    local = local_labels(labels, x, class_axis_name)
    picked: Array = lax.psum(jnp.where(in_range(local, x.shape[-1]), take_label(x, local), 0), class_axis_name)
    return picked


def split_classes(x: Array) -> bool:
    """Whether the classes are sharded on an explicit mesh."""
    return jax.typeof(x).sharding.spec[-1] is not None


@jax.custom_jvp
def take_label(x: Array, labels: Array) -> Array:
    """x at the labels; anything for a label out of range."""
    if split_classes(x):
        return _pick_by_select(x, labels)
    picked: Array = lax.platform_dependent(x, labels, cpu=_pick_by_gather, default=_pick_by_select)
    return picked


def _pick_by_select(x: Array, labels: Array) -> Array:
    return jnp.where(one_hot_mask(labels, x), x, 0).sum(-1)


def _pick_by_gather(x: Array, labels: Array) -> Array:
    labels = jnp.clip(labels, 0, x.shape[-1] - 1)
    return jnp.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


@take_label.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    # The transpose of a gather would be a scatter, which explicit meshes refuse.
    select = jax.checkpoint(_pick_by_select, prevent_cse=False)
    return take_label(*primals), cpu_sum_barrier(select(tangents[0], primals[1]))


# Several indices a row.


def is_named(indices: Array, x: Array, class_axis_name: AxisName | None) -> Array:
    """True at the entries of rows x that an index names; what is out of range names none."""
    named = jnp.zeros_like(x, bool)
    if indices.shape[-1] > 16:
        return set_classes(named, indices, jnp.ones_like(indices, bool), class_axis_name)
    # Comparisons are fused into what reads them: no array of a chunk's classes, which a scatter writes.
    local = local_labels(indices, x, class_axis_name)
    entry = lax.broadcasted_iota(local.dtype, x.shape, x.ndim - 1)
    return reduce(lambda named, j: named | (entry == local[..., j, None]), range(indices.shape[-1]), named)


def set_classes(x: Array, indices: Array, values: Array, class_axis_name: AxisName | None) -> Array:
    """Rows x with the values at the indices, each of which a row has once; what is out of range names no entry."""
    local = local_labels(indices, x, class_axis_name)
    if not local.shape[-1]:
        return x
    if any(jax.typeof(x).sharding.spec):  # an explicit mesh refuses a scatter
        entry = lax.broadcasted_iota(local.dtype, x.shape, x.ndim - 1)
        named = (jnp.moveaxis(array, -1, 0)[..., None] for array in (local, values))
        return reduce(lambda x, pair: jnp.where(entry == pair[0], pair[1], x), zip(*named, strict=True), x)
    # Not a comparison of all entries with all indices, which XLA keeps in memory where there are many. What is out of
    # range does again what another index does, or leaves the first entry as it is: checkify refuses to drop it.
    valid = in_range(local, x.shape[-1])
    other = valid.argmax(-1, keepdims=True)
    local, values = (jnp.where(valid, a, jnp.take_along_axis(a, other, -1)) for a in (local, values))
    any_valid = valid.any(-1, keepdims=True)
    local, values = jnp.where(any_valid, local, 0), jnp.where(any_valid, values.astype(x.dtype), x[..., :1])
    flat, local, values = (a.reshape(-1, a.shape[-1]) for a in (x, local, values))
    row = lax.broadcasted_iota(local.dtype, local.shape, 0)
    return flat.at[row, local].set(values).reshape(x.shape)


def take_classes(x: Array, indices: Array, class_axis_name: AxisName | None) -> Array:
    """The entries of rows at the indices; anything for what is out of range."""
    local = local_labels(indices, x, class_axis_name)
    taken = _take(x, local)
    if class_axis_name is None:
        return taken
    summed: Array = lax.psum(jnp.where(in_range(local, x.shape[-1]), taken, 0), class_axis_name)
    return summed


def _take_by_select(x: Array, indices: Array) -> Array:
    entry = lax.broadcasted_iota(indices.dtype, x.shape, x.ndim - 1)
    each = [jnp.where(entry == indices[..., j, None], x, 0).sum(-1) for j in range(indices.shape[-1])]
    return jnp.stack(each, -1)


def _take_by_gather(x: Array, indices: Array) -> Array:
    return jnp.take_along_axis(x, jnp.clip(indices, 0, x.shape[-1] - 1), axis=-1)


@jax.custom_jvp
def _take(x: Array, indices: Array) -> Array:
    if split_classes(x):
        return _take_by_select(x, indices)
    return _take_by_gather(x, indices)


@_take.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    x, indices = primals
    if any(jax.typeof(x).sharding.spec):  # it refuses a scatter, the transpose of a gather
        return _take(x, indices), jax.checkpoint(_take_by_select, prevent_cse=False)(tangents[0], indices)
    return _take(x, indices), _take_by_gather(tangents[0], indices)
