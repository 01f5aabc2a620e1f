"""The prologues of elementwise losses, and of their sums over an axis, and how such losses get a derivative."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import arguments
from .compiler import shard_like
from .derivatives import custom_derivative, recompute_in_backward
from .masks import Mask, prepare_mask
from .types import Axis, Reduction

Kind = Callable[[str, str, Any], Array]
OPTIONAL = (arguments.floating, arguments.optional_target)
"""The kinds of predictions and of targets that may be omitted, as in optax."""


class Terms(NamedTuple):
    """A loss that is a sum: the mask of single terms, the axes, and where a weight is 0, in the rank of the terms."""

    entries: Array | None
    axes: tuple[int, ...]
    unweighted: Array | None = None

    def total(self, terms: Array) -> Array:
        """The sum of the unmasked terms."""
        return (terms if self.entries is None else jnp.where(self.entries, terms, 0)).sum(self.axes)


def elementwise(
    formula: Callable[..., Array],
    slopes: Callable[..., tuple[Array | None, ...]] | None = None,
    *,
    infinite: tuple[int, ...] = (),
) -> Callable[..., Array]:
    """The formula on arguments cast to the dtype of the loss, with a derivative that saves the arguments alone.

    Without ``slopes``, the partial derivatives by each argument, JAX differentiates the formula. ``infinite`` are the
    positions of the arguments whose slopes may be infinite.
    """

    def widened(*args: Array) -> list[Array]:
        dtype = arguments.compute_dtype(*args)
        return [a.astype(dtype) for a in args]

    if slopes is None:
        return recompute_in_backward(lambda *args: formula(*widened(*args)))

    def forward(*args: Array) -> tuple[Array, tuple[Array, ...]]:
        return formula(*widened(*args)), args

    def backward(saved: tuple[Array, ...], g: Array) -> tuple[Array | None, ...]:
        return tuple(None if slope is None else g * slope for slope in slopes(*widened(*saved)))

    return custom_derivative(forward, backward, infinite=infinite)


def of_error(
    loss: Callable[..., Array], slopes: Callable[..., tuple[Array, ...]] | None = None
) -> Callable[..., Array]:
    """A loss of predictions and targets from one of their difference, by which ``slopes`` are, and by the options."""

    def formula(p: Array, t: Array, *options: Array) -> Array:
        return loss(p - t, *options)

    if slopes is None:
        return elementwise(formula)

    def slopes_of_both(p: Array, t: Array, *options: Array) -> tuple[Array, ...]:
        slope, *option_slopes = slopes(p - t, *options)
        return slope, -slope, *option_slopes

    return elementwise(formula, slopes_of_both)


def _kinds(name: str, arrays: Mapping[str, ArrayLike | None], kinds: tuple[Kind, ...]) -> list[Array]:
    """The arrays, checked to have the shape of the first."""
    checked: list[Array] = []
    for (argument, value), kind in zip(arrays.items(), kinds, strict=True):
        if value is None and kind is arguments.optional_target:
            checked.append(jnp.zeros_like(checked[0]))
            continue
        array = kind(name, argument, value)
        checked.append(arguments.fill_target(name, argument, array, checked[0]) if checked else array)
    return checked


def _first_sharded(arrays: list[Array]) -> Array:
    """The first array that an explicit mesh splits, or the first one."""
    return next((x for x in arrays if any(jax.typeof(x).sharding.spec)), arrays[0])


def _option(name: str, argument: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """A hyperparameter: a scalar unchanged, an array broadcast to the loss."""
    array = arguments.hyperparameter(name, argument, value, dtype)
    return array if array.ndim == 0 else arguments.broadcast(name, argument, array, shape)


def _harmless(x: Array, mask: Array | None, kind: Kind) -> Array:
    """x with 1/2 in masked entries, 1 for integers and signs: there every loss and derivative is finite."""
    if mask is None or x.ndim == 0 < mask.ndim:
        return x
    half = jnp.issubdtype(x.dtype, np.floating) and kind is not arguments.signed
    return jnp.where(mask, x, jnp.asarray(0.5 if half else 1, x.dtype))


def prepare_elementwise(
    name: str,
    arrays: Mapping[str, ArrayLike | None],
    options: Mapping[str, ArrayLike],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    kinds: tuple[Kind, ...] = (arguments.floating, arguments.real),
) -> tuple[list[Array], Mask]:
    """The arguments of an elementwise loss."""
    checked = _kinds(name, arrays, kinds)
    arguments.choice(name, "reduction", reduction)
    dtype, shape = arguments.compute_dtype(*checked), checked[0].shape
    mask = prepare_mask(name, where, weights, shape, dtype).exclude()
    checked += [_option(name, argument, value, shape, dtype) for argument, value in options.items()]
    checked, mask = shard_like(_first_sharded(checked), (checked, mask))
    kinds += (arguments.real,) * len(options)
    return [_harmless(x, mask.examples, kind) for x, kind in zip(checked, kinds, strict=True)], mask


def prepare_summed(
    name: str,
    arrays: Mapping[str, ArrayLike | None],
    options: Mapping[str, ArrayLike],
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    kinds: tuple[Kind, ...] = (arguments.floating, arguments.real),
    rule: bool = True,
) -> tuple[list[Array], Terms, Mask]:
    """The same of a sum over ``axis``. Without a ``rule``, entries of weight 0 that are not finite are masked."""
    checked = _kinds(name, arrays, kinds)
    arguments.choice(name, "reduction", reduction)
    dtype, full = arguments.compute_dtype(*checked), checked[0].shape
    axes = arguments.class_axes(name, axis, full)
    shape = tuple(n for a, n in enumerate(full) if a not in axes)
    entries = None
    if where is not None and jnp.ndim(where) == len(full):
        entries, where = arguments.broadcast(name, "where", arguments.boolean(name, "where", where), full), None
    mask = prepare_mask(name, where, weights, shape, dtype)
    if entries is not None:
        left = entries.any(axes)
        mask = mask._replace(examples=left if mask.examples is None else mask.examples & left)
    numbers = [_option(name, argument, value, shape, dtype) for argument, value in options.items()]
    usable = None
    if not rule:
        finite = jnp.isfinite(checked[0]) & jnp.isfinite(checked[1])
        usable = (finite if entries is None else finite | ~entries).all(axes)
        for number in numbers:
            usable &= jnp.isfinite(number)
    mask = mask.exclude(usable)
    like = _first_sharded(checked)
    checked, entries = shard_like(like, (checked, entries))
    mask, numbers = shard_like(like.sum(axes), (mask, numbers))
    checked += [n if n.ndim == 0 else jnp.expand_dims(n, axes) for n in numbers]
    rows = None if mask.examples is None else jnp.expand_dims(mask.examples, axes)
    inside = rows if entries is None or rows is None else entries & rows
    kinds += (arguments.real,) * len(options)
    values = [_harmless(x, inside if x.shape == full else rows, kind) for x, kind in zip(checked, kinds, strict=True)]
    unweighted = None if mask.unweighted is None else jnp.expand_dims(mask.unweighted, axes)
    return values, Terms(entries, axes, unweighted), mask
