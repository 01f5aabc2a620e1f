"""`log_probs`: beside the textbook at many digits, beside its twin of hidden states, and its masks."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from oracles import numbers
from tolerances import close, same

import jaxloss

ROWS = [[0.0, -20.0, -40.0], [3.0, 3.0, -70.0], [1e4, 0.0, 9999.0], [0.5, -0.25, 0.125], [-jnp.inf, 0.0, -9.0]]
LABELS = np.array([0, 2, 1, 1, 2])


def textbook(row, label):
    """The log-probability and the entropy."""
    powers = [mp.exp(x - max(row)) for x in row]
    p = [power / mp.fsum(powers) for power in powers]
    return mp.log(p[label]), -mp.fsum(q * mp.log(q) for q in p if q)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float32])
def test_nothing_is_rounded_to_0(dtype):
    logits = jnp.array(ROWS, dtype)
    found = jax.jit(jaxloss.log_probs)(logits, LABELS)
    for i, row in enumerate(numbers(logits)):
        log_prob, entropy = textbook(list(row), LABELS[i])
        close(found.log_prob[i], log_prob, abs(log_prob))
        close(found.entropy[i], entropy, abs(entropy), span=10)


@pytest.mark.parametrize("options", [{}, {"soft_cap": 3.0, "logit_scale": 1.5}], ids=["plain", "options"])
def test_it_is_that_of_hidden_states(options, rng):
    logits, labels = jnp.asarray(2 * rng.normal(size=(5, 7)), np.float32), jnp.asarray(rng.integers(7, size=5))
    values = tuple(jnp.full(5, v) for v in options.values())

    def total(function):
        def both(logits, *values):
            found = function(logits, dict(zip(options, values, strict=True)))
            return (found.log_prob * jnp.arange(1.0, 6.0) + 0.3 * found.entropy).sum()

        return both

    ours = total(lambda x, named: jaxloss.log_probs(x, labels, **named))
    theirs = total(lambda x, named: jaxloss.linear_log_probs(x, jnp.eye(7), labels, **named))
    by, args = tuple(range(1 + len(values))), (logits, *values)
    tangents = tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in args)
    for derivative in (lambda f: f(*args), lambda f: jax.grad(f, by)(*args), lambda f: jax.jvp(f, args, tangents)[1]):
        for a, b in zip(jax.tree.leaves(derivative(ours)), jax.tree.leaves(derivative(theirs)), strict=True):
            same(a, b, span=10)
    second, expected = (
        jax.jvp(jax.grad(lambda x, f=f: f(x, *values)), args[:1], tangents[:1])[1] for f in (ours, theirs)
    )
    same(second, expected, span=10)


def test_masks_and_axes(rng):
    logits, labels = jnp.asarray(rng.normal(size=(4, 6)), np.float32), jnp.array([1, 0, -100, 5])
    where = labels != -100
    garbage = logits.at[2].set(jnp.nan)

    def total(x):
        return sum(part.sum() for part in jaxloss.log_probs(x, labels, where=where))

    value, gradient = jax.value_and_grad(total)(garbage)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[2], 0)
    assert np.isfinite(gradient).all()
    found = jaxloss.log_probs(logits, labels, where=where)
    np.testing.assert_array_equal(found.log_prob[2], 0)
    for a, b in zip(found, jaxloss.log_probs(logits.T, labels, where=where, axis=0), strict=True):
        same(a, b)
    allowed = jnp.arange(6) < 4
    for a, b in zip(
        jaxloss.log_probs(logits, labels, where=allowed[None]),
        jaxloss.log_probs(logits[:, :4], jnp.where(labels < 4, labels, 0)),
        strict=True,
    ):
        same(a[:2], b[:2])
    out_of_range = jaxloss.log_probs(logits, labels)
    np.testing.assert_array_equal(np.isnan(out_of_range.log_prob), labels == -100)
    assert np.isfinite(out_of_range.entropy).all()
