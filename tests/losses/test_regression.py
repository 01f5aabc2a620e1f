"""Regression losses: their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from edges import at_edges, check_edge, check_option, inf, nan

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("absolute_error", 2.0, 2.0, {}, 0, 0),
        ("absolute_error", inf, 2.0, {}, inf, 1),
        ("absolute_percentage_error", 3.0, 0.0, {}, inf, inf),
        ("absolute_percentage_error", -3.0, 0.0, {}, inf, -inf),
        ("absolute_percentage_error", 0.0, 0.0, {}, 0, 0),
        ("absolute_percentage_error", 1e-30, 0.0, {}, inf, inf),
        ("absolute_percentage_error", 3e38, -3e38, {}, 200, 1e-36 / 3),
        ("absolute_percentage_error", 1.5e-20, 1e-20, {}, 50, 1e22),
        ("squared_logarithmic_error", -1.0, 0.5, {}, inf, -inf),
        ("squared_logarithmic_error", inf, 0.5, {}, inf, 0),
        ("squared_logarithmic_error", -3.0, -2.9, {}, nan, nan),
        ("squared_logarithmic_error", 1e-8, 3e-8, {}, 4e-16, -4e-8),
        ("squared_logarithmic_error", -0.5, 0.0, {}, 0.48045301, -2.7725887),
        ("quantile_loss", 2.0, 2.0, {"quantile": 0.8}, 0, 0),
        ("quantile_loss", inf, 2.0, {"quantile": 1.0}, 0, 0),
        ("quantile_loss", -inf, 2.0, {"quantile": 1.0}, inf, -1),
        ("quantile_loss", 3e38, -3e38, {"quantile": 0.75}, 1.5e38, 0.25),
        ("quantile_loss", 1.0, 2.0, {"quantile": jnp.float32(1.5)}, nan, nan),
        ("quantile_loss", 2.0, 2.0, {"quantile": jnp.float32(1.5)}, nan, nan),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_the_quantile_has_its_derivatives():
    check_option("quantile_loss", lambda e, q: (1 - q) * e, 2.0, "quantile", 0.8)


def test_an_infinite_derivative_by_the_quantile_does_not_reach_the_others():
    loss = lambda p, t, q: jaxloss.quantile_loss(p, t, quantile=q)  # noqa: E731
    point = jnp.float32(3e38), jnp.float32(-3e38), jnp.float32(0.75)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(loss, (0, 1, 2))(*point), [0.25, -0.25, -inf])
