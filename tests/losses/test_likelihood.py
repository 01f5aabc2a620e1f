"""Poisson and Gaussian likelihoods: their edges, Stirling, derivatives by options and of second order."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from edges import at_edges, check_edge, check_option, inf, nan
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("poisson_nll_loss", 0.0, 0.0, {}, 0, 1),
        ("poisson_nll_loss", 0.0, 2.0, {}, inf, -inf),
        ("poisson_nll_loss", inf, 2.0, {}, inf, 1),
        ("poisson_nll_loss", 3e38, 3e38, {"full": True}, 45.217361, 0),
        ("poisson_nll_loss", 0.0, 0.0, {"full": True}, 0, 1),
        ("poisson_nll_loss", -1.0, 0.0, {}, nan, nan),
        ("poisson_nll_loss", -1.0, 0.0, {"full": True}, nan, nan),
        ("poisson_nll_loss", 2.0, 2.0, {"full": True}, 1.3068528, 0),
        ("poisson_nll_loss", 0.0, 1e-30, {"full": True}, inf, -inf),
        ("poisson_nll_loss", 1e6, 1e6, {"full": True}, 7.8266939, 0),
        ("poisson_nll_loss_with_log_rates", -inf, 0.0, {}, 0, 0),
        ("poisson_nll_loss_with_log_rates", -inf, 2.0, {}, inf, -2),
        ("poisson_nll_loss_with_log_rates", inf, 2.0, {"full": True}, inf, inf),
        ("gaussian_nll_loss", 1.0, 1.0, {"variance": jnp.float32(0)}, nan, nan),
        ("gaussian_nll_loss_with_log_variance", 1.0, 2.0, {"log_variance": -inf}, inf, nan),
        ("gaussian_nll_loss_with_log_variance", 1.0, 1.0, {"log_variance": -300.0}, -150, 0),
        ("gaussian_nll_loss", 1e25, 0.0, {"variance": 1e30}, 5e19, 1e-5),
        ("gaussian_nll_loss", 1e-3, 0.0, {"variance": 1e-8}, 40.789660, 1e5),
        ("gaussian_nll_loss_with_log_variance", 1e-20, 0.0, {"log_variance": -80.0}, -39.999997, 5.5406224e14),
        ("gaussian_nll_loss_with_log_variance", 1.0, 1.0, {"log_variance": -360.0}, -180, 0),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_what_stirling_approximates_is_exact():
    counts = np.array([0, 1, 2, 3, 10, 170, 1e4, 1e6], np.float32)
    ours = jaxloss.poisson_nll_loss(jnp.asarray(counts), jnp.asarray(counts), full=True)
    truth = [float(mp.loggamma(c + 1) + c - (c * mp.log(c) if c else 0)) for c in map(mp.mpf, counts.tolist())]
    close(ours, truth, np.maximum(truth, counts * (counts < 8)), dtype=np.float32, span=1)


@pytest.mark.parametrize(
    ("name", "formula", "option"),
    [
        ("gaussian_nll_loss", lambda e, v: (mp.log(v) + e**2 / v) / 2, "variance"),
        ("gaussian_nll_loss_with_log_variance", lambda e, s: (s + e**2 * mp.exp(-s)) / 2, "log_variance"),
    ],
)
def test_options_have_their_derivatives(name, formula, option):
    check_option(name, formula, 2.0, option, 0.7)


def test_second_derivatives_at_an_end():
    assert jax.grad(jax.grad(lambda r: jaxloss.poisson_nll_loss(r, 2.0)))(0.0) == inf
    for i in (0, 1):
        np.testing.assert_allclose(jax.jacfwd(jax.grad(jaxloss.poisson_nll_loss, i), 1 - i)(2.0, 0.0), -0.5)
    hessian = jax.hessian(lambda x, v: jaxloss.gaussian_nll_loss(x, 1.0, variance=v), (0, 1))(1.0, 1e-15)
    np.testing.assert_allclose(hessian, [[1e15, 0], [0, -5e29]], rtol=1e-5)
