"""Safe primitives, each with its derivative below it."""

import jax
import jax.numpy as jnp
from jax import Array


def times(a: Array, b: Array) -> Array:
    """a * b, where a zero ``a`` wins over an infinite ``b``."""
    zero = a == 0
    return jnp.where(zero, 0, a * jnp.where(zero, 0, b))


@jax.custom_jvp
def soft_cap(x: Array, cap: Array) -> Array:
    """cap * tanh(x / cap)."""
    return cap * jnp.tanh(x / cap)


def soft_cap_partials(x: Array, cap: Array) -> tuple[Array, Array]:
    """The derivatives by x, sech(u)^2, and by cap, tanh(u) - u sech(u)^2, of u = x / cap.

    sech(u)^2 = 4q / (1 + q)^2 with q = exp(-2|u|), where 1 - tanh(u)^2 would round to 0 from |u| = 9 on. The other
    cancels near 0; there it is sech(u)^2 (sinh(2u) - 2u) / 2, by the series of sinh, whose terms have one sign.
    """
    u = x / cap
    q = jnp.exp(-2 * jnp.abs(u))
    slope = 4 * q / jnp.square(1 + q)
    near = jnp.abs(u) < 0.5
    v = jnp.where(near, jnp.square(2 * u), 0)
    series = jnp.ones_like(v)
    for k in range(8, 0, -1):
        series = 1 + v / ((2 * k + 2) * (2 * k + 3)) * series
    far = jnp.tanh(u) - jnp.clip(u, -100, 100) * slope  # beyond 100 the product is 0, and u may be infinite
    return slope, jnp.where(near, slope * jnp.clip(u, -1, 1) * v / 6 * series, far)


@soft_cap.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    by_x, by_cap = soft_cap_partials(*primals)
    return soft_cap(*primals), by_x * tangents[0] + by_cap * tangents[1]
