"""Robust regression losses: their edges, derivatives by options and of second order."""

import jax
import numpy as np
import pytest
from edges import at_edges, check_edge, check_option, inf

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("huber_loss", inf, 0.0, {}, inf, 1),
        ("huber_loss", -inf, 0.0, {}, inf, -1),
        ("huber_loss", 3.0, 0.0, {"delta": inf}, 4.5, 3),
        ("huber_loss", 3.0, 0.0, {"delta": 0.0}, 0, 0),
        ("huber_loss", 1e30, 0.0, {}, 1e30, 1),
        ("smooth_l1_loss", 3.0, 0.0, {"beta": 0.0}, 3, 1),
        ("smooth_l1_loss", 0.0, 0.0, {"beta": 0.0}, 0, 0),
        ("smooth_l1_loss", -inf, 0.0, {}, inf, -1),
        ("charbonnier_loss", 1e-4, 0.0, {"epsilon": 4.0}, 1.25e-9, 2.5e-5),
        ("charbonnier_loss", -1e30, 0.0, {}, 1e30, -1),
        ("charbonnier_loss", 3e38, 0.0, {"epsilon": 3e38}, 1.2426407e38, 0.70710678),
        ("charbonnier_loss", 0.0, 0.0, {"epsilon": 0.0}, 0, 0),
        ("charbonnier_loss", -2.0, 0.0, {"epsilon": 0.0}, 2, -1),
        ("charbonnier_loss", inf, 0.0, {}, inf, 1),
        ("log_cosh", 1e-4, 0.0, {}, 5e-9, 1e-4),
        ("log_cosh", 3e-5, 0.0, {}, 4.5e-10, 3e-5),
        ("log_cosh", -1e30, 0.0, {}, 1e30, -1),
        ("log_cosh", inf, 0.0, {}, inf, 1),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def exact_huber(e, d):
    return e**2 / 2 if abs(e) <= d else d * (abs(e) - d / 2)


def exact_smooth_l1(e, b):
    return exact_huber(e, b) / b


@pytest.mark.parametrize("x", [0.3, 2.0])
def test_options_have_their_derivatives_on_each_side_of_the_kink(x):
    check_option("huber_loss", exact_huber, x, "delta", 0.7)
    check_option("smooth_l1_loss", exact_smooth_l1, x, "beta", 0.7)


def test_second_derivatives_where_pieces_meet():
    assert jax.hessian(lambda x: jaxloss.smooth_l1_loss(x, 1.0, beta=2.0))(1.0) == 0.5
    assert np.isfinite(jax.hessian(lambda x, b: jaxloss.smooth_l1_loss(x, 0.0, beta=b), (0, 1))(2.0, 0.0)).all()


def test_the_fourth_derivative_of_log_cosh():
    fourth = jaxloss.log_cosh
    for _ in range(4):
        fourth = jax.grad(fourth)
    np.testing.assert_allclose(fourth(0.0), -2, rtol=1e-6)
