"""Losses whose targets name some classes by index, beside the same losses of a target for each class."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import numbers
from tolerances import FEW, close, same

import jaxloss

INDEXED = jaxloss.softmax_cross_entropy_with_indexed_labels
TOP_K = jaxloss.softmax_kl_divergence_with_top_k_targets
OPTIONS = {"z_loss": 0.05, "soft_cap": 3.0, "logit_scale": 1.5}
RESTS = "bucket", "renormalize", "drop"
INDICES = jnp.array([[0, 3, -1], [2, 1, 5], [7, 7, -1], [8, 0, 8]])
EPS = float(np.finfo(np.float32).eps)


def dense_labels(indices, labels, classes):
    return (jax.nn.one_hot(indices, classes) * labels[..., None]).sum(-2)


def total(loss):
    return lambda *arrays: (loss(*arrays) * jnp.array([1.0, -0.5, 2.0, 0.7])).sum()


def every_derivative(loss, *arrays):
    by = tuple(range(len(arrays)))
    tangents = tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in arrays)
    return (
        loss(*arrays),
        jax.grad(total(loss), by)(*arrays),
        jax.jvp(loss, arrays, tangents)[1],
        jax.jvp(jax.grad(total(loss), by), arrays, tangents)[1],
    )


def all_same(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        same(a, b, span=40)


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
def test_indexed_labels_are_labels_of_0_elsewhere(options, rng):
    x, t = jnp.asarray(2 * rng.normal(size=(4, 9)), np.float32), jnp.asarray(rng.uniform(size=(4, 3)), np.float32)
    names, values = tuple(options), tuple(jnp.full(4, v) for v in options.values())

    def ours(x, t, *values):
        return INDEXED(x, INDICES, t, **dict(zip(names, values, strict=True)))

    def theirs(x, t, *values):
        return jaxloss.softmax_cross_entropy(x, dense_labels(INDICES, t, 9), **dict(zip(names, values, strict=True)))

    all_same(every_derivative(ours, x, t, *values), every_derivative(theirs, x, t, *values))


def plain_kl(x, log_probs, indices, rest):
    """The textbook, with float64 sums."""
    log_q = jnp.take_along_axis(jax.nn.log_softmax(x), indices, -1)
    if rest == "bucket":
        r_t, r_q = (1 - jnp.exp(p).sum(-1, keepdims=True) for p in (log_probs, log_q))
        log_probs, log_q = (
            jnp.concatenate([p, jnp.log(r)], -1) for p, r in zip((log_probs, log_q), (r_t, r_q), strict=True)
        )
    else:
        log_probs = jax.nn.log_softmax(log_probs)
        log_q = jax.nn.log_softmax(log_q) if rest == "drop" else log_q
    return (jnp.exp(log_probs) * (log_probs - log_q)).sum(-1)


@pytest.mark.parametrize("rest", RESTS)
def test_a_divergence_from_the_top_k(rest, rng, with_x64):
    x, y = (jnp.asarray(rng.normal(size=(4, 9))) for _ in range(2))
    log_probs, indices = jax.lax.top_k(jax.nn.log_softmax(y), 3)
    T = jnp.array([0.5, 1.0, 2.0, 3.0])

    def ours(x, log_probs, T):
        return TOP_K(x, indices, log_probs, rest=rest, temperature=T)

    def theirs(x, log_probs, T):
        return plain_kl(x / T[:, None], log_probs, indices, rest)

    for a, b in zip(*(jax.tree.leaves(every_derivative(f, x, log_probs, T)) for f in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.exact
@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-6])
def test_where_both_nearly_agree_it_keeps_its_relative_accuracy(distance, rng):
    y = (2 * rng.normal(size=(12, 40))).astype(np.float32)
    x = (y + distance * rng.normal(size=y.shape)).astype(np.float32)
    indices = np.argsort(-y)[:, :5]
    of_named = np.take_along_axis(y, indices, -1)
    for rest in RESTS[1:] if distance == 1 else RESTS[2:]:
        truth = []
        for row, named, targets in zip(x, indices, of_named, strict=True):
            q, t = ([mp.exp(v) for v in numbers(row[named])], [mp.exp(v) for v in numbers(targets)])
            s = mp.fsum(q) if rest == "drop" else mp.fsum(mp.exp(v) for v in numbers(row))
            q, t = [v / s for v in q], [v / mp.fsum(t) for v in t]
            truth.append(float(mp.fsum(b * mp.log(b / a) for a, b in zip(q, t, strict=True))))
        ours = TOP_K(jnp.asarray(x), indices, jnp.asarray(of_named), rest=rest)
        np.testing.assert_allclose(ours, truth, rtol=20 * FEW * EPS)


def test_the_bucket_bounds_the_divergence_of_all_classes(rng):
    x, y = (jnp.asarray(2 * rng.normal(size=(50, 12)), np.float32) for _ in range(2))
    bounds = []
    for k in (1, 3, 11, 12):
        log_probs, indices = jax.lax.top_k(jax.nn.log_softmax(y), k)
        bounds.append(TOP_K(x, indices, log_probs))
    assert all((low <= high * (1 + FEW * EPS) + FEW * EPS).all() for low, high in itertools.pairwise(bounds))
    np.testing.assert_allclose(bounds[-1], jaxloss.softmax_kl_divergence(x, y), rtol=4 * FEW * EPS)


def test_without_labels_each_class_named_has_its_share():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)), np.float32)
    ours = INDEXED(x, INDICES)
    log_p = jax.nn.log_softmax(x)
    same(ours[0], -(log_p[0, 0] + log_p[0, 3]) / 2)
    same(ours[2], -log_p[2, 7])
    same(INDEXED(x, jnp.full((4, 2), -1)), jnp.zeros(4))  # of no class


@pytest.mark.parametrize("bad", [-2, 9, -100, 2**31 - 1])
def test_an_index_out_of_range_makes_its_own_row_nan(bad, rng):
    x, t = jnp.asarray(rng.normal(size=(4, 9)), np.float32), jnp.full((4, 3), -1.5)
    indices = jnp.array([[0, 3, -1], [2, bad, 5], [7, 6, -1], [8, 0, 1]])
    for loss in (INDEXED, TOP_K):
        losses, pull = jax.vjp(lambda x, t, loss=loss: loss(x, indices, t), x, t)
        for array in (losses, *pull(jnp.ones(4))):
            np.testing.assert_array_equal(np.isnan(array).any(tuple(range(1, array.ndim))), [False, True, False, False])
        kept = loss(x, indices, t, where=jnp.arange(4) != 1, reduction="mean")
        assert jnp.isfinite(kept)


def test_a_teacher_names_a_class_once():
    x, log_probs = jnp.zeros((2, 5)), jnp.full((2, 3), -2.0)
    losses = TOP_K(x, jnp.array([[1, 2, 1], [1, -1, -1]]), log_probs)
    np.testing.assert_array_equal(np.isnan(losses), [True, False])


def test_what_is_masked_may_hold_anything(rng):
    x = jnp.asarray(rng.normal(size=(4, 9)), np.float32)
    indices, t = (
        jnp.array([[0, 3], [2, -7], [7, 7], [8, 0]]),
        jnp.array([[0.2, 0.3], [np.nan, np.inf], [0.5, 0.1], [1, 0]]),
    )
    bad = x.at[1].set(jnp.nan)
    kept = jnp.array([True, False, True, True])
    for how in ({"where": kept}, {"weights": kept.astype(np.float32)}):
        value, gradients = jax.value_and_grad(
            lambda x, t, how=how: INDEXED(x, indices, t, reduction="mean", **how), (0, 1)
        )(bad, t)
        expected = INDEXED(x[kept], indices[kept], t[kept], reduction="mean")
        same(value, expected)
        assert all(jnp.isfinite(g).all() and not g[1].any() for g in gradients)


def test_infinite_logits(rng):
    row = jnp.array([0.0, -np.inf, 1.0, -np.inf])
    assert INDEXED(row, jnp.array([0, 1]), jnp.array([1.0, 0.0])) == INDEXED(row, jnp.array([0]))
    assert INDEXED(row, jnp.array([0, 1]), jnp.array([0.5, 0.5])) == np.inf
    assert INDEXED(jnp.full(4, -jnp.inf), jnp.array([0])) == np.inf
    assert INDEXED(row.at[2].set(jnp.inf), jnp.array([2])) == 0
    for indices in ([0, 1], [2, -1]):
        gradient = jax.grad(INDEXED)(row, jnp.array(indices), jnp.array([1.0, 0.0]))
        assert jnp.isfinite(gradient).all()
        assert not gradient[jnp.array([1, 3])].any()


def test_the_class_axis_is_a_matter_of_layout(rng):
    x, t = jnp.asarray(rng.normal(size=(4, 9)), np.float32), jnp.asarray(rng.uniform(size=(4, 3)), np.float32)
    for loss in (INDEXED, functools.partial(TOP_K, rest="renormalize")):
        indices = jnp.array([[0, 3, -1], [2, 1, 5], [7, 6, -1], [8, 0, 1]])
        same(loss(x.T, indices.T, t.T, axis=0), loss(x, indices, t))


def test_half_precision_is_widened_where_it_is_used(rng):
    x = jnp.asarray(3 * rng.normal(size=(4, 300)), jnp.bfloat16)
    t = jnp.asarray(rng.uniform(size=(4, 3)), jnp.bfloat16)
    ours = INDEXED(x, INDICES, t)
    assert ours.dtype == np.float32
    close(ours, INDEXED(x.astype(np.float32), INDICES, t.astype(np.float32)), np.abs(ours))
    _, pull = jax.vjp(lambda x: INDEXED(x, INDICES, t), x)
    assert pull(jnp.ones(4))[0].dtype == jnp.bfloat16
    assert sum(a.nbytes for a in jax.tree.leaves(pull)) < x.nbytes + 1000  # the logits as they are, and some numbers


@pytest.mark.parametrize("spec", [P("data"), P("data", "model")])
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_sharded_is_not_sharded(kind, spec, rng):
    x, y = (jnp.asarray(rng.normal(size=(4, 16)), np.float32) for _ in range(2))
    log_probs, indices = jax.lax.top_k(jax.nn.log_softmax(y), 3)

    def everything(x, log_probs):
        found = [INDEXED(x, indices, jnp.exp(log_probs))] + [TOP_K(x, indices, log_probs, rest=rest) for rest in RESTS]
        return jnp.stack(found)

    def derivatives(x, log_probs):
        f = lambda *arrays: (everything(*arrays) * jnp.arange(1.0, 5)[:, None]).sum()  # noqa: E731
        return everything(x, log_probs), jax.grad(f, (0, 1))(x, log_probs)

    expected = derivatives(x, log_probs)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType[kind],) * 2)
    with jax.set_mesh(mesh):
        ours = jax.jit(derivatives)(jax.device_put(x, NamedSharding(mesh, spec)), log_probs)
    for a, b in zip(jax.tree.leaves(jax.device_get(ours)), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)


@pytest.mark.parametrize("indices", [jnp.zeros((4, 0), np.int32), jnp.full((4, 2), -1)], ids=["no index", "padding"])
def test_rows_that_name_no_class_cost_nothing(indices, rng):
    x, targets = jnp.asarray(rng.normal(size=(4, 9)), np.float32), jnp.zeros(indices.shape)
    for loss in (INDEXED, *(functools.partial(TOP_K, rest=rest) for rest in RESTS)):
        value, gradient = jax.value_and_grad(lambda x, f=loss: f(x, indices, targets).sum())(x)
        assert value == 0
        assert not gradient.any()


def test_a_token_of_weight_0_may_have_any_targets(rng):
    hidden, weight = (jnp.asarray(rng.normal(size=s), np.float32) for s in ((4, 5), (5, 9)))
    weights = jnp.array([1.0, 0.0, 2.0, 0.5])
    t = jnp.full((4, 2), -1.5).at[1].set(jnp.nan)
    soft = jnp.full((4, 9), 0.1).at[1].set(jnp.inf)
    indices = jnp.array([[1, 2]] * 4)
    for loss, *targets in (
        (jaxloss.linear_cross_entropy_with_indexed_labels, indices, t),
        (jaxloss.linear_kl_divergence_with_top_k_targets, indices, t),
        (jaxloss.linear_cross_entropy_with_soft_labels, soft),
    ):

        def total(h, w, loss=loss, targets=targets):
            return loss(h, w, *targets, weights=weights, reduction="sum")

        value, gradients = jax.value_and_grad(total, (0, 1))(hidden, weight)
        assert jnp.isfinite(value)
        assert all(jnp.isfinite(g).all() for g in gradients)
        assert not gradients[0][1].any()


@pytest.mark.exact
@pytest.mark.parametrize("log_prob", [-2e-8, -1e-6, -1e-4, -0.5, -7.0])
def test_the_rest_of_a_confident_teacher_is_exact(log_prob):
    x, log_probs = jnp.array([9.0, 0.0, -5.0]), jnp.array([log_prob])
    with mp.workdps(40):
        logits = [mp.mpf(float(v)) for v in x]
        total, t = mp.fsum(mp.exp(v) for v in logits), mp.mpf(float(log_probs[0]))
        rest_q = mp.fsum(mp.exp(v) for v in logits[1:]) / total
        rest_t = -mp.expm1(t)
        truth = mp.exp(t) * (t - logits[0] + mp.log(total)) + rest_t * mp.log(rest_t / rest_q)
    np.testing.assert_allclose(TOP_K(x, jnp.array([0]), log_probs), float(truth), rtol=20 * FEW * EPS)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_an_unsigned_index_is_no_padding(dtype):
    assert jnp.isnan(INDEXED(jnp.zeros(3), np.array([0, np.iinfo(dtype).max], dtype)))


def test_a_masked_row_hides_its_temperature():
    x, indices, log_probs = jnp.zeros((2, 4)), jnp.array([[0], [1]]), jnp.full((2, 1), -1.0)
    kept = jnp.array([True, False])
    gradient = jax.grad(lambda T: TOP_K(x, indices, log_probs, temperature=T, where=kept).sum())(jnp.array([1.0, 0.0]))
    assert jnp.isfinite(gradient).all()
