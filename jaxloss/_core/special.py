"""Safe arithmetic and special functions, each with its derivative rule below it."""

import math
from collections.abc import Iterable
from itertools import count
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .compiler import cpu_fusion_barrier


def multiply_no_nan(a: Array, b: Array) -> Array:
    """a * b, 0 where ``a`` is 0 and ``b`` infinite."""
    undefined = (a == 0) & jnp.isinf(b)
    return jnp.where(undefined, 0, a * jnp.where(undefined, 0, b))


@jax.custom_jvp
def bounded_product(a: Array, b: Array) -> Array:
    """The same for b >= 0, in a form that XLA fuses into a sum: min(b, infinity), or min(b, 0) where a is 0."""
    largest = lax.optimization_barrier(jnp.finfo(a.dtype).max)  # XLA would make infinity of the square of a constant
    return a * jnp.minimum(b, jnp.abs(a) * largest * largest)


@bounded_product.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = primals
    return bounded_product(a, b), multiply_no_nan(tangents[0], b) + multiply_no_nan(a, tangents[1])


@jax.custom_jvp
def at_most(x: Array, bound: Array) -> Array:
    """min(x, bound) of an x that only rounding moves above the bound: it has the derivative of x, at the bound too."""
    return jnp.minimum(x, bound)


@at_most.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return at_most(*primals), jnp.broadcast_to(tangents[0], jnp.broadcast_shapes(*(p.shape for p in primals)))


def subtract_no_nan(a: Array, b: Array) -> Array:
    """a - b, 0 for equal infinities."""
    undefined = (b == a) & jnp.isinf(b)
    return jnp.where(undefined, 0, a - jnp.where(undefined, 0, b))


@jax.custom_jvp
def divide_no_nan(a: Array, b: Array) -> Array:
    """a / b, 0 for 0 / 0; in its derivative the square of b neither overflows nor underflows."""
    return a / jnp.where(_both_zero(a, b), 1, b)


def _both_zero(a: Array, b: Array) -> Array:
    """Whether a / b is 0 / 0, also for a denormal b, which XLA may flush to 0 in the division alone."""
    return (a == 0) & (jnp.abs(b) < jnp.finfo(b.dtype).tiny)


@divide_no_nan.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    a, b = primals
    quotient = divide_no_nan(a, b)
    return quotient, (tangents[0] - quotient * tangents[1]) / jnp.where(_both_zero(a, b), 1, b)


@jax.custom_jvp
def relu(x: Array) -> Array:
    """max(x, 0), with slope 0 at 0."""
    (zero,) = cpu_fusion_barrier(jnp.zeros((), x.dtype))  # one that two passes share is written as an array
    return jnp.maximum(x, zero)


@relu.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,) = primals
    return relu(x), jnp.where(x > 0, tangents[0], 0)


def horner(v: Array, ratios: Iterable[float]) -> Array:
    """1 + r_1 v (1 + r_2 v (1 + ...)) for |v| up to 1, to the precision of the dtype."""
    coefficients = [1.0]
    for ratio in ratios:
        if coefficients[-1] < jnp.finfo(v.dtype).eps / 8:
            break
        coefficients.append(coefficients[-1] * ratio)
    series = jnp.full_like(v, coefficients.pop())
    for coefficient in reversed(coefficients):
        series = coefficient + v * series
    return series


def twice_atanh(s: Array) -> Array:
    """2 atanh(s) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...) for |s| up to 1/3, of terms of one sign.

    It is log(a / b) of s = (a - b) / (a + b): where a and b are near, a logarithm of their ratio has no digits.
    """
    s = jnp.maximum(s, -1)  # XLA for CPUs writes a quotient that is used more than once to memory
    return 2 * s * horner(jnp.square(3 * s), ((2 * k - 1) / (2 * k + 1) / 9 for k in count(1)))


@jax.custom_jvp
def log1p(x: Array) -> Array:
    """log(1 + x); that of XLA has errors of 25 eps below -1/4 in float64, and is slow on a CPU."""
    is_near = (x > -0.5) & (x < 1)
    v = jnp.where(is_near, x, 0)
    return jnp.where(is_near, log1p_of_ratio(v), jnp.log(1 + x))


@log1p.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return log1p(*primals), tangents[0] / (1 + primals[0])


def log1p_of_ratio(r: Array) -> Array:
    """log1p(r) for r in [-1/2, 1], in half the time of XLA's on a CPU."""
    return twice_atanh(r / (2 + r))


@jax.custom_jvp
def log_ratio(a: Array, b: Array, difference: Array) -> Array:
    """log(a / b) for a, b >= 0, given a - b: 2 atanh((a - b) / (a + b)), exact where they are near, else log(a / b)."""
    least, finfo = jnp.minimum(a, b), jnp.finfo(a.dtype)
    size = jnp.where(difference < 0, -difference, difference)  # with a derivative at 0
    near = twice_atanh(size / 2 / (least + size / 2))
    unit = 2.0 ** (3 * finfo.maxexp // 5)
    overflows = size > least * finfo.max  # divided by the square of the unit it does not
    numerator = jnp.where(overflows, jnp.maximum(size / unit, finfo.tiny), size)
    denominator = jnp.where(overflows, least * unit, least)
    far = jnp.log(jnp.where(overflows, 0, 1) + numerator / denominator) + jnp.where(overflows, 2 * math.log(unit), 0)
    log = jnp.where(size <= least, near, jnp.where(least < 0, jnp.nan, far))
    return jnp.where(difference < 0, -log, log)


@log_ratio.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    a, b, _ = primals
    return log_ratio(*primals), tangents[0] / a - tangents[1] / b


@jax.custom_jvp
def exp_difference(m: Array, p: Array, u: Array) -> Array:
    """m - p for m = p exp(u), from the smaller one by the series of exp(|u|) - 1 where that cancels."""
    size = jnp.where(u < 0, -u, u)  # |u|, with a derivative at 0
    is_small = size < 1
    v = jnp.where(is_small, size, 0)
    near = jnp.where(u < 0, -m, p) * (v * horner(v, (1 / k for k in count(2))))
    return jnp.where(is_small, near, m - p)


@exp_difference.defjvp
def _(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    return exp_difference(*primals), tangents[0] - tangents[1]


def expm1(x: Array) -> Array:
    """exp(x) - 1, whose derivative is exp(x), where that of JAX is expm1(x) + 1."""
    return exp_difference(jnp.exp(x), jnp.ones_like(x), x)


def kl_term(p: Array, m: Array, u: Array) -> Array:
    """m - p - p u, with m = p exp(u): from its series where that cancels; never negative."""
    is_small = (jnp.abs(u) < 1) & (p != 0)
    near = near_kl_term(p, jnp.where(is_small, u, 0))
    return jnp.where(is_small, near, m - p - multiply_no_nan(p, u))


def near_kl_term(p: Array, u: Array) -> Array:
    """p (exp(u) - 1 - u) for |u| up to 1."""
    return p * (jnp.square(u) / 2 * horner(u, (1 / k for k in count(3))))


@jax.custom_jvp
def stirling(t: Array) -> Array:
    """log(t!) - t log(t) + t for t >= 0, by the series of Stirling where that cancels."""
    is_large = t >= 8
    small, large = jnp.where(is_large, 1, t), jnp.where(is_large, t, 8)
    r = 1 / large
    log_factorial = jnp.where((small == 0) | (small == 1), 0, jax.scipy.special.gammaln(small + 1))
    direct = log_factorial - small * jnp.log(jnp.where(small == 0, 1, small)) + small
    series = jnp.zeros_like(r)
    for b in reversed(_STIRLING):
        series = b + jnp.square(r) * series
    return jnp.where(is_large, (jnp.log(2 * jnp.pi) + jnp.log(large)) / 2 + r * series, direct)


_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def stirling_slope(t: Array) -> Array:
    """digamma(t + 1) - log(t), without the logarithm at 0."""
    is_large = t >= 8
    small, r = jnp.where(is_large, 1, t), 1 / jnp.where(is_large, t, 8)
    digamma = jnp.where(small == 0, -np.euler_gamma, jax.scipy.special.digamma(small + 1))
    direct = digamma - jnp.log(jnp.where(small == 0, 1, small))
    series = jnp.zeros_like(r)
    for k, b in reversed(list(enumerate(_STIRLING))):
        series = (2 * k + 1) * b + jnp.square(r) * series
    return jnp.where(is_large, r / 2 - jnp.square(r) * series, direct)


@stirling.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return stirling(*primals), stirling_slope(*primals) * tangents[0]


@jax.custom_jvp
def sigmoids(x: Array) -> tuple[Array, Array]:
    """sigmoid(x) and sigmoid(-x), each exact where it is small, and so are their derivatives."""
    return jax.nn.sigmoid(x), jax.nn.sigmoid(-x)


@sigmoids.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    tangent = sech2(primals[0] / 2) / 4 * tangents[0]
    return sigmoids(*primals), (tangent, -tangent)


@jax.custom_jvp
def softplus(x: Array) -> Array:
    """log(1 + exp(x)), whose derivatives are those of sigmoids, at infinities too."""
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


@softplus.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return softplus(*primals), sigmoids(*primals)[0] * tangents[0]


@jax.custom_jvp
def tanh(x: Array) -> Array:
    """tanh(x), whose derivative does not round to 0."""
    return jnp.tanh(x)


@tanh.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return tanh(*primals), sech2(*primals) * tangents[0]


@jax.custom_jvp
def sech2(u: Array) -> Array:
    """sech(u)^2 = 4q / (1 + q)^2 with q = exp(-2|u|), where 1 - tanh(u)^2 would round to 0 from |u| = 9 on."""
    q = jnp.exp(-2 * jnp.abs(u))
    return 4 * q / jnp.square(1 + q)


@sech2.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return sech2(*primals), -2 * tanh(*primals) * sech2(*primals) * tangents[0]


def root(x: Array) -> Array:
    """The square root, with the derivative 0 at 0; 0 below, where only rounding leads."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def power_of_two(x: Array) -> Array:
    """A power of two near x > 0, without a derivative and with a finite reciprocal; 1 for 0."""
    finfo = jnp.finfo(x.dtype)
    x = lax.stop_gradient(x)
    x = jnp.where(x == 0, 1, jnp.clip(x, 8 * finfo.tiny, finfo.max / 4))
    return lax.reduce_precision(x, exponent_bits=finfo.nexp, mantissa_bits=0)


def quotient(a: Array, b: Array) -> Array:
    """a / b for b > 0. XLA multiplies by the reciprocal of one number, which of 1e38 would be 0."""
    unit = 1 / power_of_two(b)
    return (a * unit) / (b * unit)


@jax.custom_jvp
def soft_cap(x: Array, cap: Array) -> Array:
    """cap * tanh(x / cap); near 0, and at an infinite cap, x (1 - u^2 / 3)."""
    u = quotient(x, cap)
    is_small = jnp.abs(u) < 1e-4
    return jnp.where(is_small, x * (1 - jnp.square(u) / 3), jnp.where(is_small, 1, cap) * jnp.tanh(u))


def soft_cap_partials(x: Array, cap: Array) -> tuple[Array, Array]:
    """The derivatives by x, sech(u)^2, and by cap, tanh(u) - u sech(u)^2, of u = x / cap.

    The second cancels near 0; there it is sech(u)^2 (sinh(2u) - 2u) / 2, by the series of sinh, of terms of one sign.
    """
    u = quotient(x, cap)
    slope = sech2(u)
    is_small = jnp.abs(u) < 0.5
    v = jnp.where(is_small, jnp.square(2 * u), 0)
    series = horner(v, (1 / ((2 * k + 2) * (2 * k + 3)) for k in count(1)))
    direct = jnp.tanh(u) - jnp.clip(u, -100, 100) * slope  # beyond 100 the product is 0, and u may be infinite
    return slope, jnp.where(is_small, slope * jnp.clip(u, -1, 1) * v / 6 * series, direct)


@soft_cap.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    d_x, d_cap = soft_cap_partials(*primals)
    return soft_cap(*primals), d_x * tangents[0] + d_cap * tangents[1]


@jax.custom_jvp
def sine_and_cosine(a: Array, b: Array) -> tuple[Array, Array]:
    """a / h and b / h with h = sqrt(a^2 + b^2), for b >= 0; both are 0 for a = b = 0."""
    return _sine_and_cosine(a, b)[:2]


def _sine_and_cosine(a: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """The same, and h scaled by a power of two, so that no square overflows or underflows, and the scale."""
    finfo = jnp.finfo(a.dtype)
    a, b = jnp.clip(a, -finfo.max, finfo.max), jnp.minimum(b, finfo.max)
    size, half = jnp.maximum(jnp.abs(a), b), finfo.maxexp // 2
    scale = jnp.where(size > 2.0 ** (half - 4), 2.0 ** -(half + 4), 1)
    scale = jnp.where(size < 2.0 ** -(half // 2), 2.0 ** (5 * half // 4), scale)
    a, b = a * scale, b * scale
    h = jnp.maximum(jnp.sqrt(jnp.square(a) + jnp.square(b)), finfo.tiny)
    return a / h, b / h, h, scale


@sine_and_cosine.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    sine, cosine = sine_and_cosine(*primals)
    _, _, h, scale = _sine_and_cosine(*primals)
    turn = (cosine * tangents[0] - sine * tangents[1]) * (scale / h)
    return (sine, cosine), (cosine * turn, -sine * turn)


# With r = log(m / q) and s = log(m / t), where q (exp(r) - 1) and t (exp(s) - 1), weighted, add up to 0,
# a term is (1 - b) q (exp(r) - 1 - r) + b t (exp(s) - 1 - s): neither is negative, and nothing cancels where q nears t.


class _Mixture(NamedTuple):
    """m = b t + (1 - b) q beside the larger of q and t, given u = log(t / q)."""

    d: Array  # |u|
    e: Array  # exp(-d) = smaller one / larger one
    gap: Array  # 1 - e
    larger: Array  # the weight of the larger one
    smaller: Array
    share: Array  # m / larger one


def _mixture(u: Array, b: Array) -> _Mixture:
    d = jnp.where(u > 0, u, -u)  # with a derivative at 0
    e = jnp.exp(-d)
    up, down = (sign.astype(u.dtype) for sign in (u > 0, u <= 0))  # no select: on an explicit mesh b may be replicated
    larger, smaller = up * b + down * (1 - b), up * (1 - b) + down * b
    return _Mixture(d, e, -expm1(-d), larger, smaller, larger + smaller * e)


@jax.custom_jvp
def js_ratios(u: Array, b: Array) -> tuple[Array, Array]:
    """r and s, given u = log(t / q): the logarithms of m / larger one = 1 - smaller gap, and of m / smaller one."""
    d, e, gap, larger, smaller, share = _mixture(u, b)
    of_larger = jnp.where(share < 0.5, jnp.log(share), -twice_atanh(smaller * gap / (1 + share)))
    of_smaller = jnp.where(
        share > 2 * e, d + of_larger, twice_atanh(larger * gap / jnp.where(share == 0, 1, share + e))
    )
    of_larger, of_smaller = jnp.where(larger == 0, -d, of_larger), jnp.where(larger == 0, 0, of_smaller)
    return jnp.where(u > 0, of_smaller, of_larger), jnp.where(u > 0, of_larger, of_smaller)


@js_ratios.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    u, b = primals
    _, e, gap, larger, smaller, share = _mixture(u, b)
    share = jnp.where(share == 0, 1, share)
    of_larger, of_smaller = larger / share, jnp.where(larger == 0, 1, smaller * e / share)
    d_b = jnp.sign(u) * gap / share * tangents[1]
    d_r, d_s = jnp.where(u > 0, of_larger, of_smaller), -jnp.where(u > 0, of_smaller, of_larger)
    return js_ratios(u, b), (d_r * tangents[0] + d_b, d_s * tangents[0] + d_b)
