"""The overlap of a predicted and a true mask: the sums of Tversky and dice losses, and the share of the errors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from . import arguments
from .compiler import cpu_fusion_barrier, cpu_sum_barrier
from .elementwise import Terms
from .softmax import probabilities, summary
from .special import divide_no_nan, power_of_two


@partial(jax.checkpoint, static_argnums=(0, 4, 5), prevent_cse=False)
def overlap_sums(
    probabilities: Callable[[Array], tuple[Array, ...]],
    x: Array,
    t: Array,
    pixels: Array | None,
    axes: tuple[int, ...],
    first: int,
) -> tuple[Array, ...]:
    """The sums of p t, p (1 - t) and (1 - p) t, of the classes from ``first`` on. It saves x and t alone."""
    dtype = arguments.compute_dtype(x, t)
    p, complement = probabilities(x.astype(dtype))
    p, complement, t = (a[..., first:] for a in (p, complement, t.astype(dtype)))
    one_class = t.shape[-1] == 1 and t.ndim - 1 not in axes
    if one_class:  # on a CPU, XLA sums slowly over axes that are not the last
        p, complement, t = (a[..., 0] for a in (p, complement, t))
        pixels = None if pixels is None else pixels[..., 0]
    sums = (Terms(pixels, axes).total(term) for term in (p * t, p * (1 - t), complement * t))
    return tuple(s[..., None] if one_class else s for s in sums)


def error_ratio(overlap: tuple[Array, ...], alpha: Array, beta: Array, smooth: Array) -> Array:
    intersection, false_positives, false_negatives = overlap
    unit = 1 / power_of_two(jnp.maximum(jnp.maximum(alpha, beta), 1))  # the largest number times pixels is infinite
    errors = (unit * alpha) * false_positives + (unit * beta) * false_negatives
    return _fraction(errors, unit * (intersection + smooth))


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
    (z,) = cpu_fusion_barrier(z)
    p, complement = probabilities(z, summary(z))
    return *cpu_fusion_barrier(p), cpu_sum_barrier(complement)
