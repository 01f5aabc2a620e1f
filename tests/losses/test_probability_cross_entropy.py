"""Losses of probabilities: their edges, derivatives at hard labels and by options."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from edges import at_edges, check_edge, inf, nan, value_and_gradient
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("binary_cross_entropy", 1.0, 1.0, {}, 0, -1),
        ("binary_cross_entropy", 0.0, 0.0, {}, 0, 1),
        ("binary_cross_entropy", 0.0, 1.0, {}, inf, -inf),
        ("binary_cross_entropy", 1.0, 0.0, {}, inf, inf),
        ("binary_cross_entropy", 1.5, 0.5, {}, nan, nan),
        ("binary_cross_entropy", -0.5, 0.5, {}, nan, nan),
        ("binary_cross_entropy", 1e-30, 1.0, {}, 69.077553, -1e30),
        ("categorical_cross_entropy", [0.0, 1.0], [0.0, 1.0], {}, 0, [0, -1]),
        ("categorical_cross_entropy", [0.0, 1.0], [1.0, 0.0], {}, inf, [-inf, 0]),
        ("categorical_cross_entropy_with_integer_labels", [0.0, 1.0], jnp.int32(0), {}, inf, [-inf, 0]),
        ("generalized_cross_entropy", [0.5, 0.5], jnp.int32(0), {"q": 1e-6}, 0.69314694, [-2, 0]),
        ("generalized_cross_entropy", [0.5, 0.5], jnp.int32(0), {"q": 0.0}, 0.69314718, [-2, 0]),
        ("generalized_cross_entropy", [0.0, 1.0], jnp.int32(0), {"q": 0.5}, 2, [-inf, 0]),
        ("generalized_cross_entropy", [0.0, 1.0], jnp.int32(0), {"q": 0.0}, inf, [-inf, 0]),
        ("generalized_cross_entropy", [0.0, 1.0], jnp.int32(0), {"q": 1.0}, 1, [-1, 0]),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_zeros_in_targets_have_their_gradient():
    _, by_targets = value_and_gradient(jaxloss.categorical_cross_entropy, [0.0, 0.5], [0.0, 1.0], by=1)
    np.testing.assert_allclose(by_targets, [inf, np.log(2)], rtol=1e-6)


def test_mixed_derivatives_at_hard_labels():
    def by_both(loss, *args):
        return [jax.jacfwd(jax.grad(loss, i), 1 - i)(*args) for i in (0, 1)]

    smoothing = by_both(lambda p, a: jaxloss.binary_cross_entropy(p, 0.0, label_smoothing=a), 0.3, 0.0)
    np.testing.assert_allclose(smoothing, -2.3809524, rtol=1e-6)
    for mixed in by_both(jaxloss.categorical_cross_entropy, jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])):
        np.testing.assert_allclose(mixed, [[-2, 0], [0, -2]])


def test_the_exponent_has_its_derivative():
    p, q = mp.mpf(0.25), mp.mpf(float(np.float32(0.3)))
    ours = jax.grad(lambda q: jaxloss.generalized_cross_entropy(jnp.array([0.25, 0.75]), jnp.int32(0), q=q))(0.3)
    truth = float(mp.diff(lambda q: (1 - p**q) / q, q))
    close(ours, truth, abs(truth), span=1)


def test_a_masked_label_does_not_reach_the_exponent():
    probabilities, where = jnp.array([[0.3, 0.7], [0.3, 0.7]]), jnp.array([[True, True], [True, False]])
    gce = functools.partial(jaxloss.generalized_cross_entropy, probabilities, jnp.array([0, 1]), where=where)
    assert np.isfinite(jax.grad(lambda q: gce(q=q)[0])(0.0))
