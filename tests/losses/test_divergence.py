"""Divergences: their edges, near-equal and far distributions, second derivatives."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from edges import at_edges, check_edge, inf, value_and_gradient
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("kl_divergence", [-inf, 0.0], [0.0, 1.0], {}, 0, [0, -1]),
        ("kl_divergence", [-inf, 0.0], [0.5, 0.5], {}, inf, [-0.5, -0.5]),
        ("kl_divergence_with_log_targets", [-inf, 0.0], [-inf, 0.0], {}, 0, [0, -1]),
        ("kl_divergence_with_log_targets", [-2.0, 0.0], [-inf, 0.0], {}, 0, [0, -1]),
        ("generalized_kl_divergence", [-inf, 0.0], [0.0, 1.0], {}, 0, [0, 0]),
        ("generalized_kl_divergence", [0.0, 0.0], [0.0, 1.0], {}, 1, [1, 0]),
        ("jensen_shannon_divergence", [0.0, -inf], [-inf, 0.0], {}, np.log(2), [np.log(2) / 2, 0]),
        ("jensen_shannon_divergence", [-inf, 0.0], [-inf, 0.0], {}, 0, [0, 0]),
        ("jensen_shannon_divergence", [-200.0, 0.0], [-200.0, 0.0], {}, 0, [0, 0]),
        ("jensen_shannon_divergence", [0.0, -inf], [-inf, 0.0], {"beta": 0.0}, 0, [0, 0]),
        ("jensen_shannon_divergence", [0.0, -inf], [-inf, 0.0], {"beta": 1.0}, 0, [0, 0]),
        ("total_variation_distance", [0.5, 0.5], [0.5, 0.5], {}, 0, [0, 0]),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_a_divergence_whose_weight_is_at_an_end_has_second_derivatives():
    q, t = (jax.nn.log_softmax(jnp.array(a)) for a in ([[1.0, 2.0, 3.0]] * 3, [[1.0, 0.0, 3.0]] * 3))

    def total(q, beta):
        return jaxloss.jensen_shannon_divergence(q, t, beta=beta).sum()

    beta = jnp.array([0.0, 1.0, 0.5])
    by_q, by_beta = jax.jvp(jax.grad(total, (0, 1)), (q, beta), (jnp.cos(q), jnp.zeros(3)))[1]
    np.testing.assert_array_equal(by_q[:2], 0)
    assert np.isfinite(by_beta).all()
    assert np.isfinite(jax.jvp(jax.grad(total, 1), (q, beta), (0 * q, jnp.ones(3)))[1]).all()


@pytest.mark.parametrize("difference", [0.3, 1e-2, 1e-3, 1e-5])
def test_near_distributions_are_exactly_apart(difference):
    """Divergences that cannot be negative are not, and are relative to themselves what the difference is."""
    rng = np.random.default_rng(0)
    lt = np.log(rng.dirichlet(np.ones(6), 20)).astype(np.float32)
    lq = (lt + difference * rng.normal(size=lt.shape)).astype(np.float32)
    t = np.exp(lt)
    js = jaxloss.jensen_shannon_divergence(jnp.asarray(lq), jnp.asarray(lt), beta=0.3)
    kl = jaxloss.generalized_kl_divergence(jnp.asarray(lq), jnp.asarray(t))
    assert (js >= 0).all()
    assert (kl >= 0).all()
    with mp.workdps(60):
        for i in range(len(t)):
            a, b = ([mp.mpf(float(v)) for v in row] for row in (lt[i], lq[i]))
            beta = mp.mpf(float(np.float32(0.3)))
            truth, size = mp.mpf(0), mp.mpf(0)
            for u, v in zip(a, b, strict=True):
                p, q = mp.exp(u), mp.exp(v)
                m = mp.log(beta * p + (1 - beta) * q)
                truth += beta * p * (u - m) + (1 - beta) * q * (v - m)
                size += (1 - beta) * beta * p * (u - v) ** 2  # the term itself, which is never negative
            close(js[i], float(truth), float(size), span=2, dtype=np.float32)
            truth, size = mp.mpf(0), mp.mpf(0)
            for target, v in zip(t[i], b, strict=True):
                target = mp.mpf(float(target))
                u = v - mp.log(target)
                truth += target * (mp.expm1(u) - u)
                size += target * (u**2 + abs(u) * (abs(v) + 1))  # log(target) is rounded, and u has its error
            close(kl[i], float(truth), float(size), dtype=np.float32)


@pytest.mark.parametrize("beta", [0.0, 1e-9, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("margin", [5.0, 17.0, 30.0, 200.0])
def test_jensen_shannon_of_far_distributions(beta, margin):
    a, b = (jax.nn.log_softmax(jnp.array(x)) for x in ([margin, 0.0], [0.0, margin]))
    value, gradients = jax.value_and_grad(lambda *x: jaxloss.jensen_shannon_divergence(*x, beta=beta), (0, 1))(a, b)
    weight, truth, size = mp.mpf(float(np.float32(beta))), mp.mpf(0), mp.mpf(0)
    with mp.workdps(120):
        for lq, lt in zip(a.tolist(), b.tolist(), strict=True):
            t, q = mp.exp(lt), mp.exp(lq)
            m = mp.log(weight * t + (1 - weight) * q)
            truth += weight * t * (lt - m) + (1 - weight) * q * (lq - m)
            size += weight * (1 - weight) * (t + q) * (1 + abs(mp.log(weight) if weight else 0))
        close(value, float(truth), float(size), span=margin, dtype=np.float32)
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("beta", [1e-9, 1e-3, 0.5, 0.999])
def test_gradients_of_the_jensen_shannon_divergence_are_exact_in_each_entry(beta):
    """q log(m / q) and t log(m / t), whose logarithms are small for a small weight, too."""
    rng = np.random.default_rng(0)
    lq, lt = (np.log(rng.dirichlet(np.ones(50))).astype(np.float32) for _ in range(2))
    gradients = jax.grad(lambda *x: jaxloss.jensen_shannon_divergence(*x, beta=beta), (0, 1))(lq, lt)
    weight = mp.mpf(float(np.float32(beta)))
    with mp.workdps(60):
        q, t = ([mp.exp(float(v)) for v in logs] for logs in (lq, lt))
        m = [weight * b + (1 - weight) * a for a, b in zip(q, t, strict=True)]
        for ours, p, factor in zip(gradients, (q, t), (1 - weight, weight), strict=True):
            truth = [float(-factor * a * mp.log(c / a)) for a, c in zip(p, m, strict=True)]
            close(ours, truth, np.abs(truth), span=np.maximum(-lq, -lt))


def test_zeros_in_targets_have_their_gradient():
    _, by_targets = value_and_gradient(jaxloss.kl_divergence, [-1.0, -2.0], [0.0, 1.0], by=1)
    np.testing.assert_array_equal(by_targets, [-inf, 3])
    _, by_targets = value_and_gradient(jaxloss.kl_divergence_with_log_targets, [-1.0, -2.0], [-inf, 0.0], by=1)
    np.testing.assert_array_equal(by_targets, [0, 3])


@pytest.mark.parametrize("beta", [0.5, 0.3])
def test_second_derivatives_at_equal_distributions(beta):
    lp = jnp.log(jnp.array([0.5, 0.25]))
    hessian = jax.hessian(lambda a: jaxloss.jensen_shannon_divergence(a, lp, beta=beta))(lp)
    np.testing.assert_allclose(jnp.diag(hessian), beta * (1 - beta) * np.exp(lp), rtol=1e-6)
    mixed = jax.jacfwd(jax.grad(lambda a, b: jaxloss.jensen_shannon_divergence(a, b, beta=beta)), 1)(lp, lp)
    np.testing.assert_allclose(jnp.diag(mixed), -beta * (1 - beta) * np.exp(lp), rtol=1e-6)
