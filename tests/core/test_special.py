"""Special functions over their whole domains."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from logits import DTYPES, with_dtype
from tolerances import close

from jaxloss._core.special import exp_difference, expm1, js_ratios, log1p, log_ratio, soft_cap

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda d: np.dtype(d).name)
def test_the_cap_has_its_derivatives_over_the_whole_domain(dtype):
    with with_dtype(dtype):
        for u in (1e-6, 1e-3, 0.1, 0.49, 0.51, 2.0, 8.0, 20.0, 43.0):
            x, cap = jnp.asarray(7 * u, dtype), jnp.asarray(7, dtype)
            exact = mp.mpf(float(x)) / 7
            truth = [mp.sech(exact) ** 2, mp.tanh(exact) - exact * mp.sech(exact) ** 2]
            for sign in (1, -1):
                by_x, by_cap = jax.grad(soft_cap, (0, 1))(sign * x, cap)
                close(by_x, truth[0], truth[0], span=2 * u, dtype=dtype)
                close(by_cap, sign * truth[1], truth[1], span=2 * u, dtype=dtype)
        assert jax.grad(soft_cap, (0, 1))(jnp.asarray(np.inf, dtype), cap) == (0, 1)


FAR = (1e-30, 1e-9, 1e-3, 0.3, 0.49, 0.51, 0.99, 1.01, 3.0, 20.0, 80.0)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda d: np.dtype(d).name)
def test_logarithms_and_exponentials_are_exact_over_their_domains(dtype):
    with with_dtype(dtype), mp.workdps(80):
        x = np.array([*FAR, 1e30, *(-f for f in FAR)], dtype)
        below = x[x < 80]
        close(expm1(below), truth := [mp.expm1(mp.mpf(v)) for v in below.tolist()], np.abs(truth), dtype=dtype)
        x = x[x > -1]
        close(log1p(x), truth := [mp.log1p(mp.mpf(v)) for v in x.tolist()], np.abs(truth), dtype=dtype)
        a, b = (v.ravel() for v in np.meshgrid(*[np.array([1e-35, 1e-9, 0.9, 1.0, 1.001, 2.0, 3.0, 1e33], dtype)] * 2))
        truth = [mp.log(mp.mpf(u) / mp.mpf(v)) for u, v in zip(a.tolist(), b.tolist(), strict=True)]
        close(log_ratio(a, b, a - b), truth, np.abs(truth), dtype=dtype)


@pytest.mark.parametrize("weight", [0.0, 1e-9, 0.01, 0.5, 0.75])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda d: np.dtype(d).name)
def test_logarithms_of_a_mixture_are_exact_over_their_domain(weight, dtype):
    with with_dtype(dtype), mp.workdps(120):
        u = np.array([0.0, *FAR[1:], *(-f for f in FAR[1:])], dtype)
        b = mp.mpf(float(dtype(weight)))
        share = [1 - b + b * mp.exp(mp.mpf(v)) for v in u.tolist()]  # m / q
        truth = [[mp.log(m) for m in share], [mp.log(m) - mp.mpf(v) for m, v in zip(share, u.tolist(), strict=True)]]
        for ours, exact in zip(js_ratios(jnp.asarray(u), jnp.full_like(u, weight)), truth, strict=True):
            close(ours, exact, np.abs(np.array(exact, float)), span=np.abs(u), dtype=dtype)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (exp_difference, lambda u: (jnp.exp(u), jnp.ones_like(u), u)),
        (log_ratio, lambda u: (1 + u, jnp.ones_like(u), u)),
        (js_ratios, lambda u: (u, jnp.float32(0.25))),
    ],
)
@pytest.mark.parametrize("u", [0.0, 0.4, -0.4])
def test_a_rule_is_the_derivative_of_its_formula(function, arguments, u):
    """Where JAX inlines a function in a scan, it differentiates the formula."""
    by_rule, by_formula = (
        jax.jacfwd(lambda u, f=f: f(*arguments(u)))(jnp.float32(u)) for f in (function, function.fun)
    )
    close(by_formula, by_rule, np.abs(by_rule))
