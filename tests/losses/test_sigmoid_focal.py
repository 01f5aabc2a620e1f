"""The sigmoid focal loss: its second derivatives."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from oracles import derivatives
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact


def test_all_second_derivatives_of_the_sigmoid():
    def loss(x, t, gamma):
        return jaxloss.sigmoid_focal_loss(x, t, gamma=gamma)

    def exact(v):
        x, t, gamma = v
        entropy = t * mp.log1p(mp.exp(-x)) + (1 - t) * mp.log1p(mp.exp(x))
        return (t / (1 + mp.exp(x)) + (1 - t) / (1 + mp.exp(-x))) ** gamma * entropy

    for point in ([1.0, 0.5, 2.0], [-3.0, 0.25, 1.5], [7.0, 0.9, 0.5]):
        ours = jnp.array(jax.jit(jax.hessian(loss, (0, 1, 2)))(*point))
        with mp.workdps(120):
            truth = np.array(derivatives(exact, point, 2), float).reshape(3, 3)
        close(ours, truth, np.abs(truth).max(), span=10)


def test_second_derivatives_by_hard_labels():
    """Of the plain formula in float64; by the logit and the label, they are one number."""

    def plain(x, t):
        p = 1 / (1 + jnp.exp(-x))
        wrong = t * (1 - p) + (1 - t) * p
        return (0.3 * t + 0.7 * (1 - t)) * wrong**0.5 * -(t * jnp.log(p) + (1 - t) * jnp.log1p(-p))

    def ours(x, t):
        return jaxloss.sigmoid_focal_loss(x, t, alpha=0.3, gamma=0.5)

    points = [jnp.array(a) for a in ([0.3, -0.3, -5.0, 2.0], [1.0, 0.0, 0.0, 0.0])]
    found = jax.jit(jax.vmap(jax.hessian(ours, (0, 1))))(*points)
    with jax.enable_x64(True):
        truth = jax.vmap(jax.hessian(plain, (0, 1)))(*(jnp.asarray(a, np.float64) for a in points))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5)
