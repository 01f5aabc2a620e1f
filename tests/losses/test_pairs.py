"""Losses of queries and references: the textbook, masks, chunks, devices, and memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tolerances import close, same

import jaxloss

SCALE, BIAS = 2.5, -1.5


def clip(q, r, scale=SCALE, bias=None, **options):
    return jaxloss.clip_loss(q, r, logit_scale=scale, **options)


def siglip(q, r, scale=SCALE, bias=BIAS, **options):
    return jaxloss.siglip_loss(q, r, logit_scale=scale, bias=bias, **options)


def plain_clip(q, r, scale=SCALE, bias=None, where=None):
    z = jnp.where(True if where is None else where[:, None] & where[None, :], scale * q @ r.T, -jnp.inf)
    rows, columns = (jax.nn.logsumexp(z, axis) - jnp.diagonal(z) for axis in (1, 0))
    return (rows + columns) / 2


def plain_siglip(q, r, scale=SCALE, bias=BIAS, where=None):
    z = scale * q @ r.T + bias
    losses = jax.nn.softplus(jnp.where(jnp.eye(len(q), dtype=bool), -z, z))
    return jnp.where(True if where is None else where[:, None] & where[None, :], losses, 0).sum(1)


LOSSES = {"clip": (clip, plain_clip), "siglip": (siglip, plain_siglip)}
every_loss = pytest.mark.parametrize("name", LOSSES)


def draw(rng, n=21, features=8, dtype=np.float32):
    return (jnp.asarray(rng.normal(size=(n, features)), dtype) for _ in range(2))


def total_of(loss, **options):
    """A sum with a number for each query, of embeddings, scale and bias."""

    def total(q, r, scale, bias):
        losses = loss(q, r, scale, bias, **options)
        return (losses * jnp.cos(jnp.arange(losses.size, dtype=losses.dtype)).reshape(losses.shape)).sum()

    return total


@every_loss
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_the_textbook(name, reduction, rng):
    """In 64 bits, beside the full matrix: value and gradients, by scale and bias as well, in chunks of any size."""
    loss, plain = LOSSES[name]
    reduce = {"none": lambda x: x, "sum": jnp.sum, "mean": jnp.mean}[reduction]
    with jax.enable_x64(True):
        args = *draw(rng, dtype=np.float64), jnp.asarray(SCALE), jnp.asarray(BIAS)
        expected = jax.value_and_grad(total_of(lambda *a: reduce(plain(*a))), (0, 1, 2, 3))(*args)
        for chunk_size in (None, 1, 8, 20):
            options = {"reduction": reduction, "chunk_size": chunk_size}
            ours = jax.value_and_grad(total_of(loss, **options), (0, 1, 2, 3))(*args)
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
                same(a, b, span=20, dtype=np.float64)


@every_loss
def test_sure_pairs_keep_their_digits(name):
    """Where softmaxes and sigmoids are 1 but for 1e-9."""
    loss = LOSSES[name][0]
    q = r = jnp.eye(4, dtype=np.float32)
    value, (by_q, by_scale) = jax.value_and_grad(lambda q, s: loss(q, r, s, -20.0).mean(), (0, 1))(q, jnp.float32(40.0))
    rest = 3 * np.exp(-40.0) if name == "clip" else np.exp(-20.0) + 3 * np.exp(-20.0)
    close(value, rest, rest, span=40)
    by_scale_truth = -3 * np.exp(-40.0) if name == "clip" else -np.exp(-20.0)
    close(by_scale, by_scale_truth, np.abs(by_scale_truth), span=40)
    assert (np.diag(by_q) < 0).all()


@every_loss
@pytest.mark.parametrize("mask", ["where", "weights"])
def test_masked_pairs_do_not_exist(name, mask, rng):
    loss, plain = LOSSES[name]
    q, r = draw(rng)
    where = jnp.asarray(rng.random(21) < 0.7)
    dirty = [jnp.where(where[:, None], x, jnp.nan) for x in (q, r)]
    options = {mask: where if mask == "where" else where.astype(np.float32)}
    ours = jax.value_and_grad(lambda q, r: loss(q, r, reduction="mean", chunk_size=8, **options), (0, 1))(*dirty)
    kept = [x[where] for x in (q, r)]
    value, gradients = jax.value_and_grad(lambda q, r: plain(q, r).mean(), (0, 1))(*kept)
    same(ours[0], value, span=20)
    for found, expected in zip(ours[1], gradients, strict=True):
        same(found[where], expected, span=20)
        np.testing.assert_array_equal(found[~where], 0)
    none = {mask: jnp.zeros(21, bool) if mask == "where" else jnp.zeros(21)}
    value, gradient = jax.value_and_grad(lambda q: loss(q, dirty[1], reduction="mean", **none))(dirty[0])
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@every_loss
def test_weights_are_those_of_a_pair(name, rng):
    loss = LOSSES[name][0]
    q, r = draw(rng)
    weights = jnp.asarray(rng.random(21) + 0.5, np.float32)
    losses = loss(q, r)
    same(loss(q, r, weights=weights), weights * losses, span=20)
    mean = jax.value_and_grad(lambda w: loss(q, r, weights=w, reduction="mean"))(weights)
    same(mean[0], (weights * losses).sum() / weights.sum(), span=20)
    same(mean[1], (losses - mean[0]) / weights.sum(), span=20)


@every_loss
def test_directions_of_any_length(name, rng):
    loss = LOSSES[name][0]
    q, r = draw(rng)
    q = q.at[3].set(0)
    expected = jax.value_and_grad(lambda q: loss(q, r, normalize=True).sum())(q)
    assert np.isfinite(expected[1]).all()
    lengths = jnp.asarray(10.0 ** rng.integers(-20, 20, size=(21, 1)), np.float32)
    value, gradient = jax.value_and_grad(lambda q: loss(q, r * 1e-18, normalize=True).sum())(q * lengths)
    same(value, expected[0], span=20)
    same(gradient * lengths, expected[1], span=20)


@every_loss
def test_half_precision(name, rng):
    """Embeddings are multiplied as they are, and gradients are added up in float32."""
    loss = LOSSES[name][0]
    q, r = draw(rng, n=40)
    q, r = q.astype(jnp.bfloat16), r.astype(jnp.bfloat16)
    ours = jax.value_and_grad(lambda q, r: loss(q, r, reduction="mean", chunk_size=8), (0, 1))(q, r)
    wide = q.astype(np.float32), r.astype(np.float32)
    expected = jax.value_and_grad(lambda q, r: loss(q, r, reduction="mean"), (0, 1))(*wide)
    assert ours[0].dtype == np.float32
    same(ours[0], expected[0], span=20)
    for a, b in zip(ours[1], expected[1], strict=True):
        assert a.dtype == jnp.bfloat16
        same(a, b, dtype=jnp.bfloat16)


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_transformations(name, reduction, rng):
    loss, plain = LOSSES[name]
    args = *draw(rng, n=6), jnp.float32(SCALE), jnp.float32(BIAS)
    options = {"reduction": reduction, "chunk_size": 4}
    reduce = {"none": lambda x: x, "mean": jnp.mean}[reduction]
    ours, theirs = total_of(loss, **options), total_of(lambda *a: reduce(plain(*a)))
    d = tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in args)

    def every(f):
        tangent = jax.jvp(f, args, d)[1]
        second = jax.jvp(jax.grad(f, (0, 1, 2, 3)), args, d)[1]
        two = [jnp.stack([a, 2 * a]) for a in args[:2]]
        mapped = jax.vmap(jax.grad(f, (0, 1)), (0, 0, None, None))(*two, *args[2:])

        def by_scale(q):
            return jax.jvp(lambda scale: f(q, args[1], scale, args[3]), args[2:3], d[2:3])[1]

        return tangent, second, mapped, jax.grad(by_scale)(args[0])

    found, expected = (jax.tree.leaves(jax.jit(every, static_argnums=0)(f)) for f in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        same(a, b, span=40)


FEW, MANY = 24, 4096  # pairs of eight devices: references are gathered, or travel


@pytest.mark.smoke
@every_loss
@pytest.mark.parametrize("n", [FEW, MANY])
@pytest.mark.parametrize("check_vma", [False, True])
def test_pairs_of_a_mapped_axis(name, n, check_vma, rng):
    """Eight devices give what one gives, gradients by scale and bias included."""
    loss = LOSSES[name][0]
    q, r = draw(rng, n)
    where, weights = jnp.asarray(rng.random(n) < 0.8), jnp.asarray(rng.random(n), np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(q, r, scale, bias, where, weights):
        options = {"where": where, "weights": weights, "axis_name": "data", "chunk_size": n // 12}
        return loss(q, r, scale, bias, reduction="mean", **options)

    specs = P("data"), P("data"), P(), P(), P("data"), P("data")
    mapped = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
    args = q, r, jnp.float32(SCALE), jnp.float32(BIAS), where, weights
    gradient = jax.jit(jax.value_and_grad(mapped, (0, 1, 2, 3)))
    assert ("collective_permute" in gradient.lower(*args).as_text()) == (n == MANY)
    ours = gradient(*args)

    def whole(q, r, scale, bias, where, weights):
        return loss(q, r, scale, bias, where=where, weights=weights, reduction="mean")

    expected = jax.jit(jax.value_and_grad(whole, (0, 1, 2, 3)))(*args)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_every_derivative_of_references_that_travel(name, reduction, rng):
    """Of a loss for each pair, and second derivatives, on an explicit mesh."""
    loss = LOSSES[name][0]
    q, r = draw(rng, 1024, features=4)
    args = q, r, jnp.float32(SCALE), jnp.float32(BIAS)
    directions = tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in args)

    @jax.jit
    def every(args, directions):
        def f(*args):
            losses = loss(*args, reduction=reduction)
            return jnp.square(losses).sum()

        return jax.jvp(f, args, directions), jax.jvp(jax.grad(f, (0, 1, 2, 3)), args, directions)

    expected = every(args, directions)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    places = [NamedSharding(mesh, p) for p in (P("data"), P("data"), P(), P())]
    with jax.set_mesh(mesh):
        ours = every(*(tuple(map(jax.device_put, arrays, places)) for arrays in (args, directions)))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(jax.device_get(a), b, span=40)


@pytest.mark.smoke
@every_loss
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_pairs_of_a_mesh(name, kind, reduction, rng):
    loss = LOSSES[name][0]
    q, r = draw(rng, n=32)
    where = jnp.asarray(rng.random(32) < 0.8)

    @jax.jit
    def every(q, r, scale, bias, where):
        return jax.value_and_grad(
            lambda *a: loss(*a, where=where, reduction=reduction, chunk_size=2).mean(), (0, 1, 2, 3)
        )(q, r, scale, bias)

    args = q, r, jnp.float32(SCALE), jnp.float32(BIAS), where
    expected = every(*args)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType[kind],) * 2)
    splits = [(P("data"), P("data")), (P(("data", "model")), P(("data", "model"))), (P("data"), P()), (P(), P("data"))]
    if kind == "Explicit":
        splits += [(P("data"), P("model")), (P(None, "model"), P("data"))]
    for spec, other in splits:
        with jax.set_mesh(mesh):
            places = spec, other, P(), P(), P(spec[0] if len(spec) else None)
            ours = every(*(jax.device_put(a, NamedSharding(mesh, p)) for a, p in zip(args, places, strict=True)))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            same(jax.device_get(a), b, span=20)


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_memory_is_that_of_a_chunk(name, reduction):
    """No array has a number for each pair: an eighth of the naive form's memory at the default size of a chunk."""
    loss, plain = LOSSES[name]
    shape = jax.ShapeDtypeStruct((4096, 64), np.float32)

    def temporaries(loss):
        gradient = jax.value_and_grad(lambda q, r, s, b: loss(q, r, s, b).mean(), (0, 1, 2, 3))
        return jax.jit(gradient).lower(shape, shape, 1.0, 1.0).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(lambda *a: loss(*a, reduction=reduction)) < temporaries(plain) / 8


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        (jaxloss.clip_loss, {"queries": jnp.zeros(3)}, ValueError, "`queries` of shape (batch, features), got (3,)."),
        (jaxloss.clip_loss, {"references": jnp.zeros((5, 3))}, ValueError, "`references` of shape (6, 3), got (5, 3)."),
        (jaxloss.clip_loss, {"logit_scale": jnp.ones(6)}, ValueError, "`logit_scale` of shape (), got (6,)."),
        (
            jaxloss.clip_loss,
            {"queries": jnp.zeros((6, 3), int)},
            TypeError,
            "`queries` of a floating dtype, got int32.",
        ),
        (jaxloss.siglip_loss, {"bias": jnp.ones(6)}, ValueError, "`bias` of shape (), got (6,)."),
    ],
)
def test_bad_input_gets_one_sentence(loss, options, error, message):
    numbers = {"logit_scale": 1.0} | ({"bias": 0.0} if loss is jaxloss.siglip_loss else {})
    arguments = {"queries": jnp.zeros((6, 3)), "references": jnp.zeros((6, 3)), **numbers, **options}
    with pytest.raises(error, match=f"^{re.escape(f'{loss.__name__}: expected {message}')}"):
        loss(**arguments)


# InfoNCE: several references to a query.


def plain_info_nce(q, r, labels, scale, where=None):
    z = scale * q @ r.T
    z = z if where is None else jnp.where(where, z, -jnp.inf)
    return jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, labels[:, None], 1)[:, 0]


def info_nce(q, r, labels, scale, **options):
    return jaxloss.info_nce_loss(q, r, labels, logit_scale=scale, **options)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_reference_among_many(reduction, rng):
    reduce = {"none": lambda x: x, "mean": jnp.mean}[reduction]
    with jax.enable_x64(True):
        q, r = jnp.asarray(rng.normal(size=(21, 8))), jnp.asarray(rng.normal(size=(34, 8)))
        labels, where = jnp.asarray(rng.integers(34, size=21)), jnp.asarray(rng.random((21, 34)) < 0.7)
        where = where.at[jnp.arange(21), labels].set(True)
        for mask in (None, where):
            expected = jax.value_and_grad(
                lambda q, r, s, mask=mask: reduce(plain_info_nce(q, r, labels, s, mask)).sum(), (0, 1, 2)
            )(q, r, jnp.asarray(SCALE))
            for chunk_size in (None, 8):
                ours = jax.value_and_grad(
                    lambda q, r, s, mask=mask, n=chunk_size: info_nce(
                        q, r, labels, s, where=mask, reduction=reduction, chunk_size=n
                    ).sum(),
                    (0, 1, 2),
                )(q, r, jnp.asarray(SCALE))
                for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
                    same(a, b, span=20, dtype=np.float64)


def own_info_nce(q, r, **options):
    return info_nce(q, r, None, SCALE, **options)


@pytest.mark.parametrize("loss", [clip, siglip, own_info_nce])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_chunks_that_do_not_divide_the_queries(loss, reduction, rng):
    """What fills up the last one gives no gradient, nor NaN. One query in bfloat16 is a vector to a CPU."""
    q, r = (jnp.asarray(rng.normal(size=(7, 4)), np.float32) for _ in range(2))

    def gradients(q, r, chunk_size):
        return jax.grad(lambda q, r: loss(q, r, reduction=reduction, chunk_size=chunk_size).sum(), (0, 1))(q, r)

    for a, b in zip(gradients(q, r, 3), gradients(q, r, 7), strict=True):
        same(a, b, span=20)
    for gradient in gradients(q[:1].astype(jnp.bfloat16), r[:1].astype(jnp.bfloat16), None):
        assert np.isfinite(gradient.astype(np.float32)).all()


def test_references_split_unlike_their_queries(rng):
    q, r = (jnp.asarray(rng.normal(size=(n, 8)), np.float32) for n in (16, 24))
    expected = jax.value_and_grad(lambda q, r: info_nce(q, r, None, SCALE, reduction="mean"), (0, 1))(q, r)
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    for spec, other in ((P(), P("x")), (P("x"), P("y")), (P("x"), P(("x", "y"))), (P(None, "x"), P("x"))):
        arrays = (jax.device_put(a, NamedSharding(mesh, p)) for a, p in ((q, spec), (r, other)))
        ours = jax.jit(jax.value_and_grad(lambda q, r: info_nce(q, r, None, SCALE, reduction="mean"), (0, 1)))(*arrays)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
            same(jax.device_get(a), b, span=20)


def test_references_that_do_not_exist(rng):
    q, r = (jnp.asarray(rng.normal(size=(n, 8)), np.float32) for n in (6, 9))
    labels = jnp.array([0, 1, 2, -1, 9, 5])
    gradient = jax.grad(lambda q: info_nce(q, r, labels, SCALE).sum())(q)
    np.testing.assert_array_equal(np.isnan(info_nce(q, r, labels, SCALE)), [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(np.isnan(gradient).all(1), [0, 0, 0, 1, 1, 0])
    valid = jnp.array([True, True, True, False, False, True])
    value, (by_q, by_r) = jax.value_and_grad(
        lambda q, r: info_nce(q, r, labels, SCALE, where=valid, reduction="mean"), (0, 1)
    )(jnp.where(valid[:, None], q, jnp.nan), r)
    same(value, plain_info_nce(q, r, jnp.clip(labels, 0), SCALE)[valid].mean(), span=20)
    np.testing.assert_array_equal(by_q[3:5], 0)
    assert np.isfinite(by_r).all()
    pairs = jnp.broadcast_to(jnp.arange(9) != 4, (6, 9))
    dirty = r.at[4].set(jnp.nan)
    kept = info_nce(q, r[np.arange(9) != 4], jnp.zeros(6, int), SCALE)
    ours, by_r = jax.value_and_grad(lambda r: info_nce(q, r, jnp.zeros(6, int), SCALE, where=pairs).sum())(dirty)
    same(ours, kept.sum(), span=20)
    np.testing.assert_array_equal(by_r[4], 0)
    assert np.isfinite(by_r).all()


@pytest.mark.smoke
@pytest.mark.parametrize("check_vma", [False, True])
def test_references_of_a_mapped_axis(check_vma, rng):
    """Each device has three queries, and four references, of which one is a negative more."""
    q, r = (jnp.asarray(rng.normal(size=(n, 8)), np.float32) for n in (24, 32))
    where = jnp.asarray(rng.random((24, 32)) < 0.7)
    own = jnp.arange(24) // 3 * 4 + jnp.arange(24) % 3
    where = where.at[jnp.arange(24), own].set(True)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def local(q, r, where):
        return info_nce(q, r, None, SCALE, where=where, reduction="mean", axis_name="data", chunk_size=2)

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P("data"),) * 3, out_specs=P(), check_vma=check_vma)
    ours = jax.jit(jax.value_and_grad(mapped, (0, 1)))(q, r, where)
    expected = jax.value_and_grad(lambda q, r: info_nce(q, r, own, SCALE, where=where, reduction="mean"), (0, 1))(q, r)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)
    with pytest.raises(ValueError, match="expected `references` for 24 queries, or `labels`, got 5"):
        info_nce(q, r[:5], None, SCALE)


@pytest.mark.parametrize(
    "loss",
    [
        lambda q, r: clip(q, r, normalize=True),
        lambda q, r: siglip(q, r, normalize=True),
        lambda q, r: info_nce(q, r, None, SCALE, normalize=True),
        lambda q, r: jaxloss.supervised_contrastive_loss(
            jnp.concatenate([q, r]), jnp.resize(jnp.arange(len(q)), 2 * len(q))
        ),
    ],
    ids=["clip", "siglip", "info_nce", "supervised"],
)
def test_cosines_in_half_precision_are_those_of_the_numbers(loss, rng):
    """Embeddings in bfloat16 are multiplied as they are, of any length; only the gradient is rounded, and once."""
    near = rng.normal(size=(20, 8))
    lengths = 2.0 ** rng.integers(-60, 60, size=(20, 1))
    q, r = (jnp.asarray((near + 0.05 * rng.normal(size=near.shape)) * lengths, jnp.bfloat16) for _ in range(2))

    def both(q, r):
        return jax.value_and_grad(lambda q, r: loss(q, r).mean(), (0, 1))(q, r)

    ours, expected = both(q, r), both(q.astype(np.float32), r.astype(np.float32))
    same(ours[0], expected[0], span=20)
    for a, b in zip(ours[1], expected[1], strict=True):
        assert a.dtype == jnp.bfloat16
        a, b = (np.asarray(x, np.float64) * lengths for x in (a, b))
        assert np.abs(a - b).max() < 2**-8 * np.abs(b).max()


@pytest.mark.parametrize("loss", [clip, siglip, own_info_nce, jaxloss.angular_loss], ids=lambda loss: loss.__name__)
def test_a_weight_of_zero_has_the_derivative_that_a_small_one_has(loss, rng):
    """A pair of weight 0 is in no other's loss, but has one of its own."""
    q, r = draw(rng, n=5, features=3)
    gradient = jax.grad(lambda w: loss(q, r, weights=w, reduction="sum"))
    ones = jnp.ones(5)
    without = loss(q[1:], r[1:], reduction="sum")
    at_zero = gradient(ones.at[0].set(0))
    assert at_zero[0] > 0.1
    same(loss(q, r, weights=ones.at[0].set(0), reduction="sum"), without, span=20) if loss is not own_info_nce else None
    if loss is own_info_nce:  # whose references are compared, whatever the weight of their queries
        same(at_zero[0], gradient(ones.at[0].set(1e-3))[0], span=20)


def test_large_weights_do_not_overflow_where_logits_spread(rng):
    """On a CPU rows and columns share exponentials, of logits that spread by up to 60."""
    for spread in (59.0, 79.0, 300.0):
        q, r = jnp.array([[spread, 0.0], [0.0, 0.01], [0.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])

        def gradient(weight, q=q, r=r):
            return jax.grad(lambda q: clip(q, r, 1.0, weights=jnp.full(3, weight), reduction="sum"))(q) / weight

        same(gradient(1e8), gradient(1.0), span=spread)


def test_labels_split_beside_embeddings_that_are_not(rng):
    mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Explicit,))
    x, y = jnp.asarray(rng.normal(size=(8, 4)), np.float32), jnp.arange(8) % 3
    losses = [
        *(jaxloss.ntxent, jaxloss.nca_loss, jaxloss.batch_hard_triplet_loss, jaxloss.lifted_structure_loss),
        lambda x, y: jaxloss.info_nce_loss(x, x[::-1], y),
        lambda x, y: jaxloss.angular_loss(x, x[::-1], y),
        lambda x, y: jaxloss.angular_margin_loss(x, x.T, y),
    ]
    with jax.set_mesh(mesh):
        split = jax.device_put(y, NamedSharding(mesh, P("a")))
        whole = jax.device_put(x, NamedSharding(mesh, P()))
        for loss in losses:
            found = jax.jit(jax.grad(lambda x, y, loss=loss: loss(x, y).sum()))(whole, split)
            same(jax.device_get(found), jax.grad(lambda x, loss=loss: loss(x, y).sum())(x), span=40)


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_hard_negatives_weigh_more(reduction, rng):
    """Their similarity is added to their logits, without derivative."""
    q, r = (jnp.asarray(rng.normal(size=(n, 4)), np.float32) for n in (7, 10))
    labels = jnp.asarray(rng.integers(10, size=7))
    reduce = {"none": jnp.sum, "mean": jnp.mean}[reduction]

    def plain(q, r, hardness):
        products = q @ r.T
        own = jnp.arange(10)[None, :] == labels[:, None]
        z = SCALE * products + jnp.where(own, 0, hardness * jax.lax.stop_gradient(products))
        return reduce(jax.nn.logsumexp(z, 1) - jnp.take_along_axis(z, labels[:, None], 1)[:, 0])

    def ours(q, r, hardness):
        return info_nce(q, r, labels, SCALE, hardness=hardness, reduction=reduction, chunk_size=3).sum()

    found, expected = (jax.value_and_grad(f, (0, 1, 2))(q, r, jnp.float32(1.5)) for f in (ours, plain))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        same(a, b, span=20)
    same(ours(q, r, 0.0), ours(q, r, jnp.float32(0)), span=20)
