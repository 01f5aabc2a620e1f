"""Losses of a batch by its labels: the textbook's double loops at many digits, masks, edges, devices."""

import functools
import re

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import close, same

import jaxloss

nan, inf = np.nan, np.inf
NTXENT, CIRCLE, SUPERVISED = jaxloss.ntxent, jaxloss.circle_loss, jaxloss.supervised_contrastive_loss
LABELS = np.array([0, 0, 1, 1, 0, 2])
SEPARATED, PAIRS = np.array([[1, 0.2], [0.9, 0.1], [-1, 0.3], [-0.8, 0.1]], np.float32), np.array([0, 0, 1, 1])


# The formulas, of rows of numbers of mpmath; with each loss, for its tolerance, the slopes by each cosine.


def cosine(a, b):
    length = mp.sqrt(sum(v * v for v in a) * sum(v * v for v in b))
    return sum(u * v for u, v in zip(a, b, strict=True)) / length if length else length


def exact_ntxent(x, y, t):
    losses, slopes = [], mp.matrix(len(x))
    for i in range(len(x)):
        s = [cosine(x[i], v) / t for v in x]
        negatives = [k for k in range(len(x)) if y[k] != y[i]]
        total = sum(mp.exp(s[k]) for k in negatives)
        losses.append(mp.mpf(0))
        for j in range(len(x)):
            if j != i and y[j] == y[i]:
                losses[i] += mp.log1p(total / mp.exp(s[j]))
                missed = total / (mp.exp(s[j]) + total) / t
                slopes[i, j] += missed
                for k in negatives:
                    slopes[i, k] += missed * mp.exp(s[k]) / total
    return losses, slopes


def exact_circle(x, y, gamma, margin, others=None, of_others=None, remove_diagonal=True):
    others, of_others = (x, y) if others is None else (others, of_others)
    losses, slopes = [], mp.matrix(len(x), len(others))
    for i in range(len(x)):
        s = [cosine(x[i], v) for v in others]
        positives = [j for j in range(len(others)) if of_others[j] == y[i] and not (remove_diagonal and i == j)]
        negatives = [k for k in range(len(others)) if of_others[k] != y[i]]
        low = {j: mp.exp(-gamma * max(1 + margin - s[j], 0) * (s[j] - (1 - margin))) for j in positives}
        high = {k: mp.exp(gamma * max(s[k] + margin, 0) * (s[k] - margin)) for k in negatives}
        product = sum(low.values()) * sum(high.values())
        losses.append(mp.log1p(product))
        for each, weight in ((low, lambda v: abs(1 + margin - v)), (high, lambda v: abs(v + margin))):
            for j, term in each.items():
                bend = weight(s[j]) + abs(s[j] - (1 - margin if each is low else margin))
                slopes[i, j] += product / (1 + product) * term / sum(each.values()) * gamma * bend
    return losses, slopes


def exact_supervised(x, y, t):
    losses, slopes = [], mp.matrix(len(x))
    for i in range(len(x)):
        s = [cosine(x[i], v) / t for v in x]
        others = [k for k in range(len(x)) if k != i]
        positives = [k for k in others if y[k] == y[i]]
        total = sum(mp.exp(s[k]) for k in others)
        losses.append(mp.mpf(0))
        for j in positives:
            losses[i] += mp.log1p(sum(mp.exp(s[k] - s[j]) for k in others if k != j)) / len(positives)
            for k in others:
                slopes[i, k] += abs((k == j) - mp.exp(s[k]) / total) / len(positives) / t
    return losses, slopes


def numbers(x):
    return [[mp.mpf(float(v)) for v in row] for row in np.asarray(x)]


def exact_gradient(total, x):
    """By central differences."""
    gradient = mp.matrix(len(x), len(x[0]))
    for i, row in enumerate(x):
        step = (mp.sqrt(sum(v * v for v in row)) or 1) * mp.mpf(10) ** -25
        for c in range(len(row)):
            ends = [total([[*r[:c], r[c] + h, *r[c + 1 :]] if r is row else r for r in x]) for h in (-step, step)]
            gradient[i, c] = (ends[1] - ends[0]) / (2 * step) if any(row) else 0
    return floats(gradient)


def floats(m):
    return np.array([[float(m[i, j]) for j in range(m.cols)] for i in range(m.rows)])


def assert_textbook(exact, ours, x, options, span, dtype):
    """Values and derivatives of their sum: by x they are made of slopes, at rounded cosines, over a length."""
    wide = np.float64 if dtype == np.float64 else np.float32
    with mp.workdps(180):
        rows, options = numbers(x), [mp.mpf(float(v)) for v in options]
        losses, slopes = exact(rows, LABELS, *options)
        close(ours[0], [float(v) for v in losses], [float(v) for v in losses], span=span, dtype=wide)
        truth = exact_gradient(lambda rows: sum(exact(rows, LABELS, *options)[0]), rows)
        slopes = floats(slopes)
        length = np.array([float(mp.sqrt(sum(v * v for v in row)) or 1) for row in rows])
        size = 2 * (slopes + slopes.T).sum(1) / length
        close(ours[1], truth, size[:, None] + 0 * truth, span=span if dtype == wide else 0, dtype=dtype)
        for k, v in enumerate(options):
            by_option = mp.diff(lambda v, k=k: sum(exact(rows, LABELS, *options[:k], v, *options[k + 1 :])[0]), v)
            close(ours[2 + k], float(by_option), 2 * slopes.sum() / min(float(v), 1), span=span, dtype=wide)


def points(rng, dtype):
    """Drawn, separated, colliding, one of zeros, of all lengths."""
    huge = {np.float16: 30.0, np.float64: 1e150}.get(dtype, 1e30)
    drawn = rng.normal(size=(6, 3))
    apart = np.eye(3)[LABELS] * 2 - 1 + 0.01 * drawn
    colliding = np.ones((6, 3)) + 0.01 * drawn
    with_zero = drawn * (np.arange(6) != 4)[:, None]
    lengths = np.resize([1, 1 / huge, huge], 6)[:, None]
    for x in (drawn, apart, colliding, with_zero, drawn * lengths, colliding * lengths[::-1]):
        yield jnp.asarray(x, dtype)


@functools.partial(jax.jit, static_argnums=0)
def both(loss, x, *args):
    value, pull = jax.vjp(lambda x, *args: loss(x, LABELS, *args), x, *args)
    return value, *pull(jnp.ones_like(value))


def sums(x, y, t):
    return NTXENT(x, y, t, reduction="none")


def supervised(x, y, t):
    return SUPERVISED(x, y, temperature=t)


def circle(x, y, g, m):
    return CIRCLE(x, y, gamma=g, margin=m)


DTYPES = [np.float32, np.float64, jnp.bfloat16, np.float16]


@pytest.mark.exact
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_the_textbook(dtype, rng):
    half, wide = np.dtype(dtype).itemsize == 2, np.float64 if dtype == np.float64 else np.float32
    with jax.enable_x64(dtype == np.float64):
        for x in list(points(rng, dtype))[:: 2 if half else 1]:
            for t in (0.07,) if half else (1.0, 0.07, 0.005):
                ours = both(sums, x, wide(t))
                assert_textbook(exact_ntxent, ours, x, [wide(t)], 2 / t, dtype)
                ours = both(supervised, x, wide(t))
                assert_textbook(exact_supervised, ours, x, [wide(t)], 2 / t, dtype)
            for g, m in [(80.0, 0.4), (2.0, 0.1)][: 1 if half else 2]:
                ours = both(circle, x, wide(g), wide(m))
                assert_textbook(exact_circle, ours, x, [wide(g), wide(m)], 3 * g, dtype)


def test_references_are_another_batch(rng):
    """By the double loop, with the diagonal and without, the labels their own or the batch's."""
    x, others = (rng.normal(size=(6, 3)).astype(np.float32) for _ in range(2))
    others[:3] *= 1e20
    of_others = np.array([0, 1, 1, 2, 2, 0])
    calls = [(labels, diagonal) for labels in (None, of_others) for diagonal in (True, False)]

    @jax.jit
    def every(x, others):
        options = {"gamma": 10.0, "reference_embeddings": others}
        return [CIRCLE(x, LABELS, reference_labels=y, remove_diagonal=d, **options) for y, d in calls]

    with mp.workdps(40):
        rows = numbers(x), numbers(others)
        for ours, (y, diagonal) in zip(every(x, others), calls, strict=True):
            y = LABELS if y is None else y
            truth, _ = exact_circle(rows[0], LABELS, 10, mp.mpf(float(np.float32(0.4))), rows[1], y, diagonal)
            close(ours, [float(v) for v in truth], [float(v) for v in truth], span=30)
    few = CIRCLE(x, LABELS, reference_embeddings=others[:2], reference_labels=LABELS[1:3], remove_diagonal=False)
    assert few.shape == (6,)
    with jax.enable_x64(True):
        options = {"weights": np.ones(6), "reference_embeddings": others.astype(np.float64)}
        assert jax.eval_shape(lambda x: CIRCLE(x, LABELS, **options), x).dtype == np.float64


LOSSES = {
    "ntxent": (NTXENT, "temperature", 0.3),
    "circle": (CIRCLE, "gamma", 5.0),
    "supervised": (SUPERVISED, "temperature", 0.3),
    "decoupled": (functools.partial(SUPERVISED, decoupled=True), "temperature", 0.3),
    "tuplet_margin": (jaxloss.tuplet_margin_loss, "scale", 3.0),
    "multi_similarity": (jaxloss.multi_similarity_loss, "beta", 5.0),
    "contrastive": (jaxloss.contrastive_loss, "negative_margin", 2.0),
    "lifted_structure": (jaxloss.lifted_structure_loss, "negative_margin", 2.0),
    "nca": (jaxloss.nca_loss, "scale", 0.3),
    "batch_hard": (jaxloss.batch_hard_triplet_loss, "margin", 2.0),
    "semi_hard": (jaxloss.semi_hard_triplet_loss, "margin", 2.0),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@every_loss
def test_what_is_excluded_is_not_there(name, rng):
    """Masked, or of weight 0, is cut out of the batch, whatever it holds."""
    (loss, option, number), x = LOSSES[name], rng.normal(size=(9, 4)).astype(np.float32)
    y, kept = np.array([0, 5, 1, 0, 5, 1, 0, 7, 2]), np.arange(9) % 3 != 1
    weights, d = kept * np.linspace(0.5, 2, 9, dtype=np.float32), np.cos(x)
    dirty = np.where(kept[:, None], x, np.resize([nan, inf, -inf], x.shape)).astype(np.float32)
    many = {option: np.where(kept, number, nan).astype(np.float32)}

    @jax.jit
    def of(x, d, y, w, **options):
        """The losses, the gradient of their sum weighed by w, its tangent, their mean."""
        gradient = jax.grad(lambda x: (w * loss(x, y, reduction="none", **options)).sum())
        mean = loss(x, y, reduction="mean", **options)
        return loss(x, y, reduction="none", **options), *jax.jvp(gradient, (x,), (d,)), mean

    ones = np.ones(9, np.float32)
    others = (y[:, None] == y[kept]).sum(1) - 1
    of_each = {"circle", "multi_similarity", "contrastive"}
    of_pairs = {"ntxent", "tuplet_margin", "lifted_structure", "semi_hard"}
    pairs = ones if name in of_each else others if name in of_pairs else others > 0
    for w, mask in ((kept.astype(np.float32), {"where": kept}), (weights, {"weights": weights})):
        cut = of(x[kept], d[kept], y[kept], w[kept], **{option: ones[kept] * np.float32(number)})
        ours = of(dirty, d, np.where(kept, y, 1), ones, **many, **mask)
        losses = np.zeros(9, np.float32)
        losses[kept] = w[kept] * cut[0]
        same(ours[0], losses, span=10)
        same(ours[3], losses.sum() / (w * pairs).sum(), span=10)
        for a, b in zip(ours[1:3], cut[1:3], strict=True):
            same(a[kept], b, span=10)
            assert not a[~kept].any()


@every_loss
def test_without_pairs_there_is_no_loss(name):
    """All labels different, all the same, one example, none: 0, with gradient 0 in both modes."""
    x = np.resize([1.0, 0.2, -0.5], (4, 3)).astype(np.float32) + np.eye(4, 3, dtype=np.float32)

    @jax.jit
    def every(x, y):
        def loss(x):
            return LOSSES[name][0](x, y, reduction="mean")

        return jax.value_and_grad(loss)(x), jax.jacfwd(loss)(x), LOSSES[name][0](x, y, reduction="none")

    labels = [np.array([0, 1, 2, 3], np.float32), np.full(4, nan, np.float32)]
    if name in ("multi_similarity", "contrastive"):  # whose positives cost something by themselves, and negatives
        labels = []
    elif name != "supervised":  # whose denominator has the others of the same label
        labels.append(np.zeros(4, np.float32))
    one = np.zeros(1, np.float32)
    for a, b in [*((x, y) for y in labels), (x[:1], one), (x[:0], one[:0])]:
        ours = every(a, b)
        assert ours[2].shape == b.shape
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(ours))


@every_loss
def test_transformations(name, rng):
    loss, option, number = LOSSES[name]
    x, y = rng.normal(size=(2, 6, 4)).astype(np.float32), np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 0, 3]])

    def f(x, y, v):
        return loss(x, y, reduction="mean", **{option: v})

    def scanned(x, v):
        return jax.lax.scan(lambda carry, batch: (carry + jax.checkpoint(f)(*batch, v), None), 0.0, (x, y))[0]

    @jax.jit
    def every(x, v):
        d = jnp.cos(x[0]), jnp.float32(0.7)
        gradient = jax.grad(f, (0, 2))
        one = jax.vmap(jax.value_and_grad(f, (0, 2)), (0, 0, None))(x, y, v)
        tangents = jax.jvp(lambda x, v: (f(x, y[0], v), gradient(x, y[0], v)), (x[0], v), d)[1]
        return one, jax.value_and_grad(scanned, (0, 1))(x, v), tangents, jax.hessian(f, (0, 2))(x[0], y[0], v), d

    (values, (by_x, by_v)), (total, summed), (tangent, curvature), hessian, d = every(x, number)
    for a, b in ((total, values.sum()), (summed[0], by_x), (summed[1], by_v.sum())):
        same(a, b, span=10)
    terms = np.append(by_x[0] * d[0], by_v[0] * d[1])
    close(tangent, terms.sum(), np.abs(terms).sum(), span=10)
    terms = np.append((hessian[0][0] * d[0][None, None]).reshape(6, 4, -1), hessian[0][1][..., None] * d[1], -1)
    close(curvature[0], terms.sum(-1), np.abs(terms).sum(-1).max(), span=10)
    assert np.isfinite(hessian[1][1])


@every_loss
@pytest.mark.parametrize("kind", ["Explicit", pytest.param("Auto", marks=pytest.mark.sweep)])
def test_a_batch_over_devices(name, kind, rng):
    """Each device has its examples beside all of them."""
    loss, x = LOSSES[name][0], rng.normal(size=(16, 8)).astype(np.float32)
    args = x, rng.integers(4, size=16), rng.random(16) < 0.8, rng.random(16).astype(np.float32)

    @jax.jit
    def every(x, y, where, weights):
        return jax.value_and_grad(lambda x: loss(x, y, where=where, weights=weights, reduction="mean"))(x)

    expected = every(*args)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType[kind],) * 2)
    with jax.set_mesh(mesh):
        places = [P("data", "model"), *[P("data")] * 3]
        ours = every(*(jax.device_put(a, NamedSharding(mesh, p)) for a, p in zip(args, places, strict=True)))
    for a, b in zip(ours, expected, strict=True):
        same(jax.device_get(a), b, span=80)


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_memory_is_that_of_a_chunk(name, reduction, rng):
    """No array has a number for each two."""
    x, y = jnp.asarray(rng.normal(size=(1024, 64)), jnp.bfloat16), jnp.arange(1024) // 4

    def f(x):
        return LOSSES[name][0](x, y, reduction=reduction, chunk_size=64).mean()

    saved = jax.tree.leaves(jax.vjp(f, x)[1])
    assert max(a.size for a in saved) <= 1.1 * x.size
    memory = jax.jit(jax.value_and_grad(f)).lower(x).compile().memory_analysis()
    arrays = 25 if name == "semi_hard" else 10  # of a chunk; those are sorted
    assert memory.temp_size_in_bytes < arrays * 4 * 64 * 1024 + 8 * 4 * x.size


@every_loss
def test_chunks_of_any_size(name, rng):
    x, y = rng.normal(size=(21, 8)).astype(np.float32), rng.integers(4, size=21)
    where, weights = rng.random(21) < 0.8, rng.random(21).astype(np.float32)

    def f(x, reduction, chunk_size):
        losses = LOSSES[name][0](x, y, where=where, weights=weights, reduction=reduction, chunk_size=chunk_size)
        return (losses * jnp.cos(jnp.arange(losses.size)).reshape(losses.shape)).sum()

    for reduction in ("none", "sum", "mean"):
        expected = jax.value_and_grad(f)(x, reduction, None)
        for chunk_size in (1, 8, 20):
            for a, b in zip(jax.value_and_grad(f)(x, reduction, chunk_size), expected, strict=True):
                same(a, b, span=80)


def test_beside_optax(rng):
    theirs = pytest.importorskip("optax").losses.ntxent

    @jax.jit
    def both(x, y, t):
        return [jax.value_and_grad(lambda x, f=f: f(x, y, t))(x) for f in (NTXENT, theirs)]

    with jax.numpy_dtype_promotion("standard"):
        ours, their = both(rng.normal(size=(6, 4)).astype(np.float32), LABELS, 0.07)
        for a, b in zip(ours, their, strict=True):
            same(a, b, span=30)
        ours, their = both(SEPARATED, PAIRS, 0.02)
        assert np.isfinite(ours[1]).all()
        assert np.isnan(their[1]).all()
        ours, their = both(SEPARATED, np.arange(4), 0.07)
        assert ours[0] == 0
        assert np.isnan(their[0])
        ours, their = both(SEPARATED * np.float32(1e-4), PAIRS, 0.07)
        truth = float(sum(exact_ntxent(numbers(SEPARATED), PAIRS, mp.mpf("0.07"))[0]) / 4)
        close(ours[0], truth, truth, span=30)
        assert their[0] > 1e4 * truth
        ours, their = both(SEPARATED.astype(np.float16), PAIRS, 0.07)
        assert np.isfinite(ours[1]).all()
        assert np.isnan(their[1]).all()


X, Y, T = jnp.zeros((6, 3)), jnp.zeros(6, np.int32), jnp.zeros((6, 3), np.int32)


@pytest.mark.parametrize(
    ("loss", "args", "options", "error", "message"),
    [
        (NTXENT, (T, Y), {}, TypeError, "`embeddings` of a floating dtype, got int32."),
        (NTXENT, (X[0], Y), {}, ValueError, "`embeddings` of shape (batch, features), got (3,)."),
        (NTXENT, (X, Y[:, None]), {}, ValueError, "`labels` of shape (6,), got (6, 1)."),
        (NTXENT, (X, Y, X), {}, ValueError, "`temperature` of a shape that broadcasts to (6,), got (6, 3)."),
        (CIRCLE, (X, Y), {"others": X[:2]}, ValueError, "`reference_labels` of shape (2,), got None."),
        (CIRCLE, (X, Y), {"others": X[:, :2]}, ValueError, "`reference_embeddings` of shape (6, 3), got (6, 2)."),
        (CIRCLE, (X, Y), {"y": Y}, ValueError, "`reference_embeddings` with `reference_labels`, got None."),
        (CIRCLE, (X, Y), {"others": X, "y": X[0]}, ValueError, "`reference_labels` of shape (6,), got (3,)."),
        (CIRCLE, (X, Y), {"others": X[:3], "y": X[0]}, TypeError, "`reference_labels` of dtype int32, got float32."),
    ],
)
def test_bad_input_gets_one_sentence(loss, args, options, error, message):
    names = {"others": "reference_embeddings", "y": "reference_labels"}
    with pytest.raises(error, match=f"^{re.escape(f'{loss.__name__}: expected {message}')}$"):
        loss(*args, **{names[k]: v for k, v in options.items()})


def test_simclr_and_the_decoupled_loss(rng):
    """With two views of each image: by SimCLR's program, and by that without positives in the denominator."""
    with jax.enable_x64(True):
        views, t = jnp.asarray(rng.normal(size=(12, 5))), 0.2
        images = jnp.arange(12) % 6
        unit = views / jnp.linalg.norm(views, axis=1, keepdims=True)
        s = jnp.where(jnp.eye(12, dtype=bool), -jnp.inf, unit @ unit.T / t)
        own = jnp.take_along_axis(s, ((jnp.arange(12) + 6) % 12)[:, None], 1)[:, 0]
        negatives = jnp.where(images[:, None] == images[None, :], -jnp.inf, s)
        for decoupled, logits in ((False, s), (True, negatives)):
            ours = SUPERVISED(views, images, temperature=t, decoupled=decoupled)
            same(ours, jax.nn.logsumexp(logits, 1) - own, span=20, dtype=np.float64)
