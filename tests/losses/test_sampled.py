"""Losses of a sample of the classes, beside the formula, beside all classes, and what they estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import same

import jaxloss

SOFTMAX, NCE = jaxloss.sampled_softmax_loss, jaxloss.nce_loss
LABELS = jnp.array([[3, -1], [8, 0], [2, 2], [5, 7]])
SAMPLED = jnp.array([1, 8, 8, 4, 5])
BOTH = pytest.mark.parametrize("loss", [SOFTMAX, NCE], ids=lambda loss: loss.__name__)


@pytest.fixture
def arrays(rng):
    shapes = (4, 6), (6, 10), (10,), (10,)
    return tuple(jnp.asarray(rng.normal(size=shape), np.float32) for shape in shapes)


def formula(loss, arrays, hits, labels=LABELS, sampled=SAMPLED):
    """Row by row, with lists."""
    hidden, weight, bias, counts = arrays
    z = hidden @ weight + (bias - counts)[None]
    losses = []
    for row, y in zip(z, labels, strict=True):
        y = [int(c) for c in y if c >= 0]
        s = [int(c) for c in sampled if int(c) not in y or not hits]
        if loss is SOFTMAX:
            among = jnp.stack([row[c] for c in y + s])
            losses.append(jax.nn.logsumexp(among) - sum(row[c] for c in y) / len(y))
        else:
            of_labels = sum(jax.nn.softplus(row[c]) - row[c] / len(y) for c in y)
            losses.append(of_labels + sum(jax.nn.softplus(row[c]) for c in s))
    return jnp.stack(losses)


@pytest.mark.parametrize("hits", [True, False])
@pytest.mark.parametrize("class_axis", [-1, 0])
@BOTH
def test_it_is_the_formula(loss, class_axis, hits, arrays):
    def ours(hidden, weight, bias, counts):
        weight = weight if class_axis else weight.T
        how = {"class_axis": class_axis, "remove_accidental_hits": hits, "log_expected_counts": counts}
        return loss(hidden, weight, LABELS, SAMPLED, bias=bias, **how)

    def total(f):
        return lambda *a: (f(*a) * jnp.array([1.0, -0.5, 2.0, 0.7])).sum()

    def theirs(*arrays):
        return formula(loss, arrays, hits)

    by = (0, 1, 2, 3)
    tangents = tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in arrays)
    pairs = [
        (ours(*arrays), theirs(*arrays)),
        (jax.grad(total(ours), by)(*arrays), jax.grad(total(theirs), by)(*arrays)),
        (jax.jvp(ours, arrays, tangents)[1], jax.jvp(theirs, arrays, tangents)[1]),
        (jax.jvp(jax.grad(total(ours)), arrays, tangents)[1], jax.jvp(jax.grad(total(theirs)), arrays, tangents)[1]),
    ]
    for a, b in zip(*(jax.tree.leaves(side) for side in zip(*pairs, strict=True)), strict=True):
        same(a, b, span=20)


def test_a_sample_of_all_classes_is_all_classes(arrays):
    hidden, weight, bias, _ = arrays
    ours = SOFTMAX(hidden, weight, jnp.arange(4)[:, None], jnp.arange(10), bias=bias)
    same(ours, jaxloss.linear_cross_entropy(hidden, weight, jnp.arange(4), bias=bias), span=5)


def test_with_the_expected_counts_the_true_logits_are_the_minimum(rng):
    """There the gradient of the mean over labels and samples is 0; without the counts it is not."""
    examples, samples, classes = 20000, 5, 300
    logits, scores = (jnp.asarray(rng.normal(size=classes), np.float32) for _ in range(2))
    log_q = jax.nn.log_softmax(scores)
    labels = jax.random.categorical(jax.random.key(1), logits, shape=(examples, 1, 1))
    sampled = jax.random.categorical(jax.random.key(2), log_q, shape=(examples, samples))
    hidden, weight = jnp.ones((1, 1)), jnp.zeros((1, classes))

    def mean(logits, counts):
        def loss(y, s):
            return SOFTMAX(hidden, weight, y, s, bias=logits, log_expected_counts=counts, reduction="mean")

        return jax.vmap(loss)(labels, sampled).mean()

    with_counts, without = (jnp.abs(jax.grad(mean)(logits, counts)).sum() for counts in (log_q + np.log(samples), None))
    assert with_counts < 0.15  # 0.09 is the noise of as many labels
    assert without > 0.4


@BOTH
def test_what_is_out_of_range(loss, arrays):
    hidden, weight, *_ = arrays
    for bad in (-2, 10):
        losses = loss(hidden, weight, LABELS.at[1, 0].set(bad), SAMPLED)
        np.testing.assert_array_equal(np.isnan(losses), [False, True, False, False])
        assert jnp.isnan(loss(hidden, weight, LABELS, SAMPLED.at[0].set(bad))).all()


@pytest.mark.parametrize("how", ["where", "weights"])
@BOTH
def test_what_is_masked_may_hold_anything(loss, how, arrays):
    hidden, weight, *_ = arrays
    kept = jnp.array([True, False, True, True])
    bad, labels = hidden.at[1].set(jnp.nan), LABELS.at[1, 0].set(-100)
    mask = {how: kept if how == "where" else kept.astype(np.float32)}
    value, gradients = jax.value_and_grad(lambda *a: loss(*a, labels, SAMPLED, reduction="mean", **mask), (0, 1))(
        bad, weight
    )
    same(value, loss(hidden[kept], weight, LABELS[kept], SAMPLED, reduction="mean"))
    assert all(jnp.isfinite(g).all() for g in gradients)


@BOTH
def test_bfloat16_is_accumulated_in_float32(loss, rng):
    hidden, weight = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((4, 512), (512, 10)))
    ours = loss(hidden, weight, LABELS, SAMPLED)
    assert ours.dtype == np.float32
    same(ours, loss(hidden.astype(np.float32), weight.astype(np.float32), LABELS, SAMPLED), span=20)
    for gradient in jax.grad(lambda *a: loss(*a, LABELS, SAMPLED).sum(), (0, 1))(hidden, weight):
        assert gradient.dtype == jnp.bfloat16
