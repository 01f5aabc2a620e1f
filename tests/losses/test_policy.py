"""Policy losses and estimates of a divergence: masks, far ratios, the derivatives that are not those of the value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from edges import at_edges, check_edge, inf
from tolerances import close, same

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("ppo_clip_loss", 0.0, -200.0, {"advantages": 1.0}, -1.2, 0),
        ("ppo_clip_loss", -200.0, 0.0, {"advantages": 1.0}, 0, 0),
        ("ppo_clip_loss", -200.0, 0.0, {"advantages": -1.0}, 0.8, 0),
        ("ppo_clip_loss", 0.0, -200.0, {"advantages": -1.0, "dual_clip": 3.0}, 3, 0),
        ("ppo_clip_loss", 0.0, -200.0, {"advantages": -1.0}, inf, inf),
        ("ppo_clip_loss", 0.0, -200.0, {"advantages": 0.0}, 0, 0),
        ("ppo_clip_loss", -1.0, -1.0, {"advantages": 2.0}, -2, -2),
        ("ppo_clip_loss", -1.0, -1.0, {"advantages": 2.0, "clip_high": 0.0}, -2, 0),
        ("ppo_clip_loss", -inf, -1.0, {"advantages": 2.0}, 0, 0),
        ("ppo_clip_loss", -inf, -1.0, {"advantages": -2.0, "clip_low": 1.0}, 0, 0),
        ("cispo_loss", -1.0, -200.0, {"advantages": 2.0}, 10, -10),
        ("cispo_loss", -200.0, -1.0, {"advantages": 2.0}, 0, 0),
        ("cispo_loss", -200.0, -1.0, {"advantages": 2.0, "min_ratio": 0.5}, 200, -1),
        ("sapo_loss", 0.0, -200.0, {"advantages": 1.0}, -4, 0),
        ("sapo_loss", 0.0, -200.0, {"advantages": -1.0}, 4 / 1.05, 0),
        ("sapo_loss", -200.0, 0.0, {"advantages": 1.0}, -1.0757657, 0),
        ("sapo_loss", -3.0, -3.0, {"advantages": -2.0}, 4 / 1.05, 2),
        ("policy_gradient_loss", -inf, 0.0, {}, 0, 0),
        ("policy_gradient_loss", -0.5, -3.0, {}, -1.5, 3),
        ("clipped_value_loss", 1.0, 0.0, {"returns": 1.0}, 0.32, 0),
        ("clipped_value_loss", 1.0, 0.0, {"returns": -1.0}, 2, 2),
        ("clipped_value_loss", 1e30, 0.0, {"returns": 1.0, "clip": inf}, inf, 1e30),
        ("clipped_value_loss", 0.1, 0.0, {"returns": 0.1}, 0, 0),
        ("kl_estimate", -3.0, -3.0, {}, 0, 0),
        ("kl_estimate", -3.0, -3.0, {"estimator": "k1"}, 0, 1),
        ("kl_estimate", 0.0, 1e-4, {}, 5.0001667e-9, -1.0000500e-4),
        ("kl_estimate", 0.0, -1e-4, {"estimator": "k3+"}, 4.9998333e-9, 1e-4),
        ("kl_estimate", 0.0, -200.0, {}, 199, 1),
        ("kl_estimate", -200.0, 0.0, {}, inf, -inf),
        ("kl_estimate", -200.0, 0.0, {"estimator": "k3+"}, inf, -200),
        ("kl_estimate", -200.0, 0.0, {"estimator": "k1+"}, -200, -200),
        ("kl_estimate", -200.0, -1.0, {"old_log_probs": -1.0}, 1, 0),  # exp(q - old), though the ratio is 0
        ("kl_estimate", -3.0, -3.0, {"old_log_probs": -200.0}, 0, 0),
        ("kl_estimate", -inf, 0.0, {}, inf, -inf),
        ("kl_estimate", 0.0, -5.0, {"old_log_probs": -100.0}, inf, inf),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


GARBAGE = [np.nan, np.inf, -np.inf, 0.0, 1e30]
LOSSES = [
    jaxloss.ppo_clip_loss,
    jaxloss.cispo_loss,
    jaxloss.sapo_loss,
    lambda x, t, a, **kwargs: jaxloss.policy_gradient_loss(x, a, **kwargs) + jaxloss.kl_estimate(x, t, **kwargs),
    lambda x, t, a, **kwargs: jaxloss.kl_estimate(x, t, a, estimator="k3+", **kwargs),
    lambda x, t, a, **kwargs: jaxloss.clipped_value_loss(x, t, a, **kwargs),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mask", ["where", "weights"])
def test_padding_may_hold_anything(loss, mask, rng):
    """Padding that another engine returned has log-probabilities of -200, 0 and NaN."""
    x, t, a = (jnp.asarray(rng.normal(size=(3, 4)), np.float32) for _ in range(3))
    valid = jnp.asarray(rng.random((3, 4)) < 0.6)
    options = {mask: valid if mask == "where" else valid.astype(np.float32)}

    def law(x, t, a):
        return jax.value_and_grad(lambda *args: loss(*args, **options).sum(), (0, 1, 2))(x, t, a)

    value, gradients = law(x, t, a)
    for garbage in GARBAGE:
        dirty = [jnp.where(valid, array, garbage) for array in (x, t, a)]
        dirty[1] = jnp.where(valid, t, -200.0)
        found, derivatives = law(*dirty)
        same(found, value)
        for ours, expected in zip(derivatives, gradients, strict=True):
            same(ours, jnp.where(valid, expected, 0))


def test_advantages_of_sequences_are_aligned_by_hand():
    """As many sequences as tokens would be aligned with the wrong axis."""
    square = jnp.zeros((4, 4))
    for loss in (jaxloss.ppo_clip_loss, jaxloss.cispo_loss, jaxloss.sapo_loss):
        expected = r"expected `advantages` of rank 2, as `log_probs`, got shape \(4,\); .* pass `advantages\[:, None\]`"
        with pytest.raises(ValueError, match=expected):
            loss(square, square, jnp.zeros(4))
        loss(square, square, jnp.zeros((4, 1)))
        loss(square, square, 1.0)


def test_cispo_is_a_policy_gradient_of_bounded_ratios(rng):
    x, old, a = (jnp.asarray(rng.normal(size=(6, 5)), np.float32) for _ in range(3))
    bounded = jnp.clip(jnp.exp(x - old), 0.5, 1.5)
    options = {"min_ratio": 0.5, "max_ratio": 1.5}
    close(jaxloss.cispo_loss(x, old, a, **options), -bounded * a * x, np.abs(bounded * a * x), span=5)
    ours = jax.grad(lambda *args: jaxloss.cispo_loss(*args, **options).sum(), (0, 1))(x, old, a)
    close(ours[0], -bounded * a, np.abs(bounded * a), span=5)
    np.testing.assert_array_equal(ours[1], 0)


def test_gradients_of_estimates_are_those_of_the_divergence():
    """Over all actions of a policy, weighted by their probability under the policy that sampled."""
    with jax.enable_x64(True):
        logits, reference, old = (jnp.asarray(np.random.default_rng(i).normal(size=7)) for i in range(3))
        q, p_old = jax.nn.log_softmax(reference), jax.nn.log_softmax(old)

        def expectation(logits, sampled, **kwargs):
            return (jnp.exp(sampled) * jaxloss.kl_estimate(jax.nn.log_softmax(logits), q, **kwargs)).sum()

        def divergence(logits):
            return jaxloss.softmax_kl_divergence(reference, logits)  # KL(p || q)

        p = jax.nn.log_softmax(logits)
        truth = jax.grad(divergence)(logits)
        for estimator in ("k2", "k1+", "k3+"):
            ours = jax.grad(expectation)(logits, p, estimator=estimator)
            close(ours, truth, 10, dtype=np.float64)
        other = jax.grad(jaxloss.softmax_kl_divergence)(logits, reference)
        close(jax.grad(expectation)(logits, p), other, 10, dtype=np.float64)
        close(jax.grad(expectation)(logits, p, estimator="k1"), 0 * truth, 10, dtype=np.float64)
        for estimator in ("k1", "k3", "k1+", "k3+"):
            value, ours = jax.value_and_grad(expectation)(logits, p_old, old_log_probs=p_old, estimator=estimator)
            close(value, divergence(logits), 10, dtype=np.float64)
            close(ours, truth, 10, dtype=np.float64)
