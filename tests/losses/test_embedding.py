"""Losses of pairs and triplets of embeddings: textbook values and derivatives, edges, masks, peers."""

import functools
import re

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from edges import SCORES, check_elements, inf, nan
from tolerances import close, same

import jaxloss

TRIPLET, COSINE = jaxloss.triplet_margin_loss, jaxloss.cosine_embedding_loss
HINGE = jaxloss.hinge_embedding_loss


def exact_distance(a, b, q, eps):
    """By the formula, from lists of numbers at many digits."""
    return (sum(abs(u - v) ** q for u, v in zip(a, b, strict=True)) + eps) ** (1 / q)


def exact_slope(a, b, q, eps):
    """By a: sign(u) |u|^(q-1) / d^(q-1)."""
    d = exact_distance(a, b, q, eps)
    return [mp.sign(u - v) * (abs(u - v) / d) ** (q - 1) for u, v in zip(a, b, strict=True)]


def exact_triplet(a, p, n, q, m, eps, swap):
    """The loss, its terms' size, the gradient by a, p and n, the size of each entry of it."""
    zero = [mp.mpf(0)] * len(a)
    d_ap, d_an, d_pn = (exact_distance(u, v, q, eps) for u, v in ((a, p), (a, n), (p, n)))
    by_p, swapped = exact_slope(a, p, q, eps), swap and d_pn < d_an
    by_n = exact_slope(p if swapped else a, n, q, eps)
    loss = d_ap - (d_pn if swapped else d_an) + m
    first, second = (zero, by_n) if swapped else (by_n, zero)
    terms = [list(zip(by_p, first, strict=True)), list(zip(by_p, second, strict=True)), [(v, 0) for v in by_n]]
    gradient = [[u - v for u, v in terms[0]], [-u - v for u, v in terms[1]], [u for u, _ in terms[2]]]
    active = loss > 0
    sizes = [[abs(u) + abs(v) for u, v in each] for each in terms]
    return max(loss, 0), d_ap + d_an + abs(m), [[active * v for v in row] for row in gradient], sizes


def numbers(x):
    return [mp.mpf(float(v)) for v in x]


def triplets(rng, dtype=np.float32, scale=1.0):
    """Some of whose features are equal, and whose lengths differ."""
    a, p, n = (rng.normal(size=(8, 5)) * scale for _ in range(3))
    p[:4] = a[:4] + 0.3 * p[:4]
    p[2, 1], n[3, 2] = a[2, 1], a[3, 2]
    return [jnp.asarray(v, dtype) for v in (a, p, n)]


@functools.partial(jax.jit, static_argnames=("q", "swap"))
def everything(a, p, n, m, eps, traced, q, swap):
    loss, pull = jax.vjp(lambda *x: TRIPLET(*x, -1, traced if q is None else q, m, eps, swap=swap), a, p, n)
    return loss, pull(jnp.ones_like(loss))


DEGREES = [(np.float32, q) for q in (1, 1.5, 2, 3, None)]


@pytest.mark.exact
@pytest.mark.parametrize(
    ("dtype", "q"), [*DEGREES, (np.float64, 2), (np.float64, 1.5), (jnp.bfloat16, 2), (np.float16, 1.5)]
)
def test_triplets_are_the_textbook(dtype, q, rng):
    huge = {np.float16: 100.0, np.float64: 1e150}.get(dtype, 1e30)
    wide = np.float64 if dtype == np.float64 else np.float32
    with jax.enable_x64(dtype == np.float64), mp.workdps(60):
        for scale, eps in [(1.0, 0.0), (0.01, 1e-6), (huge, 1e-6), (1 / huge, 0.0)]:
            x, swap = triplets(rng, dtype, scale), eps > 0
            options = [wide(v) for v in (0.4 * scale, eps, 2.5)]
            loss, gradient = everything(*x, *options, q, swap)
            m, eps, degree = numbers(options)
            degree = degree if q is None else mp.mpf(q)
            for i in range(len(loss)):
                truth, size, slopes, sizes = exact_triplet(*(numbers(v[i]) for v in x), degree, m, eps, swap)
                close(loss[i], float(truth), float(size), dtype=wide)
                ours = np.stack([np.asarray(g[i], np.float64) for g in gradient])
                close(ours, *(np.array(v, float) for v in (slopes, sizes)), span=float(degree), dtype=dtype)


@pytest.mark.exact
def test_the_degree_has_its_gradient_at_tiny_distances():
    x = (1e-30 * jnp.array(a) for a in ([0.0, 0.0], [3.0, 4.0], [0.0, 1.0]))
    a, p, n = x
    slope = jax.grad(lambda q: jaxloss.triplet_margin_loss(a, p, n, norm_degree=q, eps=0.0, margin=1e-30))(2.0)
    np.testing.assert_allclose(slope, 5e-30 * (0.36 * np.log(0.6) + 0.64 * np.log(0.8)) / 2, rtol=1e-5)


def test_the_degree_the_margin_and_eps_have_their_gradients(rng):
    x = triplets(rng)

    @jax.jit
    def both(*given):
        return [f(lambda *options: TRIPLET(*x, -1, *options), (0, 1, 2))(*given) for f in (jax.jacrev, jax.jacfwd)]

    for q, eps in [(1.0, 0.01), (1.5, 0.0), (2.0, 0.01), (3.0, 0.2)]:
        given = [jnp.float32(v) for v in (q, 0.4, eps)]
        ours, forward = both(*given)
        same(jnp.stack(forward), jnp.stack(ours), span=3)
        with mp.workdps(60):
            for i in range(8):
                rows = [numbers(v[i]) for v in x]
                for k in range(3):
                    orders = tuple(int(k == j) for j in range(3))
                    if k == 2 and eps == 0:
                        continue  # no value below
                    truth = mp.diff(lambda *o, r=rows: exact_triplet(*r, *o, False)[0], tuple(numbers(given)), orders)
                    close(ours[k][i], float(truth), max(2.0, abs(float(truth))), span=3)


def test_a_python_degree_is_the_traced_one_without_powers(rng):
    x = triplets(rng)
    hessian = jax.hessian(lambda a, q: TRIPLET(a, *x[1:], -1, q, 9.0, eps=0).sum())
    traced = jax.jit(hessian)
    for q in (1, 2):
        assert " pow" not in str(jax.make_jaxpr(lambda *x, q=q: TRIPLET(*x, -1, q))(*x))
        same(traced(x[0], jnp.float32(q)), jax.jit(lambda a, q=q: hessian(a, q))(x[0]), span=3)


@pytest.mark.exact
@pytest.mark.parametrize("degree", [1, 1.5, 2, 3, inf, "traced"])
def test_a_vector_and_itself(degree):
    """Without eps: the gradient is 0 in both modes, and the Hessian finite."""
    x = jnp.array([[0.3, -2.0, 0.0]])

    def loss(a, p, n, q):
        return TRIPLET(a, p, n, -1, q if degree == "traced" else degree, 10.0, 0.0, swap=True).sum()

    @jax.jit
    def every(*args):
        by = 0, 1, 2
        return loss(*args), [f(loss, by)(*args) for f in (jax.grad, jax.jacfwd)], jax.hessian(loss, by)(*args)

    value, gradients, hessian = every(x, x, x, jnp.float32(2.5))
    assert value == 10
    assert all((g == 0).all() for g in jax.tree.leaves(gradients))
    assert all(np.isfinite(h).all() for h in jax.tree.leaves(hessian))
    near = every(x, x, x + jnp.array([[3.0, 0.0, -4.0]]), jnp.float32(2.5))
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(near))


@pytest.mark.exact
def test_large_degrees_near_the_largest_difference(rng):
    x = triplets(rng)
    to_p, to_n = (np.abs(x[0] - b).max(-1) for b in x[1:])

    @jax.jit
    def every(traced):
        by_p = jax.grad(lambda p: TRIPLET(x[0], p, x[2], -1, inf, 9.0).sum())(x[1])
        return [TRIPLET(*x, -1, q, 9.0, 0.0) for q in (inf, 200.0, traced)], by_p

    losses, by_p = every(1e6)
    for ours, most in zip(losses, (1, 5 ** (1 / 200), 1.00001), strict=True):
        assert (np.abs(ours - (to_p - to_n + 9)) <= (most - 1) * np.maximum(to_p, to_n) + 1e-5).all()
    difference = np.asarray(x[1] - x[0])
    np.testing.assert_array_equal(by_p, np.sign(difference) * (np.abs(difference) == to_p[:, None]))


def test_kinks_have_no_gradient():
    zero, n, y = jnp.zeros((1, 2)), jnp.array([[0.0, 2.0]]), jnp.array([-1])
    for loss in (
        lambda n: TRIPLET(zero, zero, n, margin=2.0, eps=0.0),
        lambda n: COSINE(n, jnp.array([[1.0, 0.0]]), y),
        lambda n: HINGE(n[:, 1], y, margin=2.0),
    ):
        value, gradient = jax.jit(jax.value_and_grad(lambda n, f=loss: f(n)[0]))(n)
        assert value == 0
        assert not gradient.any()


def plant(x, entries):
    return np.where(entries, np.resize([nan, inf, -inf], x.shape), x).astype(np.float32)


def test_masks_remove_features_and_triplets(rng):
    x = [np.asarray(v) for v in triplets(rng)]
    features, rows, weights = np.arange(5) % 2 == 0, np.arange(8) % 3 != 1, np.arange(8, dtype=np.float32) % 3

    def law(x, q=1.5, **options):
        def loss(*args):
            return TRIPLET(*args[:3], -1, args[3], 1.5, swap=True, **options)

        value, pull = jax.vjp(loss, *x, q)
        return value, *pull(jnp.ones_like(value))

    @jax.jit
    def every():
        return {
            "all": law(x),
            "some": law([v[:, features] for v in x]),
            "features": law([plant(v, ~features) for v in x], where=features[None]),
            "rows": law([plant(v, ~rows[:, None]) for v in x], np.where(rows, 1.5, nan), where=rows),
            "entries": law(x, where=rows[:, None], reduction="mean")[0],
            "mean": law([plant(v, weights[:, None] == 0) for v in x], weights=weights, reduction="mean"),
            "moved": TRIPLET(*(v.T for v in x), 0, 1.5, 1.5, swap=True),
        }

    ours = jax.tree.map(np.asarray, every())
    value, *gradient = ours["all"]
    same(ours["moved"], value)
    same(ours["features"][0], ours["some"][0])
    same(ours["rows"][0], rows * value)
    same(ours["entries"], value[rows].mean())
    same(ours["mean"][0], (weights * value).sum() / weights.sum())
    for k in range(3):
        same(ours["features"][1 + k], np.insert(ours["some"][1 + k], [1, 2], 0, axis=1))
        same(ours["rows"][1 + k], rows[:, None] * gradient[k])
        same(ours["mean"][1 + k], weights[:, None] / weights.sum() * gradient[k])
    assert np.isfinite(ours["rows"][4]).all()


def test_cosine_embedding_is_a_distance_or_a_hinge(rng):
    x, t = (jnp.asarray(rng.normal(size=(8, 5)), np.float32) for _ in range(2))
    t = t.at[:3].set(x[:3] * (1 + 1e-5)).at[0, 1].add(1e-4)
    y, m = np.array([1, -1, 1, -1, -1, 3, 0, -1]), rng.uniform(-0.5, 0.5, 8).astype(np.float32)
    where = (abs(y) == 1) & (np.arange(8) != 1)

    def both(loss):
        value, pull = jax.vjp(loss, x, t, m)
        return value, *pull(jnp.ones_like(value))

    @jax.jit
    def every(dirty, dirty_m):
        ours = both(lambda x, t, m: COSINE(x, t, y, margin=m))
        distance = both(lambda x, t, m: jaxloss.cosine_distance(x, t))
        hinge = both(lambda x, t, m: jnp.maximum(jaxloss.cosine_similarity(x, t) - m, 0))

        def masked(x, m):
            return COSINE(x, t, y, margin=m, where=where, reduction="mean")

        of_dirty = jax.value_and_grad(masked, (0, 1))(dirty, dirty_m)
        return (ours, distance, hinge), of_dirty, jax.hessian(masked, (0, 1))(x, m)

    (ours, *pieces), (value, gradients), hessian = every(plant(x, ~where[:, None]), plant(m, ~where))
    for a, together, apart in zip(ours, *pieces, strict=True):
        labels = y[:, None] if a.ndim == 2 else y
        same(a, np.where(labels == 1, together, np.where(labels == -1, apart, nan)))
    assert 0 < (ours[3] == -1).sum() < (y == -1).sum()
    same(value, np.asarray(ours[0])[where].mean())
    same(gradients[0], np.where(where[:, None], ours[1], 0) / where.sum())
    same(gradients[1], np.where(where, ours[3], 0) / where.sum())
    assert all(np.isfinite(h).all() for h in jax.tree.leaves(hessian))
    np.testing.assert_array_equal(COSINE(x, jnp.zeros_like(t), y, where=where), where & (y == 1))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_hinge_embedding_is_the_textbook(dtype):
    """Value and gradients, by the two pieces."""
    x, t, m = (v.ravel().astype(np.float32) for v in np.meshgrid(SCORES, [-1.0, 1.0], [0.0, 0.5, 2.0]))
    x = x.astype(dtype).astype(np.float32)
    active = (x < m).astype(np.float32)
    pieces = (x, np.maximum(m - x, 0)), (1, -active), (0, active)
    expected = [np.where(t == 1, *piece) for piece in pieces]
    check_elements(lambda x, m: HINGE(x, t, margin=m), (jnp.asarray(x, dtype), jnp.asarray(m)), expected)


def test_hinge_embedding_at_infinity_with_other_targets_and_masked():
    masks = {"where": np.array([True, False, True]), "weights": np.array([2.0, 1.0, 0.0]), "reduction": "mean"}
    value, slope = jax.vmap(jax.value_and_grad(HINGE))(
        jnp.array([inf, inf, 0.5, 0.5]), jnp.array([1.0, -1.0, 0.0, 2.0])
    )
    np.testing.assert_array_equal(value, [inf, 0, nan, nan])
    np.testing.assert_array_equal(slope, [1, 0, nan, nan])
    value, slope = jax.value_and_grad(lambda x: HINGE(x, jnp.array([-1, 7, 3]), **masks))(jnp.array([0.5, nan, inf]))
    assert value == 0.5
    assert slope.tolist() == [-1, 0, 0]


def test_transformations(rng):
    """Of what the table of cases does not have: powers, and the lesser of two distances."""
    x, by = triplets(rng), (0, 1, 2)
    d = tuple(np.cos(v) for v in x)

    def f(a, p, n):
        return TRIPLET(a, p, n, -1, 3, swap=True)

    def scanned(*x):
        return jax.lax.scan(lambda carry, row: (carry + jax.checkpoint(f)(*row), None), 0.0, x)[0]

    @jax.jit
    def every(x, d):
        gradient = jax.grad(lambda *x: f(*x).sum(), by)
        return (
            (f(*x), gradient(*x)),
            jax.vmap(jax.value_and_grad(f, by))(*x),
            jax.grad(scanned, by)(*x),
            jax.jvp(f, x, d)[1],
            jax.jvp(lambda a: gradient(a, *x[1:])[0], x[:1], d[:1])[1],
            jax.hessian(f)(*(v[0] for v in x)),
        )

    ours, mapped, by_scan, tangent, curvature, hessian = every(tuple(x), d)
    for a, b in zip(jax.tree.leaves((mapped, by_scan)), jax.tree.leaves((ours, ours[1])), strict=True):
        same(a, b, span=3)
    products = [g * v for g, v in zip(ours[1], d, strict=True)]
    close(tangent, sum(v.sum(-1) for v in products), sum(np.abs(v).sum(-1) for v in products), span=3)
    close(curvature[0], (hessian * d[0][:1]).sum(-1), np.abs(hessian * d[0][:1]).sum(-1), span=3)
    assert np.isfinite(curvature).all()


# Beside others, where they are right, and where they are not.


def test_beside_optax(rng):
    theirs = pytest.importorskip("optax").losses.triplet_margin_loss
    x = triplets(rng)

    @functools.partial(jax.jit, static_argnums=0)
    def both(args):
        pairs = [jax.vjp(lambda *x, f=f: f(*x, *args), *x) for f in (TRIPLET, theirs)]
        return [(loss, pull(jnp.ones_like(loss))) for loss, pull in pairs]

    with jax.numpy_dtype_promotion("standard"):
        for args in [(), (0,), (-1, 4, 0.3, 1e-6), (-1, 2, 5.0, 0.1)]:
            for ours, their in zip(*(jax.tree.leaves(pair) for pair in both(args)), strict=True):
                same(ours, their, span=3)
        for numbers, q, right, wrong in [
            ((0.0, 1.0, 2.0), 1, 0, 3),
            ((0.0, 9.0, -9.0), 1, 1, 0),
            ((0.0, -9.0, 9.0), 3, 1, nan),
            ((0.0, -1.0, 9.0), 1.5, 0, nan),
        ]:
            x = [jnp.full((1, 2), v) for v in numbers]
            np.testing.assert_allclose(TRIPLET(*x, -1, q), right, atol=1e-5)
            np.testing.assert_allclose(theirs(*x, -1, q), wrong, atol=1e-5)


X, T, ONES = jnp.zeros((6, 3)), jnp.zeros((6, 3), np.int32), jnp.ones(6, np.int32)


@pytest.mark.parametrize(
    ("loss", "args", "options", "error", "message"),
    [
        (TRIPLET, (T, X, X), {}, TypeError, "expected `anchors` of a floating dtype, got int32."),
        (TRIPLET, (X, X, T), {}, TypeError, "expected `negatives` of a floating dtype, got int32."),
        (TRIPLET, (X, X[:1], X), {}, ValueError, "expected `positives` of shape (6, 3), got (1, 3)."),
        (TRIPLET, (X, X, X), {"eps": X[0]}, ValueError, "expected `eps` of a shape that broadcasts to (6,), got (3,)."),
        (COSINE, (X, X, ONES != 0), {}, TypeError, "expected `labels` of a signed dtype, for -1 and 1, got bool."),
        (COSINE, (X, X, T), {}, ValueError, "expected `labels` of shape (6,), got (6, 3)."),
        (HINGE, (X, X != 0), {}, TypeError, "expected `targets` of a signed dtype, for -1 and 1, got bool."),
    ],
)
def test_bad_input_gets_one_sentence(loss, args, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(f'{loss.__name__}: {message}')}$"):
        loss(*args, **options)


def test_degrees_of_triplets_in_one_batch():
    a, p, n = jnp.array([[1.0, 2.0]] * 2), jnp.array([[1.5, 2.1]] * 2), jnp.array([[0.9, 2.2]] * 2)
    degrees = jnp.array([2.0, inf])

    def loss(a, norm_degree):
        return jaxloss.triplet_margin_loss(a, p[: len(a)], n[: len(a)], norm_degree=norm_degree)

    for i, degree in enumerate((2.0, inf)):
        np.testing.assert_allclose(loss(a, degrees)[i], loss(a[:1], degree)[0], rtol=1e-6)
        gradient = jax.grad(lambda a: loss(a, degrees).sum())(a)
        np.testing.assert_allclose(gradient[i], jax.grad(lambda a, d=degree: loss(a, d).sum())(a[:1])[0], rtol=1e-6)
    empty = jnp.zeros((0, 3))
    assert jaxloss.triplet_margin_loss(empty, empty, empty, swap=True, norm_degree=jnp.ones(0)).shape == (0,)


@pytest.mark.parametrize("scale", [1e-17, 1e-18, 1e-30, 1e20, 1e30])
def test_second_derivatives_of_distances_at_any_scale(scale):
    """Those of scaled triplets, with a scaled margin, are those of the triplets over the scale."""
    anchor, positive, negative = jnp.array([3.0, 1.5]), jnp.array([1.0, 1.0]), jnp.array([0.0, 2.0])

    def hessian(scale, mode):
        def loss(a):
            return jaxloss.triplet_margin_loss(a, scale * positive, scale * negative, eps=0, margin=10 * scale)

        return mode(jax.grad(loss))(scale * anchor) * scale

    expected = hessian(jnp.float32(1), jax.jacfwd)
    terms = sum(1 / np.linalg.norm(anchor - other) for other in (positive, negative))
    for mode in (jax.jacfwd, jax.jacrev):
        close(hessian(jnp.float32(scale), mode), expected, terms)
