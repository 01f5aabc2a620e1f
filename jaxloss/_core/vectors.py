"""Vectors as rows: their cosine, their distance, and its gradient, for vectors of any length."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .compiler import cpu_fusion_barrier, cpu_shortcut, replicate_from_axis, zeros_of_type
from .masks import Mask
from .rows import is_finite_row, prepare_rows
from .special import power_of_two
from .types import Axis, Reduction


def prepare_vectors(
    name: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    epsilon: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> tuple[Array, Array, Array | None, Mask]:
    """The vectors as rows, the smallest norm or None, and the mask."""
    arguments.choice(name, "reduction", reduction)
    names = "predictions", "targets"
    x, t, mask = prepare_rows(name, names, predictions, targets, axis, where, weights)
    x, t = mask.fill_classes(x), mask.fill_classes(t)
    if mask.weight is not None and not arguments.is_number(epsilon, 0):  # a norm below epsilon has no rule of its own
        mask = mask.exclude(is_finite_row(x) & is_finite_row(t))
    x, t = mask.fill_vectors(x, t)
    x, t = map(lax.optimization_barrier, (x, t))  # of constants, XLA turns (t s) (t s) into (t t) (s s): it overflows
    smallest = arguments.option(name, "epsilon", epsilon, 0, x.shape[:-1], arguments.compute_dtype(x, t))
    if smallest is not None:
        smallest = mask.fill_options(smallest)
        smallest = jnp.where(smallest > 0, jnp.sqrt(jnp.where(smallest > 0, smallest, 1)), 0)
    return x, t, smallest, mask


# A cosine does not change with the length of a vector, so that powers of two, which are exact, may scale both into a
# range where squares neither overflow nor underflow; derivatives take them for constants. With the part of -t that is
# orthogonal to x,
#     o = d - x (x . d) / |x|^2,    sin = |o| / |t|,    1 - cos = sin^2 / (1 + cos),
# and the gradient of 1 - cos by x is o / (|x| |t|). As d, -t and x - t serve alike; near vectors have an exact
# difference, so that o and what follows from it are exact. So have x and -t where they are nearly opposite.


def largest_power(x: Array) -> Array:
    """A power of two near the largest entry of a row."""
    return power_of_two(jnp.abs(lax.stop_gradient(x)).max(-1, keepdims=True))


def scaled(x: Array) -> Array:
    """x by a power of two, which is exact, so that squares stay in range."""
    return x * (1 / largest_power(x))


def inverse_norm(x: Array) -> Array:
    """1 / |x|, 0 for a vector of zeros, of what is scaled."""
    squared = jnp.square(x).sum(-1)
    zero = squared == 0
    return jnp.where(zero, 0, 1 / jnp.sqrt(jnp.where(zero, 1, squared)))


@partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
def unit_vectors(x: Array, dtype: np.dtype) -> Array:
    """x / |x|, and 0 / |0| = 0."""
    x = scaled(replicate_from_axis(x, 1).astype(dtype))
    return x * inverse_norm(x)[..., None]


def _scales(x: Array, t: Array) -> tuple[Array, Array]:
    """Powers of two that scale the largest entries to about 4, the same for vectors of similar length."""
    x_power, t_power = largest_power(x), largest_power(t)
    similar = (x_power <= 2 * t_power) & (t_power <= 2 * x_power)
    return 4 / x_power, 4 / jnp.where(similar, x_power, t_power)


def _sums(
    x: Array, t: Array, scales: tuple[Array, Array], *products: Callable[[Array, Array], Array]
) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
    """The sums of products of the scaled vectors, and the scales: one per sum, or XLA writes the vectors to memory."""
    totals = []
    for product in products:
        x_scale, t_scale = scales
        total = product(x * x_scale, t * t_scale).sum(-1, keepdims=True)
        total, x_scale, t_scale = cpu_fusion_barrier(total, x_scale, t_scale)
        totals.append(total)
        scales = x_scale, t_scale
    return tuple(totals), scales


def _xx(x: Array, t: Array) -> Array:
    return x * x


def _tt(x: Array, t: Array) -> Array:
    return t * t


def _xt(x: Array, t: Array) -> Array:
    return x * t


def _scaled_sums(x: Array, t: Array, *_: Array) -> tuple[Array, ...]:
    sums, scales = _sums(x, t, _scales(x, t), _xx, _tt, _xt)
    return *sums, *scales


def _unscaled_sums(x: Array, t: Array, xx: Array, tt: Array, xt: Array) -> tuple[Array, ...]:
    """Only the difference of near vectors needs a scale, which makes t as long as x."""
    similar = (xx <= 4 * tt) & (tt <= 4 * xx)
    t_scale = jnp.where(similar, 1, power_of_two(jnp.sqrt(xx) / jnp.sqrt(tt)))
    return xx, tt * t_scale * t_scale, xt * t_scale, 1 + zeros_of_type(xx), t_scale


def is_ordinary(squared: Array) -> Array:
    """Whether no square that counts in a sum of squares over- or underflows."""
    smallest = 2.0 ** (0.6 * int(jnp.finfo(squared.dtype).minexp))
    ordinary: Array = (squared > smallest) & (squared < 1 / smallest)
    return ordinary


def _near_sums(x: Array, t: Array, x_scale: Array, t_scale: Array, sign: Array, xx: Array) -> tuple[Array, ...]:
    """x . d / |x|^2, |o|^2 and t . d, with d = x - t, or x + t where the sign is negative."""
    # Sums for both signs need no other sum first: accelerators compute them in the pass of |x|^2.
    (minus, plus), scales = _sums(x, t, (x_scale, t_scale), lambda x, t: x * (x - t), lambda x, t: x * (x + t))
    along_x = jnp.where(sign < 0, plus, minus) / xx
    x_scale, t_scale = scales
    scales = x_scale, sign * t_scale
    (oo,), scales = _sums(x, t, scales, lambda x, t: jnp.square(x - t - x * along_x))
    (td,), _ = _sums(x, t, scales, lambda x, t: t * (x - t))
    return along_x, oo, td


def _no_sums(x: Array, t: Array, x_scale: Array, t_scale: Array, sign: Array, xx: Array) -> tuple[Array, ...]:
    zero = zeros_of_type(t_scale)
    return zero, zero, zero


class SavedVectors(NamedTuple):
    x: Array
    t: Array
    x_scale: Array  # from here on, one number a row each
    t_scale: Array  # negative where t is nearly opposite
    near: Array  # 1 or 0
    along_x: Array  # x . d / |x|^2
    along_t: Array
    factor: Array  # 1 / (|x| |t|), 0 where one of them is 0, negative where t is nearly opposite


def compare_vectors(x: Array, t: Array) -> tuple[Array, Array, SavedVectors]:
    """The cosine, the distance, and the residuals of the gradient."""
    vectors = x, t
    dtype = arguments.compute_dtype(x, t)
    x, t = x.astype(dtype), t.astype(dtype)
    sums = tuple(product(x, t).sum(-1, keepdims=True) for product in (_xx, _tt, _xt))
    rare = ~(is_ordinary(sums[0]) & is_ordinary(sums[1]))
    xx, tt, xt, x_scale, t_scale = cpu_shortcut(rare, _scaled_sums, _unscaled_sums, x, t, *sums)
    zero = (xx == 0) | (tt == 0)
    xx, tt = (jnp.where(squared == 0, 1, squared) for squared in (xx, tt))
    factor = 1 / (jnp.sqrt(xx) * jnp.sqrt(tt))
    cosine = jnp.clip(xt * factor, -1, 1)  # of a cosine only the rounding is clipped
    is_near = jnp.abs(cosine) > 0.5  # if opposite, to -t, whose distance is 2 less that of t
    sign = jnp.where(cosine < -0.5, -1, 1).astype(dtype)
    along_x, oo, td = cpu_shortcut(is_near, _near_sums, _no_sums, x, t, x_scale, t_scale, sign, xx)
    distance = oo / (tt * (1 + jnp.where(is_near, jnp.abs(cosine), 0)))
    cosine = jnp.where(is_near, sign * (1 - distance), cosine)
    distance = jnp.where(is_near, 1 - sign + sign * distance, 1 - cosine)
    along_x, along_t = jnp.where(is_near, along_x, -xt / xx), jnp.where(is_near, td, xt) / tt
    near, factor = is_near.astype(dtype), jnp.where(zero, 0, sign * factor)
    saved = SavedVectors(*vectors, x_scale, sign * t_scale, near, along_x, along_t, factor)
    return cosine[..., 0], distance[..., 0], saved


def distance_gradients(saved: SavedVectors, g: Array) -> tuple[Array, Array]:
    """The gradients of the distance."""
    x, t = (a.astype(g.dtype) * scale for a, scale in ((saved.x, saved.x_scale), (saved.t, saved.t_scale)))
    g = g[..., None] * saved.factor
    d_x = saved.near * x - t - x * saved.along_x
    d_t = x - saved.near * t - t * saved.along_t
    return g * saved.x_scale * d_x, -g * saved.t_scale * d_t


def _clipped(x: Array, t: Array, smallest: Array) -> tuple[Array, Array]:
    """The cosine with norms of at least ``smallest``, and whether one norm is smaller."""
    dtype = arguments.compute_dtype(x, t)
    x, t = x.astype(dtype), t.astype(dtype)
    smallest = smallest[..., None]
    divisor = jnp.where(smallest == 0, 1, smallest)
    largest_scale = jnp.where(smallest == 0, jnp.inf, 4 / divisor)  # no more than tells whether a norm is below
    x_scale, t_scale = (jnp.minimum(scale, largest_scale) for scale in _scales(x, t))
    (xx, tt), scales = _sums(x, t, (x_scale, t_scale), _xx, _tt)

    def directed(a: Array, squared: Array, scale: Array) -> tuple[Array, Array]:
        below = squared < jnp.square((smallest * scale).clip(jnp.finfo(dtype).tiny))
        norm = jnp.sqrt(jnp.where(below | (squared == 0), 1, squared))
        return jnp.where(below, a / divisor, a * scale / norm), below

    (u, x_below), (v, t_below) = map(directed, (x, t), (xx, tt), scales)
    return (u * v).sum(-1), (x_below | t_below)[..., 0]


clipped_cosine = jax.checkpoint(_clipped, prevent_cse=False)
