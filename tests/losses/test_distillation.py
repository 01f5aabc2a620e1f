"""Divergences of two softmaxes where they are hard: nearly equal rows, tails, half precision, temperatures."""

import functools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from edges import at_edges, check_edge, inf
from oracles import (
    EXACT,
    numbers,
)
from tolerances import FEW

import jaxloss

pytestmark = pytest.mark.exact

LOSSES = {
    "softmax_kl_divergence": oracles.softmax_kl_divergence,
    "softmax_jensen_shannon_divergence": oracles.softmax_jensen_shannon_divergence,
}
each_loss = pytest.mark.parametrize("name", LOSSES)
EPS = float(np.finfo(np.float32).eps)


def losses_of(name, x, y, **options):
    return jax.jit(functools.partial(getattr(jaxloss, name), **options))(jnp.asarray(x), jnp.asarray(y))


def truth_of(name, x, y, **options):
    options = {k: mp.mpf(float(v)) for k, v in options.items()}
    terms = LOSSES[name](EXACT, numbers(np.asarray(x, np.float64)), numbers(np.asarray(y, np.float64)), **options)
    return np.array([float(v) for v in sum(term.sum(-1) for term in terms)])


def relative_error(ours, truth):
    return float(np.max(np.abs(np.asarray(ours, np.float64) - truth) / truth))


@each_loss
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_nearly_equal_rows_keep_their_relative_accuracy(name, distance, temperature, rng):
    y = 2 * rng.normal(size=(12, 40)).astype(np.float32)
    x = (y + distance * rng.normal(size=y.shape)).astype(np.float32)
    ours = losses_of(name, x, y, temperature=temperature)
    assert relative_error(ours, truth_of(name, x, y, temperature=temperature)) < 4 * FEW * EPS
    np.testing.assert_array_equal(losses_of(name, y, y, temperature=temperature), 0)


@each_loss
def test_tails_keep_their_relative_accuracy(name, rng):
    """Where one class has nearly all of the probability: of both, of one of them, of each another."""
    y = rng.normal(size=(12, 40)).astype(np.float32)
    plain, confident = y + rng.normal(size=y.shape).astype(np.float32), y.copy()
    confident[:, 3] += 25
    less, another = plain.copy(), plain.copy()
    less[:, 3] += 18
    another[:, 5] += 20
    for student, teacher in [(less, confident), (confident, less), (plain, confident), (confident, plain)]:
        assert relative_error(losses_of(name, student, teacher), truth_of(name, student, teacher)) < 20 * FEW * EPS
    assert relative_error(losses_of(name, another, confident), truth_of(name, another, confident)) < 20 * FEW * EPS


def test_the_gradients_of_confident_rows_are_not_lost(rng):
    """They sum to 0, and each is that of the textbook: at the likely class, too, where 1 - p would round to 0."""
    y = rng.normal(size=8).astype(np.float32)
    x = y + rng.normal(size=8).astype(np.float32)
    x[2], y[2] = 18, 25
    ours = jax.grad(jaxloss.softmax_kl_divergence, (0, 1))(jnp.asarray(x), jnp.asarray(y))
    for by in (0, 1):
        truth = oracles.exact_gradient(oracles.softmax_kl_divergence, x, y, by=by, rows=True)[0]
        assert np.max(np.abs(np.asarray(ours[by], np.float64) / np.array(truth, np.float64) - 1)) < 20 * FEW * EPS


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16], ids=lambda d: np.dtype(d).name)
@each_loss
def test_half_precision_is_exact_where_rounded_log_probabilities_are_not(name, dtype, rng):
    y = jnp.asarray(2 * rng.normal(size=(6, 200)), dtype)
    x = jnp.asarray(y.astype(np.float32) + 0.1 * rng.normal(size=y.shape), dtype)
    wide, truth = [a.astype(np.float32) for a in (x, y)], truth_of(name, x, y, temperature=2.0)
    ours = losses_of(name, x, y, temperature=2.0)
    np.testing.assert_allclose(ours, losses_of(name, *wide, temperature=2.0), rtol=FEW * EPS)
    assert relative_error(ours, truth) < 4 * FEW * EPS
    if name == "softmax_kl_divergence":
        rounded = jaxloss.kl_divergence_with_log_targets(*(jax.nn.log_softmax(a / 2) for a in (x, y)))
        assert relative_error(rounded, truth) > 1e-3


@each_loss
def test_the_derivative_by_the_temperature_of_nearly_equal_rows(name, rng):
    """Nearly -2 / T times the loss, which is a difference of much larger terms."""
    y = 2 * rng.normal(size=(5, 40)).astype(np.float32)
    x = (y + 1e-5 * rng.normal(size=y.shape)).astype(np.float32)
    step = 1e-20
    far, near = (
        LOSSES[name](EXACT, numbers(x), numbers(y), temperature=mp.mpf(3) + side * mp.mpf(step)) for side in (1, -1)
    )
    truth = [float(v / (2 * mp.mpf(step))) for v in sum((a - b).sum(-1) for a, b in zip(far, near, strict=True))]
    T = jnp.full(5, 3.0)
    for mode in (jax.jacrev, jax.jacfwd):
        ours = mode(lambda T: getattr(jaxloss, name)(jnp.asarray(x), jnp.asarray(y), temperature=T).sum())(T)
        assert np.max(np.abs(np.asarray(ours, np.float64) / truth - 1)) < 20 * FEW * EPS


def test_a_temperature_of_each_row_and_the_scale_of_the_gradient(rng):
    x, y = (jnp.asarray(rng.normal(size=(3, 9)), np.float32) for _ in range(2))
    T = jnp.array([0.5, 2.0, 7.0])
    ours = jax.jit(lambda T: jaxloss.softmax_kl_divergence(x, y, temperature=T))(T)
    each = [jaxloss.softmax_kl_divergence(x[i], y[i], temperature=float(T[i])) for i in range(3)]
    np.testing.assert_allclose(ours, each, rtol=FEW * EPS)
    gradient = jax.grad(lambda x: jaxloss.softmax_kl_divergence(x, y, temperature=T).sum())(x)
    expected = (jax.nn.softmax(x / T[:, None]) - jax.nn.softmax(y / T[:, None])) / T[:, None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_the_reverse_divergence_is_that_of_the_exchanged_arrays(rng):
    x, y = (jnp.asarray(rng.normal(size=(3, 9)), np.float32) for _ in range(2))
    log_q, log_t = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    reverse = jaxloss.softmax_kl_divergence(y, x)
    np.testing.assert_allclose(reverse, jaxloss.kl_divergence_with_log_targets(log_t, log_q), rtol=1e-5)


def test_no_row_of_half_precision_is_saved_wide(rng):
    """What is kept for the backward pass is the two arrays and some numbers a row."""
    x, y = (jnp.asarray(rng.normal(size=(4, 512)), jnp.bfloat16) for _ in range(2))
    for name in LOSSES:
        _, pull = jax.vjp(functools.partial(getattr(jaxloss, name), temperature=jnp.float32(2)), x, y)
        kept = [a for a in jax.tree.leaves(pull) if a.size >= x.size]
        assert len(kept) == 2
        assert all(a.dtype == jnp.bfloat16 for a in kept)


@at_edges(
    [
        ("softmax_kl_divergence", [0.0, -inf], [3.0, -inf], {}, 0, [0, 0]),
        ("softmax_kl_divergence", [0.0, 0.0], [3.0, -inf], {}, np.log(2), [-0.5, 0.5]),
        ("softmax_kl_divergence", [0.0, -inf], [0.0, 0.0], {}, inf, [0.5, 0]),
        ("softmax_kl_divergence", [-inf, -inf], [0.0, -inf], {}, inf, [0, 0]),
        ("softmax_kl_divergence", [0.0, 1.0], [-inf, -inf], {}, inf, [0, 0]),
        ("softmax_kl_divergence", [inf, 0.0], [0.0, inf], {}, inf, [1, -1]),
        ("softmax_kl_divergence", [1e30, 0.0], [3e38, 0.0], {"temperature": 3e4}, 0, [0, 0]),
        ("softmax_kl_divergence", [0.0, 1e30], [1e30, 0.0], {"temperature": 0.5}, 2e30, [-2, 2]),
        ("softmax_jensen_shannon_divergence", [-inf, 0.0], [3.0, -inf], {}, np.log(2), [0, 0]),
        ("softmax_jensen_shannon_divergence", [0.0, -inf], [0.0, -inf], {"temperature": 3.0}, 0, [0, 0]),
        ("softmax_jensen_shannon_divergence", [-inf, -inf], [0.0, -inf], {}, inf, [0, 0]),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)
