"""The prologues of losses over classes or features: from the arguments of a call to rows and a mask."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import arguments
from .classes import broadcast_class_weights, in_range, take_label
from .compiler import shard_like
from .masks import Mask, prepare_mask
from .types import Axis


def as_rows(x: Array, axes: tuple[int, ...]) -> Array:
    """x with the class axes moved to the end and flattened."""
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    return x if len(axes) == 1 else x.reshape(*x.shape[: -len(axes)], math.prod(x.shape[-len(axes) :]))


def prepare_logits(
    name: str,
    argument: str,
    logits: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    kind: Callable[[str, str, ArrayLike], Array] = arguments.floating,
) -> tuple[Array, Array | None, ArrayLike | None, tuple[int, ...]]:
    """The logits as rows, the mask of classes as rows, the mask of examples, the class axes."""
    x = kind(name, argument, logits)
    axes = arguments.class_axes(name, axis, x.shape)
    if where is None or jnp.ndim(where) < x.ndim:
        return as_rows(x, axes), None, where, axes
    classes = arguments.broadcast(name, "where", arguments.boolean(name, "where", where), x.shape)
    return as_rows(x, axes), as_rows(classes, axes), None, axes


def defer_upcast(x: Array, dtype: np.dtype) -> Array:
    """x unchanged, to be upcast where it is used; integers, and anything beside float64, are cast now."""
    return x.astype(dtype) if np.float64 in (dtype, x.dtype) or not jnp.issubdtype(x.dtype, np.floating) else x


def per_example_option(
    name: str, argument: str, value: ArrayLike, mask: Mask, shape: tuple[int, ...], dtype: np.dtype
) -> Array:
    """An option, broadcast to the examples, with a harmless number in masked ones."""
    return mask.fill_options(
        arguments.broadcast(name, argument, arguments.hyperparameter(name, argument, value, dtype), shape)
    )


def is_finite_row(x: Array) -> Array:
    """Whether all entries of a row are finite."""
    return jnp.isfinite(x).all(-1)


def prepare_indexed(
    name: str,
    argument: str,
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    class_weights: ArrayLike | None = None,
    kind: Callable[[str, str, ArrayLike], Array] = arguments.floating,
) -> tuple[Array, Array, Mask]:
    """The prologue of losses with integer labels: the rows, the labels, the mask."""
    x, classes, where, axes = prepare_logits(name, argument, logits, axis, where, kind)
    dtype, shape = arguments.compute_dtype(x), x.shape[:-1]
    y = arguments.class_indices(name, labels, argument, jnp.shape(logits), axes)
    y = arguments.fill_row_targets(name, "labels", y, x)
    arguments.same_sharding(name, "labels", y, jax.typeof(x).sharding.spec[:-1])
    mask = prepare_mask(name, where, weights, shape, dtype)._replace(classes=classes)
    usable = in_range(y, x.shape[-1])
    if class_weights is not None:
        factor = jnp.where(
            usable, take_label(broadcast_class_weights(name, "class_weights", class_weights, x, dtype), y), jnp.nan
        )
        mask = mask.weigh(mask.fill_options(factor))
    y, mask = shard_like(x, (y, mask.without_empty_rows().exclude(usable)))
    return defer_upcast(x, dtype), y, mask


def prepare_rows(
    name: str,
    names: tuple[str, str],
    predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    kind: Callable[[str, str, ArrayLike], Array] = arguments.floating,
) -> tuple[Array, Array, Mask]:
    """The prologue of losses of two rows: both, and the mask."""
    array, t = kind(name, names[0], predictions), arguments.real(name, names[1], targets)
    x, classes, where, axes = prepare_logits(name, names[0], array, axis, where, kind)
    fill = arguments.fill_class_targets if names[1] == "labels" else arguments.fill_target
    t = as_rows(fill(name, names[1], t, array), axes)
    arguments.same_sharding(name, names[1], t, jax.typeof(x).sharding.spec)
    dtype = arguments.compute_dtype(x, t)
    mask = prepare_mask(name, where, weights, x.shape[:-1], dtype)._replace(classes=classes)
    t, mask = shard_like(x, (t, mask.without_empty_rows().exclude()))
    return defer_upcast(x, dtype), t, mask
