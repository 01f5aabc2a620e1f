"""The Tversky loss: values by the textbook, masks, axes, the convention of Keras."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import class_overlap_loss
from tolerances import close, same

import jaxloss

TVERSKY = jaxloss.tversky_loss
nan = np.nan


def test_keras_weighs_false_negatives_by_alpha():
    keras = pytest.importorskip("keras")
    p, t = jnp.array([0.9, 0.8, 0.1, 0.7]), jnp.array([1.0, 1.0, 0.0, 0.0])
    close(keras.losses.tversky(t, p, alpha=1.0, beta=0.0), 0.15, 1)
    close(TVERSKY(p, t, alpha=1, beta=0), 0.32, 1)
    close(keras.losses.tversky(t, p, alpha=0.2, beta=0.7), TVERSKY(p, t, alpha=0.7, beta=0.2), 1)
    close(keras.losses.dice(t, p), TVERSKY(p, t), 1)
    assert keras.losses.dice(0 * t, 0 * t) == 1
    assert TVERSKY(0 * t, 0 * t) == 0


def test_tversky(rng):
    p, t = (jnp.asarray(a, np.float32) for a in (rng.random((3, 4, 5)), rng.random((3, 4, 5)) < 0.5))
    wide = [np.asarray(a, np.float64) for a in (p, t)]
    truth = np.stack([class_overlap_loss(*(a[i] for a in wide), 0.5, 0.3, 0.9)[0] for i in range(3)])
    options = {"axis": 1, "smooth": 0.5, "alpha": jnp.full((3, 1), 0.3), "beta": 0.9}
    close(TVERSKY(p, t.astype(bool), **options), truth, truth)
    weights = np.arange(3)[:, None]  # that of the first is 0
    ours = TVERSKY(p.at[0].set(nan), t, weights=weights, reduction="mean", **options)
    close(ours, (truth * weights).sum() / 15, 1)
    both, either = (wide[0] * wide[1]).sum(), (wide[0] + wide[1] - wide[0] * wide[1]).sum()
    close(TVERSKY(p, t, alpha=1, beta=1), 1 - both / either, 1)
    close(TVERSKY(p, t), 1 - 2 * both / (wide[0].sum() + wide[1].sum()), 1)
    law = jax.jit(jax.value_and_grad(TVERSKY))
    close(law(jnp.array([1 - 2.0**-24, 2.0**-60]), jnp.array([1.0, 0.0]))[0], 2.0**-25, 2.0**-25)  # nearly perfect
    far = law(jnp.array([1e-30, 1.0]), jnp.array([1.0, 0.0]))  # all wrong: 1, rounded, with slopes by 2 I / (1 + 1)
    np.testing.assert_allclose(far[1], [-1, 5e-31], rtol=1e-6)
    nothing = law(jnp.zeros(2), jnp.zeros(2))
    assert nothing[0] == 0
    np.testing.assert_array_equal(nothing[1], 0)


def test_an_axis_of_one_may_be_summed_over_or_left(rng):
    p, t = (jnp.asarray(rng.uniform(0, 1, (2, 5)), "float32") for _ in range(2))
    rows = jaxloss.tversky_loss(p, t, axis=1)
    one = p[:, :, None], t[:, :, None]
    same(jaxloss.tversky_loss(*one, axis=(1, 2)), rows)
    same(jaxloss.tversky_loss(*one, axis=1), rows[:, None])
    same(jaxloss.tversky_loss(*one), jaxloss.tversky_loss(p, t))
    same(jaxloss.tversky_loss(*one, axis=1, where=jnp.ones((2, 5, 1), bool)), rows[:, None])


def test_an_option_of_a_masked_image_may_hold_anything(rng):
    p, t = (jnp.asarray(rng.random((2, 5)), np.float32) for _ in range(2))
    for masks in ({"weights": jnp.array([1.0, 0.0])}, {"where": jnp.array([True, False])}):
        gradient = jax.grad(lambda p, m=masks: TVERSKY(p, t, axis=1, smooth=jnp.array([1.0, nan]), **m).sum())(p)
        same(gradient[0], jax.grad(lambda p: TVERSKY(p, t[0], axis=0, smooth=1.0))(p[0]))
        np.testing.assert_array_equal(gradient[1], 0)
