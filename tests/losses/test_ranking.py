"""The softmax of ranked lists: items that fill up, weights of items, and reductions as optax has them."""

import re

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from edges import SCORES, check_elements
from tolerances import close, same

import jaxloss

LOSS = jaxloss.ranking_softmax_loss


@pytest.fixture
def lists(rng):
    """Scores, relevances, weights of items, and which are items: in one list none is."""
    shape = (2, 3, 5)
    scores, labels = rng.normal(size=shape) * 3, rng.integers(4, size=shape)
    where = rng.random(shape) < 0.6
    where[0, 1] = False
    where[1, 2] = True
    arrays = (jnp.asarray(a, np.float32) for a in (scores, labels, rng.random(shape)))
    return *arrays, jnp.asarray(where)


def by_hand(scores, labels, weights, where):
    """Value, terms, gradient of one list, in which the items stand alone."""
    some = np.flatnonzero(where)
    s, y = (np.asarray(a, np.float64)[some] for a in (scores, labels * weights))
    value, terms = oracles.exact_row(oracles.softmax_cross_entropy, s, y)
    gradient, sizes = oracles.softmax_cross_entropy_gradient(s, y)
    full = np.zeros((2, len(where)))
    full[:, some] = np.array([gradient, sizes], float)
    return float(value), float(terms), *full


@pytest.mark.exact
def test_lists_are_their_items(lists):
    scores, _, _, where = lists
    dirty = [jnp.where(where, a, bad) for a, bad in zip(lists[:3], (jnp.nan, jnp.inf, jnp.nan), strict=True)]

    def losses(scores, reduce_fn=None):
        return LOSS(scores, dirty[1], where=where, weights=dirty[2], reduce_fn=reduce_fn)

    ours, gradient = losses(dirty[0]), jax.grad(lambda s: losses(s).sum())(dirty[0])
    tangent = jax.jvp(losses, (dirty[0],), (jnp.ones_like(scores).at[..., 0].set(3),))[1]
    with mp.workdps(60):
        for i in np.ndindex(2, 3):
            if not where[i].any():
                assert ours[i] == 0
                assert not gradient[i].any()
                continue
            value, terms, slopes, sizes = by_hand(*(np.asarray(a)[i] for a in lists))
            close(ours[i], value, terms, span=20)
            close(gradient[i], slopes, sizes, span=20)
    same(tangent, (gradient * jnp.ones_like(scores).at[..., 0].set(3)).sum(-1), span=10)
    assert np.isfinite(jax.hessian(lambda s: losses(s).sum())(dirty[0])).all()
    same(losses(dirty[0], jnp.sum), ours.sum(), span=10)
    same(losses(dirty[0], jnp.mean), ours.sum() / int(where.any(-1).sum()), span=10)
    same(losses(dirty[0], lambda a, where: jnp.max(a, where=where, initial=0)), ours.max())


def test_no_list_and_no_relevance_is_zero(lists):
    scores, labels, *_ = lists
    none = jnp.zeros(scores.shape, bool)
    for options in ({"where": none}, {"weights": jnp.zeros_like(scores)}):
        value, gradient = jax.value_and_grad(lambda s, o=options: LOSS(s, labels, **o))(scores)
        assert value == 0
        assert not gradient.any()
    assert LOSS(scores[:0], labels[:0]) == 0
    assert LOSS(scores[0, 0], labels[0, 0]).shape == ()  # one list
    assert LOSS(scores.astype(jnp.bfloat16), labels.astype(np.int32)).dtype == np.float32


def test_what_fills_up_is_not_seen_by_any_gradient():
    scores, labels, where = jnp.array([[1.0, 2, 3]]), jnp.array([[1.0, 0, 1]]), jnp.array([[True, True, False]])
    bad = labels.at[0, 2].set(jnp.nan)
    by_weights = jax.grad(lambda w: LOSS(scores, bad, where=where, weights=w))(jnp.ones((1, 3)))
    by_labels = jax.grad(lambda y: LOSS(scores, y, where=where, weights=bad))(labels)
    assert np.isfinite([by_weights, by_labels]).all()
    assert by_weights[0, 2] == by_labels[0, 2] == 0


def test_it_says_what_it_expected(lists):
    scores, labels, *_ = lists
    for args, options, error, sentence in [
        ((scores, labels[..., :4]), {}, ValueError, "expected `labels` of shape (2, 3, 5), got (2, 3, 4)."),
        ((labels.astype(np.int32), labels), {}, TypeError, "expected `logits` of a floating dtype, got int32."),
        (
            (scores, labels),
            {"where": labels},
            TypeError,
            "expected `where` of dtype bool, got float32; pass `where != 0`",
        ),
        ((scores, labels), {"weights": jnp.ones((2, 4))}, ValueError, "expected `weights` of a shape that broadcasts"),
    ]:
        with pytest.raises(error, match=re.escape(f"ranking_softmax_loss: {sentence}")):
            LOSS(*args, **options)


# Pairs.

PAIR = jaxloss.margin_ranking_loss


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_pairs_are_the_textbook(dtype):
    """Value and gradients, by the two pieces."""
    grid = np.meshgrid(SCORES, [-1e30, 0.25, 1.0], [-1.0, 1.0], [0.0, 0.5, 2.0])
    x, other, t, m = (v.ravel().astype(np.float32) for v in grid)
    x, other = (v.astype(dtype).astype(np.float32) for v in (x, other))
    loss = m - t * (x - other)
    active = (loss > 0).astype(np.float32)
    args = jnp.asarray(x, dtype), jnp.asarray(other, dtype), jnp.asarray(m)
    expected = np.maximum(loss, 0), -t * active, t * active, active
    check_elements(lambda x, other, m: PAIR(x, other, t, margin=m), args, expected)


def test_masked_pairs():
    masks = {"where": np.array([True, False, True]), "weights": np.array([2.0, 1.0, 0.0]), "reduction": "mean"}
    labels, scores = jnp.array([-1, 7, 3]), jnp.array([0.5, jnp.nan, jnp.inf])
    value, gradient = jax.value_and_grad(lambda x: PAIR(x, jnp.zeros(3), labels, **masks))(scores)
    assert value == 0.5
    assert gradient.tolist() == [1, 0, 0]


def test_a_tie_has_no_gradient():
    assert jax.grad(lambda x: PAIR(x, 2.0, 1.0))(2.0) == 0


def test_pairs_of_different_shapes_get_one_sentence():
    sentence = "margin_ranking_loss: expected `others` of shape (6, 3), got (3,)."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        PAIR(jnp.zeros((6, 3)), jnp.zeros(3), jnp.ones((6, 3)))


@pytest.mark.exact
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orders_of_a_list(dtype, rng):
    """Against the textbook for scores in order, near and far; the order of the array does not matter."""
    with jax.enable_x64(dtype == np.float64), mp.workdps(300):
        scores = np.concatenate([-np.sort(-rng.normal(size=(8, 5)) * s, axis=-1) for s in (0.01, 3, 30)]).astype(dtype)
        scores[::3] = scores[::3, ::-1]
        labels = np.tile(np.arange(5.0, 0, -1, dtype=dtype), (24, 1))
        turned = rng.permuted(np.tile(np.arange(5), (24, 1)), axis=1)
        moved = [np.take_along_axis(a, turned, -1) for a in (scores, labels)]
        losses, pull = jax.vjp(jaxloss.plackett_luce_loss, *map(jnp.asarray, moved))
        truth, size = oracles.exact_row(oracles.plackett_luce_loss, scores, labels)
        span = np.abs(scores).max(-1)
        close(losses, np.array(truth, float), np.array(size, float), span=span, dtype=dtype)
        slopes, size, _ = oracles.exact_gradient(oracles.plackett_luce_loss, scores, labels, rows=True)
        slopes, size = (np.take_along_axis(np.array(a, float), turned, -1) for a in (slopes, size))
        close(pull(jnp.ones_like(losses))[0], slopes, size, span=span[:, None], dtype=dtype)


def test_order_of_the_items_that_are_there(lists):
    scores, _, _, where = lists
    order = jnp.asarray(np.random.default_rng(1).permuted(np.tile(np.arange(5.0), (2, 3, 1)), axis=-1), np.float32)
    dirty = [jnp.where(where, a, jnp.nan) for a in (scores, order)]

    def losses(scores, **kwargs):
        return jaxloss.plackett_luce_loss(scores, dirty[1], where=where, **kwargs)

    value, gradient = losses(dirty[0]), jax.grad(lambda s: losses(s).sum())(dirty[0])
    for i in np.ndindex(2, 3):
        items = np.flatnonzero(where[i])
        if not len(items):
            assert value[i] == 0
            continue
        alone = jaxloss.plackett_luce_loss(scores[i][items], order[i][items])
        same(value[i], alone, span=10)
        slopes = jax.grad(lambda s, i=i, items=items: jaxloss.plackett_luce_loss(s, order[i][items]))(scores[i][items])
        same(gradient[i][items], slopes, span=10)
    np.testing.assert_array_equal(jnp.where(where, 0, gradient), 0)
    assert np.isfinite(jax.hessian(lambda s: losses(s).sum())(dirty[0])).all()
    for labels in (np.array([2**24, 2**24 + 1]), np.array([2**40, 2**40 + 1])):
        same(jaxloss.plackett_luce_loss(jnp.array([0.0, 5.0]), labels), jnp.log1p(jnp.exp(-5.0)), span=5)
    unknown = jnp.array([1.0, jnp.nan, 2.0]), jnp.array([True, False, True])
    assert np.isnan(jaxloss.plackett_luce_loss(jnp.ones(3), unknown[0]))
    assert jaxloss.plackett_luce_loss(jnp.ones(3), unknown[0], where=unknown[1]) > 0
    same(losses(dirty[0], reduction="mean"), value.sum() / int(where.any(-1).sum()), span=10)
    pairs = jaxloss.plackett_luce_loss(scores[..., :2], jnp.broadcast_to(jnp.array([1.0, 0.0]), (2, 3, 2)))
    same(pairs, jaxloss.dpo_loss(scores[..., 0], scores[..., 1], beta=1.0), span=10)
