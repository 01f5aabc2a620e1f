"""Tables of edges: kinks, zeros, infinities, ties, near-equal arguments, the ends of the options."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from tolerances import close

import jaxloss

inf, nan = np.inf, np.nan


def at_edges(rows):
    """A test over rows of a loss, predictions, targets, options, the value, and the gradient by the predictions."""
    return pytest.mark.parametrize(("name", "x", "t", "options", "value", "gradient"), rows)


def check_edge(name, x, t, options, value, gradient):
    ours = value_and_gradient(getattr(jaxloss, name), x, t, **options)
    np.testing.assert_allclose(ours[0], value, rtol=1e-6)
    if not np.isnan(gradient).all():
        np.testing.assert_allclose(ours[1], gradient, rtol=1e-6, atol=1e-12 if np.ndim(x) else 0)


def value_and_gradient(loss, *args, by=0, **options):
    """Value and gradient; forward mode must agree, unless it multiplies an infinite slope by 0."""
    args = [jnp.asarray(a, np.float32) if isinstance(a, (float, list)) else a for a in args]

    def f(*args):
        return loss(*args, **options)

    value, gradient = jax.value_and_grad(f, by)(*args)
    if np.isfinite(gradient).all():
        np.testing.assert_allclose(jax.jacfwd(f, by)(*args), gradient, rtol=1e-6)
    return value, gradient


def check_option(name, formula, x, option, value):
    """The first two derivatives by an option of a loss of x and 0, by differences of the formula at many digits."""
    point = mp.mpf(float(np.float32(x))), mp.mpf(float(np.float32(value)))
    f = lambda v: getattr(jaxloss, name)(jnp.float32(x), 0.0, **{option: v})  # noqa: E731
    for order in (1, 2):
        f, truth = jax.grad(f), float(mp.diff(formula, point, (0, order)))
        close(f(jnp.float32(value)), truth, max(1.0, abs(truth)))


SCORES = (-1e30, -2.0, -0.3, 0.0, 0.3, 1.0, 2.0, 1e30)


def check_elements(loss, args, expected):
    """Value and gradients of an elementwise loss, to the bit, and the tangent in the direction of ones."""

    @jax.jit
    def value_gradients_and_tangent(*args):
        value, pull = jax.vjp(loss, *args)
        return value, *pull(jnp.ones_like(value)), jax.jvp(loss, args, tuple(jnp.ones_like(a) for a in args))[1]

    for a, b in zip(value_gradients_and_tangent(*args), (*expected, sum(expected[1:])), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), b)
