"""Metric learning: every loss beside its formula as a double loop, hard examples, proxies, margins of angles."""

import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import close, same

import jaxloss

LABELS = np.array([0, 0, 1, 1, 0, 2, 1])


# The formulas, of one example beside all references: the similarities or distances of its positives and negatives.


def distances(x, i):
    return [jnp.sqrt(jnp.where(i == j, 1, jnp.square(x[i] - x[j]).sum())) for j in range(len(x))]


def cosines(x, i):
    u = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return [(u[i] * v).sum() for v in u]


def others(i, y=LABELS):
    return [j for j in range(len(y)) if y[j] == y[i] and j != i], [k for k in range(len(y)) if y[k] != y[i]]


def mean(values):
    return sum(values) / max(len(values), 1)


def hinge(x):
    return jnp.maximum(0, x)


def contrastive(x, i, near=0.2, far=1.5):
    d, (positives, negatives) = distances(x, i), others(i)
    return mean([hinge(d[j] - near) ** 2 for j in positives]) + mean([hinge(far - d[k]) ** 2 for k in negatives])


def not_squared(x, i, near=0.2, far=1.5):
    d, (positives, negatives) = distances(x, i), others(i)
    return mean([hinge(d[j] - near) for j in positives]) + mean([hinge(far - d[k]) for k in negatives])


def lifted_structure(x, i, near=0.1, far=1.2):
    total = 0.0
    for j in others(i)[0]:
        of_i, of_j = distances(x, i), distances(x, j)
        far_enough = [jnp.exp(far - of_i[k]) for k in others(i)[1]] + [jnp.exp(far - of_j[k]) for k in others(j)[1]]
        total += hinge(jnp.log(sum(far_enough)) + of_i[j] - near) ** 2 / 2
    return total


def nca(x, i, scale=0.7):
    d, (positives, negatives) = distances(x, i), others(i)
    p = {k: jnp.exp(-scale * d[k] ** 2) for k in positives + negatives}
    return -jnp.log(sum(p[j] for j in positives) / sum(p.values())) if positives else 0.0


def semi_hard(x, i, margin=0.5):
    d, (positives, negatives) = distances(x, i), others(i)
    total = 0.0
    for j in positives:
        farther = [d[k] for k in negatives if d[k] > d[j]]
        total += hinge(d[j] - (min(farther) if farther else max(d[k] for k in negatives)) + margin)
    return total


def batch_hard(x, i, margin=0.5):
    d, (positives, negatives) = distances(x, i), others(i)
    return hinge(max(d[j] for j in positives) - min(d[k] for k in negatives) + margin) if positives else 0.0


def soft_batch_hard(x, i):
    d, (positives, negatives) = distances(x, i), others(i)
    return jnp.logaddexp(0, max(d[j] for j in positives) - min(d[k] for k in negatives)) if positives else 0.0


def multi_similarity(x, i, a=2.0, b=10.0, base=0.4):
    s, (positives, negatives) = cosines(x, i), others(i)
    low = jnp.log1p(sum(jnp.exp(a * (base - s[j])) for j in positives)) / a
    return low + jnp.log1p(sum(jnp.exp(b * (s[k] - base)) for k in negatives)) / b


def tuplet_margin(x, i, scale=5.0, margin=0.1):
    s, (positives, negatives) = cosines(x, i), others(i)
    lowered = [jnp.cos(jnp.arccos(s[j]) - margin) for j in positives]
    return sum(jnp.log1p(sum(jnp.exp(scale * (s[k] - own)) for k in negatives)) for own in lowered)


def koleo(x, i):
    u = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return -jnp.log(min(jnp.linalg.norm(u[i] - u[j]) for j in range(len(x)) if j != i) + 1e-8)


FORMULAS = [
    (contrastive, jaxloss.contrastive_loss, {"positive_margin": 0.2, "negative_margin": 1.5}),
    (not_squared, jaxloss.contrastive_loss, {"positive_margin": 0.2, "negative_margin": 1.5, "squared": False}),
    (lifted_structure, jaxloss.lifted_structure_loss, {"positive_margin": 0.1, "negative_margin": 1.2}),
    (nca, jaxloss.nca_loss, {"scale": 0.7}),
    (semi_hard, jaxloss.semi_hard_triplet_loss, {"margin": 0.5}),
    (batch_hard, jaxloss.batch_hard_triplet_loss, {"margin": 0.5}),
    (soft_batch_hard, jaxloss.batch_hard_triplet_loss, {"margin": 0.0, "soft_margin": True}),
    (multi_similarity, jaxloss.multi_similarity_loss, {"alpha": 2.0, "beta": 10.0, "base": 0.4}),
    (tuplet_margin, jaxloss.tuplet_margin_loss, {"scale": 5.0}),
    (koleo, lambda x, y, **options: jaxloss.koleo_loss(x, **options), {}),
]


@pytest.mark.parametrize(("formula", "loss", "options"), FORMULAS, ids=lambda x: getattr(x, "__name__", ""))
def test_the_textbook(formula, loss, options, rng):
    """Values and gradients, in float32 beside the loop in float64."""
    x = rng.normal(size=(7, 4)).astype(np.float32)
    weights = np.cos(np.arange(7)).astype(np.float32)

    def both(f, x):
        def total(x):
            losses = jnp.stack(f(x))
            return (losses * weights.astype(losses.dtype)).sum(), losses

        (_, losses), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return losses, gradient

    ours = both(lambda x: list(loss(x, LABELS, **options)), x)
    with jax.enable_x64(True):
        wide = jnp.asarray(x, np.float64)
        truth = both(lambda x: [jnp.asarray(formula(x, i), np.float64) for i in range(7)], wide)
    for a, b in zip(ours, truth, strict=True):
        same(a, b, span=20)


@pytest.mark.parametrize("loss", [jaxloss.contrastive_loss, jaxloss.nca_loss, jaxloss.batch_hard_triplet_loss])
def test_normalised_embeddings_have_any_length(loss, rng):
    x = rng.normal(size=(7, 4)).astype(np.float32)
    lengths = 10.0 ** rng.integers(-20, 20, size=(7, 1)).astype(np.float32)
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    same(loss(x * lengths, LABELS, normalize=True), loss(u, LABELS), span=20)


@pytest.mark.parametrize(
    "loss",
    [jaxloss.batch_hard_triplet_loss, jaxloss.semi_hard_triplet_loss, jaxloss.nca_loss, jaxloss.ntxent],
    ids=lambda loss: loss.__name__,
)
def test_references_are_another_batch(loss, rng):
    """Of the batch itself as the references, an example is its own positive."""
    x, r = (jnp.asarray(rng.normal(size=(n, 4)), np.float32) for n in (7, 9))
    of_r = np.arange(9) % 3
    alone = [
        loss(
            x[i : i + 1],
            LABELS[i : i + 1],
            reference_embeddings=r,
            reference_labels=of_r,
            reduction="none",
        )
        for i in range(7)
    ]
    together = loss(x, LABELS, reference_embeddings=r, reference_labels=of_r, reduction="none")
    same(together, np.concatenate(alone), span=20)
    with pytest.raises(ValueError, match="expected `reference_embeddings` with `reference_labels`, got None"):
        loss(x, LABELS, reference_labels=of_r)


def test_equal_embeddings_do_not_move():
    """Hardest examples at a distance of 0, and near ones to the last digit."""
    x = jnp.ones((4, 3))
    y = np.array([0, 0, 1, 1])
    for loss in (jaxloss.batch_hard_triplet_loss, jaxloss.semi_hard_triplet_loss, jaxloss.contrastive_loss):
        value, gradient = jax.value_and_grad(lambda x, loss=loss: loss(x, y).sum())(x)
        np.testing.assert_array_equal(value, 4.0)
        np.testing.assert_array_equal(gradient, 0)
    near = jnp.array([[1.0, 0.0], [1.0, 2.0**-12], [-1.0, 0.0]])
    losses = jaxloss.koleo_loss(near, epsilon=0)
    close(losses[:2], [12 * math.log(2)] * 2, 10.0, of="a distance that products round away")
    close(jaxloss.koleo_loss(jnp.ones((2, 3))), [-math.log(1e-8)] * 2, 19.0)
    assert not jax.grad(lambda x: jaxloss.koleo_loss(x).sum())(jnp.ones((2, 3))).any()


@pytest.mark.parametrize("check_vma", [False, True])
def test_a_mapped_axis(check_vma, rng):
    """Eight devices give what one gives, with weights and a mask."""
    x, y = jnp.asarray(rng.normal(size=(24, 4)), np.float32), rng.integers(4, size=24)
    where, weights = rng.random(24) < 0.8, rng.random(24).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    losses = [
        *(jaxloss.ntxent, jaxloss.supervised_contrastive_loss, jaxloss.circle_loss, jaxloss.multi_similarity_loss),
        *(jaxloss.contrastive_loss, jaxloss.lifted_structure_loss, jaxloss.nca_loss, jaxloss.tuplet_margin_loss),
        *(jaxloss.batch_hard_triplet_loss, jaxloss.semi_hard_triplet_loss),
        lambda x, y, **options: jaxloss.koleo_loss(x, **options),
        lambda x, y, **options: jaxloss.angular_loss(x, jnp.roll(x, 1, 1), y, **options),
    ]

    def every(x, y, where, weights, axis_name=None):
        options = {"where": where, "weights": weights, "reduction": "mean", "axis_name": axis_name}
        return jnp.stack([loss(x, y, **options) for loss in losses])

    def local(*args):
        return every(*args, axis_name="data")

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P("data"),) * 4, out_specs=P(), check_vma=check_vma)
    args = x, y, where, weights

    def total(f):
        return jax.jit(jax.value_and_grad(lambda x, *args: f(x, *args).sum()))(*args)

    same(jax.jit(mapped)(*args), jax.jit(every)(*args), span=20)
    same(total(mapped)[1], total(every)[1], span=80)


def test_the_angle_at_a_negative(rng):
    a, p = (jnp.asarray(rng.normal(size=(7, 4)), np.float32) for _ in range(2))
    alpha = 0.6

    def plain(a, p, y):
        a, p = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, p))
        t = jnp.tan(alpha) ** 2
        for i in range(7):
            terms = [
                jnp.exp(4 * t * (a[i] + p[i]) @ p[k] - 2 * (1 + t) * a[i] @ p[i]) for k in range(7) if y[k] != y[i]
            ]
            yield jnp.log1p(sum(terms))

    for labels in (None, LABELS):
        ours = jax.value_and_grad(
            lambda a, p, y=labels: jaxloss.angular_loss(a, p, y, alpha=alpha, normalize=True).sum(), (0, 1)
        )(a, p)
        with jax.enable_x64(True):
            y = np.arange(7) if labels is None else labels
            wide = (jnp.asarray(x, np.float64) for x in (a, p))
            truth = jax.value_and_grad(lambda a, p, y=y: sum(plain(a, p, y)), (0, 1))(*wide)
        for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
            same(found, expected, span=20)


@pytest.mark.parametrize("place", ["huge", "tiny", "far"])
def test_distances_of_any_size_and_far_from_the_origin(place, rng):
    x = rng.normal(size=(6, 4)).astype(np.float32)
    y = np.array([0, 0, 0, 1, 1, 1])
    unit = {"huge": 1e20, "tiny": 1e-25, "far": 2.0**-5}[place]
    moved = np.asarray(x * np.float32(unit) + (1000 if place == "far" else 0), np.float32)
    exact = moved.astype(np.float64)
    d = np.linalg.norm(exact[:, None] - exact, axis=-1) / unit
    same_label = y[:, None] == y
    own, other = np.where(same_label, d, 0), np.where(same_label, np.inf, d)
    hard = np.maximum(0, own.max(1) - other.min(1) + 0.5)
    margin = np.float32(0.5 * unit)
    same(jaxloss.batch_hard_triplet_loss(moved, y, margin=margin) / np.float32(unit), hard, span=40)
    found = jaxloss.contrastive_loss(moved, y, negative_margin=np.float32(3 * unit), squared=False) / np.float32(unit)
    truth = own.sum(1) / 2 + np.where(same_label, 0, np.maximum(0, 3 - d)).sum(1) / 3
    same(found, truth, span=40)
    assert np.isfinite(jaxloss.semi_hard_triplet_loss(moved, y, margin=margin)).all()
    if place == "far":
        d2 = np.exp(-((d * unit) ** 2))
        p = np.where(same_label & ~np.eye(6, dtype=bool), d2, 0).sum(1) / (d2.sum(1) - 1)
        same(jaxloss.nca_loss(moved, y), -np.log(p), span=40)


def test_weight_zero_hides_what_overflows(rng):
    x = jnp.asarray(rng.normal(size=(5, 3)), np.float32).at[4].set(1e25)
    y, weights = jnp.array([0, 0, 1, 1, 0]), jnp.array([1.0, 1, 1, 1, 0])
    for loss in (jaxloss.contrastive_loss, jaxloss.lifted_structure_loss, jaxloss.nca_loss):
        by_x = jax.grad(lambda x, loss=loss: loss(x, y, weights=weights, reduction="sum"))(x)
        alone = jax.grad(lambda x, loss=loss: loss(x, y[:4], reduction="sum"))(x[:4])
        same(by_x[:4], alone, span=20)


def test_a_near_neighbour_to_the_last_digit():
    x = jnp.array([[1.0, 0.3, 0.7], [1.0, 0.3 + 1e-6, 0.7]])
    a, b = np.asarray(x, np.float64)
    with mp.workdps(40):
        a, b = ([mp.mpf(float(v)) for v in row] for row in (a, b))
        na, nb = (mp.sqrt(sum(v * v for v in row)) for row in (a, b))
        truth = -mp.log(mp.sqrt(sum((u / na - v / nb) ** 2 for u, v in zip(a, b, strict=True))))
    close(jaxloss.koleo_loss(x, epsilon=0), [float(truth)] * 2, 1.0)


def test_flags_are_flags(rng):
    x, y = rng.normal(size=(4, 3)).astype(np.float32), np.arange(4) % 2
    for loss in (jaxloss.contrastive_loss, jaxloss.batch_hard_triplet_loss, jaxloss.nca_loss):
        with pytest.raises(TypeError, match="expected `normalize` to be True or False, got None"):
            loss(x, y, normalize=None)
    with pytest.raises(TypeError, match="circle_loss: expected `remove_diagonal` to be True or False, got 'no'"):
        jaxloss.circle_loss(x, y, remove_diagonal="no")
    with pytest.raises(TypeError, match="batch_hard_triplet_loss: expected `soft_margin` to be True or False, got 1"):
        jaxloss.batch_hard_triplet_loss(x, y, soft_margin=1)


def test_labels_wider_than_those_of_jax_beside_others(rng):
    x, r = (rng.normal(size=(n, 3)).astype(np.float32) for n in (4, 3))
    wide, narrow = np.array([2**40, 5, 5, 2**40]), np.array([9, 5, 5, 9])
    found, expected = (
        jaxloss.ntxent(x, y, reference_embeddings=r, reference_labels=jnp.array([5, 7, 5]), reduction="none")
        for y in (wide, narrow)
    )
    same(found, expected)


# Proxies and classes.


def test_a_proxy_is_an_anchor(rng):
    x, p = (rng.normal(size=(n, 4)).astype(np.float32) for n in (7, 5))  # of which two have no example
    margin, alpha = 0.2, 4.0
    where = np.arange(7) != 3

    def plain(x, p):
        u, v = (a / jnp.linalg.norm(a, axis=1, keepdims=True) for a in (x, p))
        pull, push = [], []
        for c in range(5):
            own = [jnp.exp(alpha * (margin - u[i] @ v[c])) for i in range(7) if where[i] and LABELS[i] == c]
            rest = [jnp.exp(alpha * (margin + u[i] @ v[c])) for i in range(7) if where[i] and LABELS[i] != c]
            pull += [jnp.log1p(sum(own))] if own else []
            push += [jnp.log1p(sum(rest))]
        return mean(pull) + mean(push)

    dirty = np.where(where[:, None], x, np.nan)
    ours = jax.value_and_grad(
        lambda x, p: jaxloss.proxy_anchor_loss(x, LABELS, p, margin=margin, alpha=alpha, where=where), (0, 1)
    )(dirty, p)
    with jax.enable_x64(True):
        truth = jax.value_and_grad(plain, (0, 1))(x.astype(np.float64), p.astype(np.float64))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        same(a, b, span=20)
    assert np.isnan(jaxloss.proxy_anchor_loss(x, LABELS + 3, p))
    assert jaxloss.proxy_anchor_loss(x, LABELS, p, where=np.zeros(7, bool)) == 0


def exact_margin(x, w, y, scale, m2, m3, m1):
    """At many digits, of one example; w has a column for each class."""
    columns = [[row[c] for row in w] for c in range(len(w[0]))]

    def cosine(a, b):
        return sum(u * v for u, v in zip(a, b, strict=True)) / mp.sqrt(sum(u * u for u in a) * sum(v * v for v in b))

    s = [cosine(x, c) for c in columns]
    angle = m1 * mp.acos(max(min(s[y], 1), -1)) + m2
    k = int(mp.floor(angle / mp.pi))
    own = (-1) ** k * mp.cos(angle) - 2 * k - m3
    return mp.log1p(sum(mp.exp(scale * (v - own)) for c, v in enumerate(s) if c != y))


MARGINS = [(0.5, 0.0, 1.0), (0.0, 0.35, 1.0), (0.0, 0.0, 4.0), (0.3, 0.2, 1.5)]
DIRECTIONS = [[1.0, 0.0, 0.0], [1.0, 1e-4, 0.0], [0.3, -0.5, 0.7], [-0.9, 0.1, 0.3], [-1.0, 1e-2, 0.0]]


@pytest.mark.parametrize("margins", MARGINS, ids=["ArcFace", "CosFace", "SphereFace", "all"])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_margins_of_angles(margins, scale, rng):
    """Near the class and on it, far and nearly opposite; the slope of an angle is 1 wherever it is."""
    m2, m3, m1 = margins
    w = np.concatenate([np.eye(3)[:, :1], rng.normal(size=(3, 4))], 1).astype(np.float32)
    x = np.asarray(DIRECTIONS, np.float32) * np.array([[1], [1], [1e15], [1e-15], [1]], np.float32)
    y = np.zeros(5, int)
    options = {"scale": scale, "margin": m2, "cosine_margin": m3, "multiplier": m1}

    def loss(x, w):
        return jaxloss.angular_margin_loss(x, w, y, **options)

    ours, pull = jax.vjp(loss, x, w)
    by_x, by_w = pull(jnp.ones(5))
    assert np.isfinite(by_w).all()
    with mp.workdps(60):
        number = [mp.mpf(float(np.float32(v))) for v in (scale, m2, m3, m1)]
        columns = [[mp.mpf(float(v)) for v in row] for row in w]
        for i, row in enumerate(x):
            exact = [mp.mpf(float(v)) for v in row]

            def of(c, v, exact=exact):
                return exact_margin([*exact[:c], v, *exact[c + 1 :]], columns, 0, *number)

            truth = of(0, exact[0])
            close(ours[i], float(truth), max(float(truth), 1.0), span=scale * 8, of=f"value of {row}")
            length = float(mp.sqrt(sum(v * v for v in exact)))
            step = mp.mpf(length) * mp.mpf(10) ** -20
            gradient = [float((of(c, v + step) - of(c, v - step)) / (2 * step)) for c, v in enumerate(exact)]
            if i == 0:  # the direction has no derivative: to the side it is that of the other classes
                continue
            close(by_x[i] * length, np.array(gradient) * length, scale * 10 * m1, span=scale, of=f"gradient of {row}")


def test_on_its_class_an_angle_has_the_derivative_of_the_others():
    """The angle of 0 moves nowhere, though the slope of a cosine by it is infinite in the formulas of others."""
    x, w = jnp.array([[2.0, 0.0], [-2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])

    def total(x, w, margin):
        return jaxloss.angular_margin_loss(x, w, jnp.array([0, 0]), scale=4.0, margin=margin).sum()

    with_margin, without = (jax.grad(total, (0, 1))(x, w, margin) for margin in (0.5, 0.0))
    for a, b in zip(with_margin, without, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(np.sign(a), np.sign(b))


@pytest.mark.parametrize("class_axis", [-1, 0])
def test_classes_on_devices(class_axis, rng):
    """Examples and classes split, in shard_map and on an explicit mesh."""
    x, w = rng.normal(size=(8, 5)).astype(np.float32), rng.normal(size=(5, 12)).astype(np.float32)
    y, weights = rng.integers(12, size=8), rng.random(8).astype(np.float32)
    w = w if class_axis == -1 else w.T

    def loss(x, w, y, weights, **names):
        return jaxloss.angular_margin_loss(
            x, w, y, class_axis=class_axis, scale=5.0, weights=weights, reduction="mean", **names
        )

    expected = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w, y, weights)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    of_w = P(None, "model") if class_axis == -1 else P("model")

    def local(*args):
        return loss(*args, axis_name="data", class_axis_name="model")

    specs = P("data"), of_w, P("data"), P("data")
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())
    ours = jax.jit(jax.value_and_grad(mapped, (0, 1)))(x, w, y, weights)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)
    explicit = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(explicit):
        places = (jax.device_put(a, NamedSharding(explicit, s)) for a, s in zip((x, w, y, weights), specs, strict=True))
        ours = jax.jit(jax.value_and_grad(loss, (0, 1)))(*places)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(jax.device_get(a), b, span=20)


def test_labels_that_name_no_class(rng):
    x, w = rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    y = np.array([1, -1, 4])
    losses = jaxloss.angular_margin_loss(x, w, y)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, True])
    value, gradient = jax.value_and_grad(
        lambda x: jaxloss.angular_margin_loss(x, w, y, where=np.array([True, False, False]), reduction="mean")
    )(np.where(np.arange(3)[:, None] == 0, x, np.nan).astype(np.float32))
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient[1:], 0)
