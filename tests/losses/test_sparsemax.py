"""Sparsemax: its threshold where scores tie within a rounding, many classes; Fenchel-Young losses."""

import re

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from cases import CASES
from oracles import exact_row
from tolerances import close, same

import jaxloss

pytestmark = pytest.mark.exact

# Rows of which each alone is fine, and which step back and forth in turns: the second when the first does not.
OPPOSITE = [
    ["0x0p+0", "-0x1.99999cp-2", "-0x1.99999ap-1", "-0x1.666666p-1"],
    ["-0x1.99999cp-3", "-0x1.333332p-1", "0x0p+0", "-0x1.333332p-1"],
]


def test_rows_in_opposite_phase():
    scores = jnp.array([[float.fromhex(v) for v in row] for row in OPPOSITE])
    np.testing.assert_allclose(jaxloss.multiclass_sparsemax_loss(scores, jnp.array([0, 0])), [0.09, 0.36], rtol=1e-6)


@pytest.mark.parametrize("unit", [0.05, 0.1])
@pytest.mark.parametrize(("rows", "classes"), [(2, 3), (1000, 4), (300, 17), (64, 64)])
def test_scores_that_tie(unit, rows, classes, rng):
    """Multiples of a unit, and their neighbours."""
    scores = (unit * rng.integers(-12, 13, size=(rows, classes))).astype(np.float32)
    scores = np.nextafter(scores, scores + rng.integers(-1, 2, size=scores.shape).astype(np.float32))
    labels = rng.integers(classes, size=rows)
    losses, gradient = jax.vjp(lambda s: jaxloss.multiclass_sparsemax_loss(s, labels), jnp.asarray(scores))
    gradient = gradient(jnp.ones(rows))[0]
    close(gradient.sum(-1), np.zeros(rows), 2.0)
    formula = next(case.formula for case in CASES if case.name == "multiclass_sparsemax_loss")
    for i in range(0, rows, max(1, rows // 10)):
        truth, _ = exact_row(formula, scores[i], np.eye(classes)[labels[i]])
        close(losses[i], float(truth), 1 + np.abs(scores[i]).max(), of=f"row {i}")


@pytest.mark.parametrize("classes", [1, 2, 7, 1000])
def test_sparsemax_of_scores_far_from_zero(classes, rng):
    """Large scores lose no digits, and ties share."""
    s = jnp.asarray(np.round(rng.normal(size=(4, classes)), 2) + 1e5, np.float32)
    y = jnp.asarray(rng.integers(classes, size=4))
    loss, pull = jax.vjp(lambda s: jaxloss.multiclass_sparsemax_loss(s, y), s)
    (gradient,) = pull(jnp.ones(4))
    given, hot = np.asarray(s, np.float64), np.eye(classes)[np.asarray(y)]
    with mp.workdps(60):
        truth, _ = oracles.exact_row(oracles.multiclass_sparsemax_loss, given, hot)
    truth = np.array(truth, float)
    close(loss, truth, 1 + truth)
    best = -np.sort(-given, -1)
    tau = ((np.cumsum(best, -1) - 1) / np.arange(1, classes + 1)).max(-1, keepdims=True)
    close(gradient, np.maximum(given - tau, 0) - hot, 1)
    assert jaxloss.multiclass_sparsemax_loss(jnp.zeros((4, classes)), y)[0] == pytest.approx((1 - 1 / classes) / 2)


# Fenchel-Young losses.


def test_fenchel_young_losses_are_those_of_their_maximum(rng):
    scores = jnp.asarray(rng.normal(size=(2, 3, 5)) * 3, np.float32)
    targets = jax.nn.softmax(scores[::-1])
    entropy = jaxloss.make_fenchel_young_loss(jax.nn.logsumexp)
    plain = jaxloss.softmax_cross_entropy(scores, targets)
    same(entropy(scores, targets), plain, span=20)
    same(
        jax.grad(lambda s: entropy(s, targets).sum())(scores),
        jax.grad(lambda s: jaxloss.softmax_cross_entropy(s, targets).sum())(scores),
        span=20,
    )
    same(entropy(scores[0, 0], targets[0, 0]), plain[0, 0], span=20)
    same(jax.vmap(entropy)(scores, targets), plain, span=20)

    def at_temperature(row, temperature):
        return temperature * jax.nn.logsumexp(row / temperature)

    scaled = jaxloss.make_fenchel_young_loss(at_temperature)
    for loss in (scaled(scores, targets, 2.0), scaled(scores, targets, temperature=2.0)):
        same(loss, 2 * jaxloss.softmax_cross_entropy(scores / 2, targets), span=20)
    masked = entropy(jnp.array([1.0, -jnp.inf]), jnp.array([1.0, 0.0]))
    assert masked == 0  # NaN in optax
    with pytest.raises(ValueError, match=re.escape("expected `targets` of shape (2, 3, 5), got (2, 3, 4).")):
        entropy(scores, targets[..., :4])
