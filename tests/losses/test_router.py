"""Losses of routers: counts and probabilities of the tokens that are there, over axes and over devices."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tolerances import close, same

import jaxloss

LOSS = jaxloss.load_balancing_loss
BATCH, LENGTH, EXPERTS, K = 8, 5, 6, 2


@pytest.fixture
def routed(rng):
    logits = rng.normal(size=(BATCH, LENGTH, EXPERTS)).astype(np.float32)
    experts = np.argsort(-logits, axis=-1)[..., :K].astype(np.int32)
    where = rng.random((BATCH, LENGTH)) < 0.6
    where[1] = False
    return logits, experts, where


def by_hand(logits, experts):
    """The loss and its gradient for tokens [n, experts], in float64."""
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    f = np.bincount(experts.ravel(), minlength=EXPERTS) / experts.size
    centred = f - (p * f).sum(-1, keepdims=True)
    return EXPERTS * (f * p.mean(0)).sum(), EXPERTS / len(p) * p * centred


def garbled(routed):
    logits, experts, where = routed
    return np.where(where[..., None], logits, np.nan), np.where(where[..., None], experts, -100)


def test_balance_of_the_tokens_that_are_there(routed):
    logits, experts, where = routed
    dirty, named = garbled(routed)
    value, gradient = jax.value_and_grad(lambda x: LOSS(x, named, where=where))(dirty)
    truth, slopes = by_hand(logits[where], experts[where])
    close(value, truth, truth, span=5)
    close(gradient[where], slopes, np.abs(slopes).max(), span=5)
    np.testing.assert_array_equal(gradient[~where], 0)
    uniform, spread = np.zeros_like(logits), np.arange(BATCH * LENGTH * K).reshape(experts.shape) % EXPERTS
    close(LOSS(uniform[:3], spread[:3]), 1, 1)
    close(LOSS(uniform, 0 * experts), 1, 1)  # it does not see where the tokens go


def test_balance_of_each_sequence(routed):
    logits, experts, where = routed
    dirty, named = garbled(routed)
    ours = LOSS(dirty, named, token_axis=1, where=where)
    gradient = jax.grad(lambda x: LOSS(x, named, token_axis=-1, where=where).sum())(dirty)
    for i in range(BATCH):
        if not where[i].any():
            assert ours[i] == 0
            continue
        truth, slopes = by_hand(logits[i][where[i]], experts[i][where[i]])
        close(ours[i], truth, truth, span=5)
        close(gradient[i][where[i]], slopes, np.abs(slopes).max(), span=5)
    same(LOSS(logits, experts, token_axis=(1, 0)), LOSS(logits, experts))
    assert LOSS(logits[:0], experts[:0]) == 0


def test_normalised_sigmoids_are_a_softmax(routed):
    logits, experts, _ = routed
    scores = np.log(1 / (1 + np.exp(-logits.astype(np.float64))))
    same(LOSS(jax.nn.log_sigmoid(logits), experts), by_hand(scores.reshape(-1, EXPERTS), experts)[0])


def test_an_index_that_names_no_expert(routed):
    logits, experts, _ = routed
    for outside in (-1, EXPERTS, 2**40):
        bad = experts.astype(np.int64)
        bad[2, 3, 1] = outside
        np.testing.assert_array_equal(np.isnan(LOSS(logits, bad, token_axis=1)), np.arange(BATCH) == 2)
        assert np.isnan(LOSS(logits, bad))


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_tokens_split_over_devices(routed, kind):
    dirty, named = garbled(routed)
    where = routed[2]
    expected = jax.value_and_grad(lambda x: LOSS(x, named, where=where))(dirty)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType[kind],))):
        split = [jax.device_put(a, P("data")) for a in (dirty, named.astype(np.int32), where)]
        loss = jax.jit(jax.value_and_grad(lambda x, e, w: LOSS(x, e, where=w)))
        for ours, truth in zip(loss(*split), expected, strict=True):
            same(ours, truth, span=5)


def test_tokens_of_a_mapped_axis(routed):
    dirty, named = garbled(routed)
    where = routed[2]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def loss(x, e, w):
        return LOSS(x, e, where=w, axis_name="data")

    mapped = jax.shard_map(loss, mesh=mesh, in_specs=(P("data"),) * 3, out_specs=P())
    ours = jax.jit(jax.value_and_grad(mapped))(dirty, named.astype(np.int32), where)
    expected = jax.value_and_grad(lambda x: LOSS(x, named, where=where))(dirty)
    for a, b in zip(ours, expected, strict=True):
        same(a, b, span=5)


@pytest.mark.exact
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squared_logsumexp(dtype, rng):
    with jax.enable_x64(dtype == np.float64), mp.workdps(300):
        x = np.concatenate([rng.normal(size=(6, 5)) * scale for scale in (0.01, 3, 100)]).astype(dtype)
        value, pull = jax.vjp(jaxloss.router_z_loss, jnp.asarray(x))
        top = np.abs(x).max(-1)
        truth, _ = oracles.exact_row(oracles.squared_logsumexp, x, 0 * x)
        close(value, np.array(truth, float), (1 + top) ** 2, dtype=dtype)
        slopes, _, _ = oracles.exact_gradient(oracles.squared_logsumexp, x, 0 * x, rows=True)
        close(pull(np.ones_like(value))[0], np.array(slopes, float), (1 + top[:, None]) * 2, dtype=dtype)


def test_z_loss_of_infinite_and_masked_logits():
    x = np.array([[-np.inf] * 3, [1.0, np.nan, 2.0], [1.0, -np.inf, 2.0], [np.nan] * 3], np.float32)
    where = np.array([[True] * 3, [True, False, True], [True] * 3, [False] * 3])
    value, gradient = jax.value_and_grad(
        lambda x: jaxloss.router_z_loss(x, where=where, weights=np.float32([0, 1, 1, 1]), reduction="mean")
    )(x)
    lse = np.log(np.exp(1) + np.exp(2))
    close(value, lse**2, lse**2)
    p = np.array([np.exp(1 - lse), 0, np.exp(2 - lse)])
    close(gradient, np.array([0 * p, lse * p, lse * p, 0 * p]), 1)
    assert jaxloss.router_z_loss(x[0]) == np.inf
    np.testing.assert_array_equal(jax.grad(jaxloss.router_z_loss)(x[0]), 0)
