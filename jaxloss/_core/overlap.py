"""The overlap of a predicted and a true mask: the sums of Tversky and dice losses, and the share of the errors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from . import arguments
from .compiler import cpu_sum_barrier
from .elementwise import Terms
from .softmax import probabilities, summary
from .special import divide_no_nan, power_of_two


def error_share(
    probabilities: Callable[[Array], tuple[Array, ...]],
    x: Array,
    t: Array,
    pixels: Array | None,
    axes: tuple[int, ...],
    alpha: Array,
    beta: Array,
    smooth: Array,
    first: int = 0,
) -> Array:
    """The errors over the errors, the intersection and ``smooth``, of the classes from ``first`` on."""
    unit = 1 / power_of_two(jnp.maximum(jnp.maximum(alpha, beta), 1))  # the largest number times pixels is infinite
    alpha, beta = (jnp.expand_dims(w, axes) if w.ndim else w for w in (unit * alpha, unit * beta))
    intersection, errors = _overlap_sums(probabilities, x, t, pixels, alpha, beta, axes, first)
    return _fraction(errors, unit * (intersection + smooth))


@partial(jax.checkpoint, static_argnums=(0, 6, 7), prevent_cse=False)
def _overlap_sums(
    probabilities: Callable[[Array], tuple[Array, ...]],
    x: Array,
    t: Array,
    pixels: Array | None,
    alpha: Array,
    beta: Array,
    axes: tuple[int, ...],
    first: int,
) -> tuple[Array, ...]:
    """The sums of p t and of alpha p (1 - t) + beta (1 - p) t. It saves its arguments alone."""
    dtype = arguments.compute_dtype(x, t)
    p, complement = probabilities(x.astype(dtype))
    p, complement, t = (a[..., first:] for a in (p, complement, t.astype(dtype)))
    one_class = t.shape[-1] == 1 and t.ndim - 1 not in axes
    if one_class:  # on a CPU, XLA sums slowly over axes that are not the last
        p, complement, t, alpha, beta = (a[..., 0] if a.ndim else a for a in (p, complement, t, alpha, beta))
        pixels = None if pixels is None else pixels[..., 0]
    terms = p * t, alpha * (p * (1 - t)) + beta * (complement * t)
    sums = (Terms(pixels, axes).total(cpu_sum_barrier(term)) for term in terms)
    return tuple(s[..., None] if one_class else s for s in sums)


@jax.custom_jvp
def _fraction(a: Array, b: Array) -> Array:
    """a / (a + b), 0 for 0 / 0. Its rule uses 1 - a / (a + b) = b / (a + b), which is exact for b far below a."""
    return divide_no_nan(a, a + b)


@_fraction.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    d_a, d_b = _fraction_slopes(*primals)
    return _fraction(*primals), d_a * tangents[0] + d_b * tangents[1]


def _inverse(a: Array, b: Array) -> Array:
    """1 / (a + b). XLA would merge the quotients below into one, by a square that may underflow."""
    return divide_no_nan(jnp.ones_like(a), jnp.where((a == 0) & (b == 0), 1, a + b))


@jax.custom_jvp
def _fraction_slopes(a: Array, b: Array) -> tuple[Array, Array]:
    return _inverse(a, b) * _fraction(b, a), -_inverse(a, b) * _fraction(a, b)


@_fraction_slopes.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> Any:
    a, b = primals
    share_a, share_b = _fraction(a, b), _fraction(b, a)
    square = jnp.minimum(jnp.square(_inverse(a, b)), jnp.finfo(a.dtype).max / 1024)  # it may be multiplied by 0
    d_a = square * (-2 * share_b * tangents[0] + (share_a - share_b) * tangents[1])
    d_b = square * ((share_a - share_b) * tangents[0] + 2 * share_a * tangents[1])
    return _fraction_slopes(a, b), (d_a, d_b)


# What the predictions are: each function returns p and 1 - p, of which neither is the rounded difference of the other.


def given_probabilities(p: Array) -> tuple[Array, ...]:
    return p, 1 - p


def softmax_probabilities(z: Array) -> tuple[Array, ...]:
    return probabilities(z, summary(z))
