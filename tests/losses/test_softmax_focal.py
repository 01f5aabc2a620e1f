"""Softmax focal losses where they are bent most: sure and hopeless rows, impossible classes, second derivatives."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from oracles import derivatives
from tolerances import close, same

import jaxloss

pytestmark = pytest.mark.exact

INDEX, DENSE = jaxloss.softmax_focal_loss_with_integer_labels, jaxloss.softmax_focal_loss
FIRST = jnp.array([1.0, 0.0, 0.0])


def focal(z, gamma):
    """Of the first of three logits, the last of which is 0, at many digits."""
    others = mp.exp(z[1] - z[0]) + mp.exp(-z[0])
    return mp.log1p(others) * (others / (1 + others)) ** gamma


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
def test_second_derivatives_of_sure_and_hopeless_rows(gamma):
    @jax.jit
    def by_index(z):
        return jax.hessian(lambda z: INDEX(jnp.append(z, 0), jnp.int32(0), gamma=gamma))(z)

    @jax.jit
    def dense(z):
        return jax.hessian(lambda z: DENSE(jnp.append(z, 0), FIRST, gamma=gamma))(z)

    for z in ([0.3, -0.2], [5.0, 1.0], [17.0, 2.0], [47.0, 0.0], [-9.0, 3.0], [-60.0, 0.5]):
        with mp.workdps(120):
            truth = np.array(derivatives(lambda z: focal(z, gamma), z, 2), float).reshape(2, 2)
        for ours in (by_index(jnp.array(z)), dense(jnp.array(z))):
            close(ours, truth, np.abs(truth).max(), span=(1 + gamma) * np.abs(z).max(), of=str(z))


def test_impossible_classes_cost_and_push_nothing():
    x = jnp.array([0.0, -jnp.inf, 0.0])
    kept = jnp.array([True, False, True])
    expected = jax.grad(lambda g: INDEX(jnp.zeros(2), jnp.int32(0), gamma=g))(2.0)
    same(jax.grad(lambda g: DENSE(x, FIRST, gamma=g))(2.0), expected)
    same(jax.grad(lambda g: DENSE(x.at[1].set(jnp.nan), FIRST, gamma=g, where=kept))(2.0), expected)
    assert jax.grad(lambda g: INDEX(x, jnp.int32(1), gamma=g))(2.0) == 0
    by_alpha = jax.grad(lambda a: DENSE(x, FIRST, alpha=a))(jnp.ones(3))
    same(by_alpha, jnp.array([DENSE(x, FIRST), 0, 0]))
    same(INDEX(x, jnp.int32(0), alpha=jnp.array([3.0, 1.0, 1.0])), 3 * INDEX(x, jnp.int32(0)), span=2)
    for sure in (jnp.array([5.0, -jnp.inf]), jnp.array([5.0])):
        for gamma in (0.0, 0.5, 2.0):
            hessian = jax.hessian(functools.partial(INDEX, labels=jnp.int32(0), gamma=gamma))(sure)
            np.testing.assert_array_equal(hessian, 0)


def test_by_gamma_a_hopeless_row_keeps_its_digits():
    ours = jax.grad(lambda g: INDEX(jnp.array([-17.0, 0.0, 1.0]), jnp.int32(0), gamma=g))(1.0)
    with mp.workdps(60):
        others = mp.exp(18) + mp.exp(17)
        p = 1 / (1 + others)
        truth = -mp.log(p) * (1 - p) * mp.log1p(-p)
    close(ours, float(truth), abs(float(truth)), span=18)


@pytest.mark.parametrize("alpha", [0.7, [0.7, 0.7, 0.7]])
def test_removed_classes_do_not_reach_alpha(alpha):
    x, t, kept = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 0.5, 0.0]), jnp.array([True, True, False])

    def slope(alpha):
        return jax.grad(lambda t: jaxloss.softmax_focal_loss(x, t, alpha=alpha, where=kept))(t)

    found = jax.jacrev(slope)(jnp.array(alpha))
    np.testing.assert_allclose(found.sum(-1) if found.ndim > 1 else found, [0.70186836, 0.02265805, 0], rtol=1e-5)
    rows, labels = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0, 1])
    one = jax.grad(
        lambda a: jaxloss.softmax_focal_loss_with_integer_labels(
            rows, labels, alpha=a, where=jnp.array([[True, True], [False, False]]), reduction="sum"
        )
    )(jnp.float32(0.7))
    np.testing.assert_allclose(one, 0.70186836, rtol=1e-5)
