"""The softmax cross entropies against the textbook at 360 digits, and their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import OPTIONS
from edges import at_edges, check_edge, inf, value_and_gradient
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from logits import DTYPES, check_derivatives, hard_rows, wide, with_dtype
from oracles import (
    exact_row,
    softmax_cross_entropy,
    softmax_cross_entropy_gradient,
)
from tolerances import close, same

import jaxloss
from jaxloss._core import softmax
from jaxloss._core.classes import _MANY_ENTRIES

pytestmark = pytest.mark.exact


@pytest.mark.parametrize("classes", [2, 101, *(pytest.param(n, marks=pytest.mark.sweep) for n in (3, 48))])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_hard_labels_keep_the_relative_accuracy_of_each_entry(dtype, classes):
    """By an index, by one-hot labels and by one index of several, over the whole domain."""
    with with_dtype(dtype):
        rows = hard_rows(dtype, classes)
        labels = np.arange(len(rows)) % classes if classes > 2 else np.arange(len(rows)) * 2 // len(rows)
        if classes == 2:
            rows, labels = np.repeat(rows, 2, 0), np.tile([0, 1], len(rows))
        logits = jnp.asarray(rows, dtype)
        spans = rows.max(-1) - rows.min(-1)
        truths = [
            exact_row(softmax_cross_entropy, row, np.eye(classes)[y]) for row, y in zip(rows, labels, strict=True)
        ]
        gradients = [
            softmax_cross_entropy_gradient(row, np.eye(classes)[y], hard=True)[0]
            for row, y in zip(rows, labels, strict=True)
        ]
        truth = np.array([float(v) for v, _ in truths])
        gradient = np.array([[float(g) for g in row] for row in gradients])
        for loss, given in [
            (jaxloss.softmax_cross_entropy_with_integer_labels, jnp.asarray(labels, np.int32)),
            (jaxloss.softmax_cross_entropy, jnp.asarray(np.eye(classes)[labels], dtype)),
            (jaxloss.softmax_cross_entropy_with_indexed_labels, jnp.asarray(labels, np.int32)[:, None]),
        ]:
            ours, pull = jax.vjp(lambda x, loss=loss, given=given: loss(x, given), logits)
            (theirs,) = pull(jnp.ones_like(ours))
            assert (ours.dtype, theirs.dtype) == (wide(dtype), dtype)
            close(ours, truth, np.abs(truth), span=spans, dtype=wide(dtype))
            close(theirs, gradient, np.abs(gradient), span=spans[:, None], dtype=dtype)


@pytest.mark.parametrize("options", [{}, {"logit_scale": 1.7}, {"soft_cap": 30.0}], ids=str)
@pytest.mark.parametrize("classes", [5, 96])
@pytest.mark.parametrize("given", [True, False], ids=["given", "computed"])
def test_a_compiled_program_keeps_the_tail(given, classes, options, rng):
    """Also where its fusions compute the logits again, which rounds them in one of several ways."""
    half = rng.normal(size=(16, classes)).astype(np.float32) / 2
    half[:, 1] = rng.uniform(9, 12, size=16)
    labels = np.ones(16, np.int32)
    rows = half * np.float32(2 if given else 2.1)
    truth = np.array([float(exact_row(softmax_cross_entropy, r, np.eye(classes)[1], **options)[0]) for r in rows])
    for loss, target in [
        (jaxloss.softmax_cross_entropy_with_integer_labels, labels),
        (jaxloss.softmax_cross_entropy, np.eye(classes, dtype=np.float32)[labels]),
        (jaxloss.softmax_cross_entropy_with_indexed_labels, labels[:, None]),
    ]:

        def losses(x, loss=loss, target=target):
            return loss(x if given else x * np.float32(2.1), target, **options)

        start = jnp.asarray(rows if given else half)
        ours = jax.jit(losses)(start)
        again, _ = jax.jit(lambda x, losses=losses: (losses(x), jax.grad(lambda x: losses(x).sum())(x)))(start)
        close(ours, truth, truth, span=rows.max())
        close(again, truth, truth, span=rows.max())


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda d: np.dtype(d).name)
def test_soft_labels_over_the_whole_domain(dtype):
    with with_dtype(dtype):
        rows = hard_rows(dtype, 5)
        labels = np.random.default_rng(1).random(rows.shape).astype(dtype).astype(np.float64)
        labels[::3, 1:3] = 0
        logits, given = jnp.asarray(rows, dtype), jnp.asarray(labels, dtype)
        ours, pull = jax.vjp(jaxloss.softmax_cross_entropy, logits, given)
        by_logits, by_labels = pull(jnp.ones_like(ours))
        spans = rows.max(-1) - rows.min(-1)
        for i, (row, t) in enumerate(zip(rows, labels, strict=True)):
            truth, terms = exact_row(softmax_cross_entropy, row, t)
            close(ours[i], truth, terms, span=spans[i], dtype=dtype)
            truth, terms = softmax_cross_entropy_gradient(row, t)
            close(by_logits[i], list(map(float, truth)), list(map(float, terms)), span=spans[i], dtype=dtype)
            minus_log_p = [float(exact_row(softmax_cross_entropy, row, e)[0]) for e in np.eye(5)]
            close(by_labels[i], minus_log_p, minus_log_p, span=spans[i], dtype=dtype)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e19, 1e30])
def test_labels_may_have_any_size(size):
    truth = float(exact_row(softmax_cross_entropy, [1.0, 2.0, 3.0], np.eye(3)[0])[0])
    ours = jaxloss.softmax_cross_entropy(jnp.array([1.0, 2.0, 3.0]), size * jnp.eye(3)[0])
    close(ours, size * truth, size * truth, span=2)


SOFTMAX_POINT = [0.3, -1.2, 2.1]


SOFTMAX_LABELS = [0.2, 0.5, 0.6]


@pytest.mark.parametrize("order", [1, 2])
def test_every_derivative_of_softmax_cross_entropy(order):
    """By logits, labels and each option at once; second order forward over reverse."""

    def ours(v):
        options = dict(zip(OPTIONS, v[6:], strict=True))
        return jaxloss.softmax_cross_entropy(v[:3], v[3:6], **options)

    def truth(v):
        return exact_row(softmax_cross_entropy, v[:3], v[3:6], **dict(zip(OPTIONS, v[6:], strict=True)))[0]

    point = np.array([*SOFTMAX_POINT, *SOFTMAX_LABELS, *OPTIONS.values()], np.float32)
    check_derivatives(ours, truth, point, order)


@pytest.mark.parametrize("order", [1, 2])
def test_every_derivative_with_integer_labels(order):
    def ours(v):
        options = dict(zip(OPTIONS, v[3:], strict=True))
        return jaxloss.softmax_cross_entropy_with_integer_labels(v[:3], jnp.int32(1), **options)

    def truth(v):
        return exact_row(softmax_cross_entropy, v[:3], [0, 1, 0], **dict(zip(OPTIONS, v[3:], strict=True)))[0]

    check_derivatives(ours, truth, np.array([*SOFTMAX_POINT, *OPTIONS.values()], np.float32), order)


MORE_ROWS = ([0.3, -1.2, 2.1], 0), ([0.3, -1.2, 2.1], 2), ([1.0, 1.0, -2.0], 2), ([2.0, 2.0, 2.0], 0)


@pytest.mark.parametrize(
    ("rows", "label"),
    [
        *[([1.0, 1.0, -2.0], 0), ([2.0, 2.0, 2.0], 2), ([30.0, 1.0, 0.0], 0), ([30.0, 1.0, 0.0], 2)],
        *(pytest.param(rows, label, marks=pytest.mark.sweep) for rows, label in MORE_ROWS),
    ],
)
def test_second_order_at_ties_and_in_the_tail(rows, label):
    point = np.array(rows, np.float32)
    check_derivatives(
        lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, jnp.int32(label)),
        lambda x: exact_row(softmax_cross_entropy, x, np.eye(3)[label])[0],
        point,
        2,
    )
    check_derivatives(
        lambda x: jaxloss.softmax_cross_entropy(x, jnp.asarray(np.eye(3)[label], np.float32)),
        lambda x: exact_row(softmax_cross_entropy, x, np.eye(3)[label])[0],
        point,
        2,
    )


@pytest.mark.parametrize(
    ("logits", "label", "loss", "gradient"),
    [
        ([5.236802, 18.843138], 1, 1.2326598e-06, [1.2326591e-06, -1.2326591e-06]),
        ([17.0, 0.0], 0, 4.1399376e-08, [-4.1399375e-08, 4.1399375e-08]),
        ([90.0, 0.0], 1, 90.0, [1.0, -1.0]),
        ([200.0, 0.0], 1, 200.0, [1.0, -1.0]),
        ([1e6, 1e6 - 5], 0, 0.0067153485, [-0.0066928509, 0.0066928509]),
    ],
)
def test_published_numbers(logits, label, loss, gradient):
    logits = jnp.array(logits, np.float32)
    ours = jax.value_and_grad(jaxloss.softmax_cross_entropy_with_integer_labels)(logits, jnp.int32(label))
    np.testing.assert_allclose(ours[0], loss, rtol=2e-7)
    np.testing.assert_allclose(ours[1], gradient, rtol=2e-7)


def test_a_vocabulary_of_equal_float16_logits():
    logits = jnp.zeros(70_000, np.float16)
    loss, gradient = jax.value_and_grad(jaxloss.softmax_cross_entropy_with_integer_labels)(logits, jnp.int32(0))
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, np.log(70_000), rtol=2e-7)
    np.testing.assert_array_equal(gradient[1:], np.float16(1 / 70_000))


def test_labels_that_do_not_sum_to_one_have_their_true_gradient():
    logits, labels = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 2.0])
    gradient = jax.grad(jaxloss.softmax_cross_entropy)(logits, labels)
    np.testing.assert_allclose(gradient, 2 * (jax.nn.softmax(logits) - jnp.array([0.0, 0.0, 1.0])), rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(jaxloss.softmax_cross_entropy)(logits, jnp.zeros(3)), 0)


@at_edges(
    [
        ("softmax_cross_entropy_with_integer_labels", [-inf, -inf], jnp.int32(0), {"logit_scale": 2.0}, inf, [0, 0]),
        ("softmax_cross_entropy", [-3e38, 3e38], [0.5, 0.5], {}, 3e38, [-0.5, 0.5]),
        ("softmax_cross_entropy", [9.0, 0.0], [2e38, 0.0], {}, 2.4680436e34, [-2.4678915e34, 2.4678915e34]),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


def test_a_row_of_impossible_classes_on_every_platform(monkeypatch):
    """Elsewhere than on a CPU the sum leaves out the maximum by a comparison."""
    monkeypatch.setattr(softmax, "_tail_by_bound", softmax._tail_by_select)
    value, slope = value_and_gradient(jaxloss.softmax_cross_entropy_with_integer_labels, [-inf, -inf], jnp.int32(1))
    assert value == inf
    np.testing.assert_array_equal(slope, [0, 0])


def test_labels_far_below_a_hard_one_keep_their_gradient():
    _, slope = value_and_gradient(jaxloss.softmax_cross_entropy, [0.3, 100.0], [1e-30, 1.0])
    np.testing.assert_allclose(slope, [-1e-30, 1e-30], rtol=1e-6)


OF_A_MARGIN = [  # the loss of two logits, and its second derivative over p (1 - p)
    (lambda x: jaxloss.softmax_cross_entropy(x, jnp.array([1.0, 0.0])), lambda p: 1),
    (lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, jnp.int32(0)), lambda p: 1),
    (lambda x: jaxloss.poly_loss_cross_entropy(x, jnp.array([1.0, 0.0])), lambda p: 4 * p - 1),
    (lambda x: jaxloss.ctc_loss(x[None], labels=jnp.array([1])), lambda p: 1),
]


@pytest.mark.parametrize("in_scan", [False, True])
@pytest.mark.parametrize(("loss", "factor"), OF_A_MARGIN, ids=["dense", "integer", "poly", "ctc"])
def test_second_derivatives_of_a_sure_row(loss, factor, in_scan):
    """In a scan, too, where JAX inlines functions that have derivatives of their own."""

    def f(x):
        return jax.lax.scan(lambda total, x: (total + loss(x), None), 0.0, x[None])[0] if in_scan else loss(x)

    hessian = jax.jit(jax.vmap(jax.jacfwd(jax.grad(f))))(jnp.array([[3.0, 0.0], [17.0, 0.0]]))
    p = 1 / (1 + np.exp([-3.0, -17.0]))
    truth = (factor(p) * p / (1 + np.exp([3.0, 17.0])))[:, None, None] * np.array([[1, -1], [-1, 1]])
    np.testing.assert_allclose(hessian, truth, rtol=1e-5, atol=1e-7 if in_scan else 0)  # less exact there, but right


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=["f32", "bf16"])
def test_token_metrics(dtype, rng):
    """Of rows with ties, beside the sorted rows; masked, out of range, over another axis, over devices."""
    logits = jnp.asarray(rng.integers(-3, 4, (6, 5, 11)), dtype)
    labels = jnp.asarray(rng.integers(11, size=(6, 5)), np.int32).at[0, 0].set(11).at[0, 1].set(-1)
    found = jaxloss.token_metrics(logits, labels)
    order = np.argsort(-np.asarray(logits, np.float32), axis=-1, kind="stable")
    in_range = (labels >= 0) & (labels < 11)
    np.testing.assert_array_equal(found.rank, np.where(in_range, (order == labels[..., None]).argmax(-1), 11))
    np.testing.assert_array_equal(found.correct, (logits.argmax(-1) == labels) & in_range)
    wide_logits = logits.astype(np.float32)
    p = jax.nn.softmax(wide_logits)
    same(found.lse, jax.nn.logsumexp(wide_logits, axis=-1), span=10)
    same(found.entropy, -(p * jnp.log(p)).sum(-1), span=10)
    for k in (1, 3, 11):  # jax.lax.top_k breaks ties as argmax does
        np.testing.assert_array_equal(found.rank < k, (jax.lax.top_k(logits, k)[1] == labels[..., None]).any(-1))

    moved = jaxloss.token_metrics(jnp.moveaxis(logits, -1, 0), labels, axis=0)
    masked = jaxloss.token_metrics(logits.at[1].set(jnp.nan), labels, where=jnp.arange(6)[:, None] != 1)
    for metric, of_masked, of_moved, filler in zip(found, masked, moved, (0, False, 0, 11), strict=True):
        np.testing.assert_array_equal(of_masked, metric.at[1].set(filler))
        same(of_moved, metric, span=1)
    allowed = jnp.broadcast_to(jnp.arange(11) < 7, logits.shape)
    kept = jaxloss.token_metrics(logits, labels, where=allowed)
    fewer = jaxloss.token_metrics(logits[..., :7], jnp.where(labels < 7, labels, -1))
    same(kept.entropy, fewer.entropy, span=10)
    np.testing.assert_array_equal(kept.correct, fewer.correct)
    assert not jax.grad(lambda x: jaxloss.token_metrics(x, labels).entropy.sum())(logits).any()

    capped = jaxloss.token_metrics(logits, labels, soft_cap=2.0, logit_scale=0.5)
    expected = jaxloss.token_metrics(2 * jnp.tanh(wide_logits / 4), labels)
    np.testing.assert_array_equal(capped.rank, expected.rank)
    same(capped.lse, expected.lse, span=10)
    with jax.set_mesh(jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])):
        args = (jax.device_put(x, jax.P("data")) for x in (logits, labels))
        spread = jax.device_get(jax.jit(jaxloss.token_metrics)(*args))
    for ours, whole in zip(spread, found, strict=True):
        same(ours, whole, span=1)


@pytest.mark.parametrize("mapped", [False, True], ids=["jit", "shard_map"])
@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ([1, 2, -inf, 0], [0.5, 0.25, 0, 0.25]),
        ([1, 2, -inf, 0], [0.5, 0.25, 0.25, 0]),
        ([inf, 0, 1, 2], [1, 0, 0, 0]),
        ([inf, 0, 1, 2], [0.5, 0.5, 0, 0]),
        ([-inf] * 4, [1, 0, 0, 0]),
        ([3e38, -3e38, 0, 0], [0.5, 0.5, 0, 0]),
        ([jnp.nan, 0, 1, 2], [0, 0, 0, 1]),
    ],
)
def test_one_row_beyond_the_numbers_among_many(row, labels, mapped, rng):
    """On a CPU, many rows are summed as they stand first, and again with bounds if one is not finite then."""
    row, labels = jnp.array(row, np.float32), jnp.array(labels, np.float32)
    x = jnp.asarray(rng.normal(size=(2 * _MANY_ENTRIES, 4)), np.float32)
    t = jnp.asarray(rng.dirichlet(np.ones(4), len(x)), np.float32)

    def evaluate(x, t):
        losses, pull = jax.vjp(jaxloss.softmax_cross_entropy, x, t)
        return losses[:, None], *pull(jnp.ones_like(losses))

    many = evaluate
    if mapped:
        mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
        many = jax.shard_map(evaluate, mesh=mesh, in_specs=P("rows"), out_specs=P("rows"))
    expected = [*evaluate(x[:3], t[:3]), *evaluate(row[None], labels[None])]
    found = jax.jit(many)(x.at[3].set(row), t.at[3].set(labels))
    for ours, *truth in zip(found, expected[:3], expected[3:], strict=True):
        truth = np.concatenate(truth)
        close(ours[:4], truth, np.nan_to_num(np.abs(truth)))
