"""Losses of preferences: their tails, and the limits of probabilities near 1."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from edges import at_edges, check_edge, inf
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact

TAIL = 2.0611536e-9  # 1 - sigmoid(20)
ODDS = float(1 / mp.expm1(1))  # of a probability of exp(-1)


def kind(loss_type, **options):
    return {"loss_type": loss_type, "beta": 1.0, **options}


@at_edges(
    [
        ("dpo_loss", 20.0, 0.0, kind("sigmoid"), TAIL, -TAIL),
        ("dpo_loss", -100.0, 0.0, kind("sigmoid"), 100, -1),
        ("dpo_loss", inf, 0.0, kind("sigmoid"), 0, 0),
        ("dpo_loss", 20.0, 0.0, kind("apo_zero"), 0.5 + TAIL, -TAIL),
        ("dpo_loss", 20.0, -200.0, kind("apo_zero"), TAIL, -TAIL),
        ("dpo_loss", -200.0, -220.0, kind("apo_down"), TAIL, -TAIL),
        ("dpo_loss", -100.0, 0.0, kind("discopop"), 100, -1),
        ("dpo_loss", 80.0, 0.0, kind("discopop"), 1.8048514e-35, -1.8048514e-35),
        ("dpo_loss", 0.0, 0.0, kind("discopop"), (np.log(2) + 1) / 2, np.nan),
        ("dpo_loss", 20.0, 0.0, kind("robust", flip_probability=0.1), -2.5, -0.125),
        ("dpo_loss", 20.0, 0.0, kind("exo_pair", flip_probability=0.1), -np.log(0.9), TAIL * (20 - np.log(9))),
        ("dpo_loss", 3.0, 2.0, kind("hinge"), 0, 0),
        ("dpo_loss", 1e30, 0.0, kind("ipo"), inf, 2e30),
        ("kto_loss", 20.0, 1.0, {"beta": 1.0}, TAIL, -TAIL),
        ("kto_loss", -20.0, 0.0, {"beta": 1.0}, TAIL, TAIL),
        ("kto_loss", 21.0, 1.0, {"beta": 1.0, "kl": 1.0, "desirable_weight": 2.0}, 2 * TAIL, -2 * TAIL),
        ("odds_ratio_loss", -1e-8, -1.0, {}, 1e-8 * ODDS, -ODDS),
        ("odds_ratio_loss", 0.0, -1.0, {}, 0, -ODDS),
        ("odds_ratio_loss", -1.0, -1e-30, {}, np.log(np.e - 1) + 30 * np.log(10), -1.5819767),
        ("odds_ratio_loss", -1.0, 0.0, {}, inf, -1.5819767),
        ("odds_ratio_loss", -200.0, -200.0, {}, np.log(2), -0.5),
        ("odds_ratio_loss", -50.0, -1e-20, {}, 50 + 20 * np.log(10), -1),
        ("odds_ratio_loss", -1e-20, -1e-20, {}, np.log(2), -5e19),
        ("odds_ratio_loss", -200.0, -100.0, {}, 100, -1),
        ("odds_ratio_loss", -200.0, -1e-30, {}, 269.07755, -1),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_flipping_a_preference_is_exchanging_the_answers(rng):
    c, j = (jnp.asarray(rng.normal(size=40) * 3, np.float32) for _ in range(2))
    for loss_type, formula in {
        "sigmoid": lambda own, other, e: (1 - e) * own + e * other,
        "robust": lambda own, other, e: ((1 - e) * own - e * other) / (1 - 2 * e),
    }.items():
        own, other = jaxloss.dpo_loss(c, j), jaxloss.dpo_loss(j, c)
        for e in (0.0, 0.1, 0.4):
            ours = jaxloss.dpo_loss(c, j, loss_type=loss_type, flip_probability=e)
            close(ours, formula(own, other, e), (own + other) / (1 - 2 * e), span=1)


def test_a_point_of_reference_has_no_gradient():
    slope = jax.grad(lambda kl: jaxloss.kto_loss(jnp.float32(1), 1.0, kl=kl))(jnp.float32(0.5))
    assert slope == 0


def test_options_that_a_variant_does_not_have():
    with pytest.raises(ValueError, match=r"dpo_loss: expected `loss_type` to be one of \('sigmoid', .*, got 'dpo'\."):
        jaxloss.dpo_loss(jnp.ones(2), jnp.ones(2), loss_type="dpo")
    with pytest.raises(ValueError, match=r"expected `flip_probability` with `loss_type` in .*, got 'hinge'\."):
        jaxloss.dpo_loss(jnp.ones(2), jnp.ones(2), loss_type="hinge", flip_probability=0.1)


def test_equal_odds_near_one_have_slopes_of_both_signs():
    slope = jax.grad(jaxloss.odds_ratio_loss, 1)(jnp.float32(-1e-20), jnp.float32(-1e-20))
    np.testing.assert_allclose(slope, 5e19, rtol=1e-6)
