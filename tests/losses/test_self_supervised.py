"""Losses of two views: the textbook, near views, features of any size, masks, devices."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tolerances import close, same
from transformations import TRANSFORMATIONS

import jaxloss

BARLOW, VICREG = jaxloss.barlow_twins_loss, jaxloss.vicreg_loss
inf = np.inf


def centred(x):
    return x - x.mean(0, keepdims=True)


def plain_barlow(m, x, y, off_diagonal_weight=5e-3, epsilon=1e-5):
    z1, z2 = (centred(a) / m.sqrt((centred(a) ** 2).mean(0, keepdims=True) + epsilon) for a in (x, y))
    same_feature = np.eye(x.shape[1], dtype=bool)
    c = z1.T @ z2 / len(x)
    return (m.where(same_feature, (1 - c) ** 2, off_diagonal_weight * c**2)).sum()


def plain_vicreg(m, x, y, invariance_weight=25.0, variance_weight=25.0, covariance_weight=1.0, epsilon=1e-4):
    loss = invariance_weight * ((x - y) ** 2).mean()
    for a in (x, y):
        c = centred(a).T @ centred(a) / (len(a) - 1)
        same_feature = np.eye(len(c), dtype=bool)
        variance = m.where(same_feature, c, 0 * c).sum(0)
        loss += variance_weight * m.maximum(1 - m.sqrt(variance + epsilon), 0).mean() / 2
        loss += covariance_weight * m.where(same_feature, 0 * c, c**2).sum() / len(c)
    return loss


LOSSES = {"barlow": (BARLOW, plain_barlow), "vicreg": (VICREG, plain_vicreg)}
OPTIONS = {
    "barlow": {"off_diagonal_weight": 0.3, "epsilon": 0.1},
    "vicreg": {"invariance_weight": 0.7, "variance_weight": 3.0, "covariance_weight": 2.0, "epsilon": 0.2},
}
DEFAULTS = {"barlow": {"off_diagonal_weight": 5e-3, "epsilon": 1e-5}, "vicreg": {"epsilon": 1e-4}}
every_loss = pytest.mark.parametrize("name", LOSSES)
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(rng, n=12, features=5, apart=0.5, dtype=np.float32):
    """Two views of features of different sizes."""
    size = 2.0 ** rng.uniform(-2, 1, size=features)
    x = rng.normal(size=(n, features))
    return ((size * a).astype(dtype) for a in (x, x + apart * rng.normal(size=x.shape)))


def truth(plain, x, y, **options):
    """Value and gradients by both views, at many digits."""
    with mp.workdps(100):
        step = mp.mpf(10) ** -40
        views = [oracles.numbers(a) for a in (x, y)]

        def value(views):
            return plain(oracles.EXACT, *views, **{k: mp.mpf(v) for k, v in options.items()})

        def slope(view, index):
            ends = []
            for sign in (-1, 1):
                moved = [a.copy() for a in views]
                moved[view][index] += sign * step
                ends.append(value(moved))
            return float((ends[1] - ends[0]) / (2 * step))

        gradients = [np.array([slope(k, i) for i in np.ndindex(a.shape)]).reshape(a.shape) for k, a in enumerate(views)]
        return float(value(views)), *gradients


def gradients(loss, x, y, **options):
    value, (by_x, by_y) = jax.value_and_grad(lambda x, y: loss(x, y, **options), (0, 1))(x, y)
    return value, by_x, by_y


def compare(ours, expected, *, span=5.0, dtype=np.float32):
    """The value and each gradient, relative to its largest entry."""
    for a, b in zip(ours, expected, strict=True):
        close(a, b, np.abs(b).max(initial=0), span=span, dtype=dtype)


@pytest.mark.exact
@every_loss
@both
def test_the_textbook(name, dtype, rng):
    loss, plain = LOSSES[name]
    with jax.enable_x64(dtype == np.float64):
        x, y = draw(rng, dtype=dtype)
        for options in ({}, OPTIONS[name], {"epsilon": 0.0}):
            ours = gradients(loss, x, y, **options)
            assert ours[0].dtype == ours[1].dtype == dtype
            numbers = {k: float(dtype(v)) for k, v in {**DEFAULTS[name], **options}.items()}
            compare(ours, truth(plain, x, y, **numbers), dtype=dtype)


@every_loss
def test_derivatives_by_options(name, rng):
    loss, plain = LOSSES[name]
    with jax.enable_x64(True):
        x, y = draw(rng, dtype=np.float64)
        ours = jax.grad(lambda options: loss(x, y, **options))(OPTIONS[name])
        expected = jax.grad(lambda options: plain(jnp, jnp.asarray(x), jnp.asarray(y), **options))(OPTIONS[name])
        for option in expected:
            same(ours[option], expected[option], span=10, dtype=np.float64)


@pytest.mark.exact
@both
@pytest.mark.parametrize("offset", [0, 1e4])
@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_near_views_keep_their_digits(dtype, offset, epsilon, rng):
    """Where 1 - C_ii is 1e-8 and C_ii rounds to 1."""
    with jax.enable_x64(dtype == np.float64):
        x, y = ((a + offset).astype(dtype) for a in draw(rng, n=9, features=3, apart=1e-4, dtype=np.float64))
        options = {"off_diagonal_weight": 0.0, "epsilon": epsilon}
        expected = truth(plain_barlow, x, y, **{k: float(dtype(v)) for k, v in options.items()})
        compare(gradients(BARLOW, x, y, **options), expected, dtype=dtype)
        if not epsilon:
            assert expected[0] < 1e-12
        value, gradient = jax.value_and_grad(BARLOW)(x, x, **options)
        assert value >= 0
        if not epsilon:
            assert value == 0
            np.testing.assert_array_equal(gradient, 0)


@pytest.mark.exact
@pytest.mark.parametrize("offset", [3.0, 1e4])
def test_views_of_different_means(offset, rng):
    """Of which the difference is rounded."""
    x, y = draw(rng)
    y = np.float32(y + offset)
    compare(
        gradients(BARLOW, x, y, epsilon=0.0),
        truth(plain_barlow, x, y, off_diagonal_weight=float(np.float32(5e-3)), epsilon=0.0),
    )


@pytest.mark.exact
@pytest.mark.parametrize("sizes", [(1e20, 1e20), (1e-20, 1e-20), (1e20, 1e-20), (1e-20, 1e4)])
def test_features_of_any_size(sizes, rng):
    """The loss does not see it without epsilon, and the gradient is the smaller, the larger the features are."""
    x, y = draw(rng)
    powers = [2.0 ** np.round(np.log2(size)) for size in sizes]
    expected = gradients(BARLOW, x, y, epsilon=0.0)
    value, *slopes = gradients(BARLOW, *(np.float32(p * a) for p, a in zip(powers, (x, y), strict=True)), epsilon=0.0)
    compare((value, *(p * np.float64(s) for p, s in zip(powers, slopes, strict=True))), expected)
    ours = gradients(BARLOW, *(np.float32(p * a) for p, a in zip(powers, (x, y), strict=True)))
    assert all(np.isfinite(a).all() for a in ours)
    if max(sizes) < 1:
        close(ours[0], x.shape[1], x.shape[1])  # epsilon is all there is, and no feature correlates


@pytest.mark.exact
@pytest.mark.parametrize("size", [1e-20, 1e-4, 1e4])
def test_deviations_of_any_size(size, rng):
    """Their squares underflow, but not the gradient, which does not depend on it."""
    x, y = (np.float32(size * a) for a in draw(rng))
    for options in ({"epsilon": 0.0}, {"epsilon": 0.0, "invariance_weight": 0.0, "covariance_weight": 0.0}):
        compare(gradients(VICREG, x, y, **options), truth(plain_vicreg, x, y, **options))


def test_what_float32_does_not_hold_is_infinite(rng):
    x, y = (np.float32(1e20 * a) for a in draw(rng))
    assert VICREG(x, y) == inf


@every_loss
@both
def test_masked_examples_do_not_exist(name, dtype, rng):
    loss = LOSSES[name][0]
    with jax.enable_x64(dtype == np.float64):
        x, y = draw(rng, dtype=dtype)
        where = rng.random(len(x)) < 0.6
        dirty = [np.where(where[:, None], a, garbage) for a, garbage in ((x, np.nan), (y, inf))]
        ours = gradients(loss, *dirty, where=where)
        expected = gradients(loss, x[where], y[where])
        compare((ours[0], *(a[where] for a in ours[1:])), expected, dtype=dtype)
        for gradient in ours[1:]:
            np.testing.assert_array_equal(gradient[~where], 0)
        for masked in (gradients(loss, *dirty, where=np.zeros(len(x), bool)), gradients(loss, x[:0], y[:0])):
            for a in masked:
                np.testing.assert_array_equal(a, 0)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision(name, dtype, rng):
    loss = LOSSES[name][0]
    x, y = (jnp.asarray(a, dtype) for a in draw(rng))
    ours = gradients(loss, x, y)
    expected = gradients(loss, x.astype(np.float32), y.astype(np.float32))
    assert ours[0].dtype == np.float32
    same(ours[0], expected[0])
    for a, b in zip(ours[1:], expected[1:], strict=True):
        assert a.dtype == dtype
        same(a, b, dtype=dtype)


@pytest.mark.parametrize("constant", [0.1, 1e4 + 0.1, 1e20])
def test_a_collapsed_feature(constant, rng):
    """The same in all examples: standardised it is 0, and has gradient 0, also where the mean is rounded."""
    x, y = draw(rng, n=11)
    x[:, 1] = y[:, 2] = x[:, 3] = y[:, 3] = constant
    for epsilon in (0.0, 1e-5):
        value, by_x, by_y = gradients(BARLOW, x, y, epsilon=epsilon, off_diagonal_weight=0.0)
        kept = [0, 4]
        expected = gradients(BARLOW, x[:, kept], y[:, kept], epsilon=epsilon, off_diagonal_weight=0.0)
        compare((value, by_x[:, kept], by_y[:, kept]), (3 + np.float64(expected[0]), *expected[1:]))
        if not epsilon:
            np.testing.assert_array_equal(by_x[:, [1, 3]], 0)
            np.testing.assert_array_equal(by_y[:, [2, 3]], 0)
        assert np.isfinite(by_x).all()
        assert np.isfinite(by_y).all()
        options = {"epsilon": epsilon, "invariance_weight": 0.0, "covariance_weight": 0.0, "variance_weight": 10.0}
        value, by_x, by_y = gradients(VICREG, x, y, **options)
        for gradient, here in ((by_x, [1, 3]), (by_y, [2, 3])):
            np.testing.assert_array_equal(gradient[:, here], 0)
            assert np.isfinite(gradient).all()
        same_everywhere = jnp.full((7, 5), constant)
        value, gradient = jax.value_and_grad(VICREG)(same_everywhere, same_everywhere, **options)
        close(value, 10 * (1 - np.sqrt(epsilon)), 10)
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.exact
@pytest.mark.parametrize("number", [3, 49, 333])
def test_the_mean_of_equal_numbers_is_that_number(number, rng):
    """What it is rounded by is far above the root of epsilon."""
    x = jnp.asarray(rng.uniform(1e20, 2e20, size=(1, 50)), np.float32).repeat(number, 0)
    where = jnp.asarray(rng.random(number) < 0.8)
    value, gradient = jax.value_and_grad(BARLOW)(x, x)
    for found in (value, BARLOW(x, x), BARLOW(x, x, where=where.at[0].set(True))):
        assert found == 50
    np.testing.assert_array_equal(gradient, 0)


def test_one_example(rng):
    x, y = draw(rng, n=1)
    for epsilon in (0.0, 1e-4):
        value, *slopes = gradients(BARLOW, x, y, epsilon=epsilon)
        assert value == x.shape[1]
        np.testing.assert_array_equal(slopes, 0)
        value, by_x, _ = gradients(VICREG, x, y, epsilon=epsilon)
        error = np.float64(x) - y
        expected = 25 * (error**2).mean() + 25 * (1 - np.sqrt(epsilon))
        close(value, expected, expected)
        close(by_x, 50 * error / error.size, np.abs(50 * error / error.size))


def test_a_deviation_of_exactly_one_has_no_gradient():
    x = jnp.array([[-0.5], [0.5]])  # of variance 1/2
    options = {"invariance_weight": 0.0, "covariance_weight": 0.0, "epsilon": 0.5}
    value, gradient = jax.value_and_grad(VICREG)(x, x, **options)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
    assert (jax.grad(VICREG)(0.99 * x, x, **options) != 0).all()


@every_loss
def test_transformations(name, rng):
    loss, plain = LOSSES[name]
    x, y = (jnp.asarray(a) for a in draw(rng, n=6, features=4))

    @jax.jit
    def transformed(x):
        ours = {k: f(lambda x: loss(x, y), x) for k, f in TRANSFORMATIONS.items()}
        return ours, {k: f(lambda x: plain(jnp, x, y), x) for k, f in TRANSFORMATIONS.items()}

    ours, theirs = transformed(x)
    for k in TRANSFORMATIONS:
        for a, b in zip(jax.tree.leaves(ours[k]), jax.tree.leaves(theirs[k]), strict=True):
            same(a, b, span=50, of=k)


@every_loss
def test_several_batches(name, rng):
    loss = LOSSES[name][0]
    batches = [tuple(draw(rng)) for _ in range(3)]
    stacked = [jnp.stack(views) for views in zip(*batches, strict=True)]
    ours = jax.vmap(lambda x, y: gradients(loss, x, y))(*stacked)
    for i, batch in enumerate(batches):
        compare([a[i] for a in ours], gradients(loss, *batch))


def split(rng):
    """A batch with features far from 0, a mask that leaves some devices without an example, what one device gives."""
    x, y = (a + 3 for a in draw(rng, n=24, features=8))
    where = rng.random(24) < 0.6
    where[:3] = False
    return [*(np.where(where[:, None], a, np.nan) for a in (x, y)), where]


@every_loss
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("spec", [P("data"), P(None, "model"), P("data", "model")], ids=["batch", "features", "both"])
def test_meshes(name, kind, spec, rng):
    arrays, loss = split(rng), LOSSES[name][0]

    @jax.jit
    def values(x, y, where):
        return gradients(loss, x, y, where=where), jax.jvp(lambda x: loss(x, y, where=where), (x,), (jnp.ones_like(x),))

    expected = values(*arrays)
    with jax.set_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType[kind],) * 2)):
        places = spec, spec, P(spec[0])
        ours = jax.device_get(values(*(jax.device_put(a, place) for a, place in zip(arrays, places, strict=True))))
        one_is_whole = jax.device_get(values(arrays[0], jax.device_put(arrays[1], spec), arrays[2]))
    for found in (ours, one_is_whole):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            same(a, b, span=20)


@every_loss
def test_views_split_in_two_ways_are_refused(name, rng):
    x, y, _ = split(rng)
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))):
        x, y = jax.device_put(x, P("data")), jax.device_put(y, P(None, "data"))
        with pytest.raises(ValueError, match=r"expected `second` with sharding .* use `jax.sharding.reshard`"):
            LOSSES[name][0](x, y)


@every_loss
@pytest.mark.parametrize("check_vma", [True, False])
def test_a_mapped_axis(name, check_vma, rng):
    """The value is that of the whole batch; gradients as the docstring of `reduce` says."""
    arrays, loss = split(rng), LOSSES[name][0]
    expected = gradients(loss, *arrays[:2], where=arrays[2])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def mapped(f, out_specs):
        return jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P("data"), out_specs=out_specs, check_vma=check_vma))

    def of_batch(x, y, where):
        return loss(x, y, where=where, axis_name="data")

    outside = jax.value_and_grad(mapped(of_batch, P()), (0, 1))(*arrays)
    compare((outside[0], *outside[1]), expected, span=20)

    def inside(x, y, where):
        return gradients(loss, x, y, where=where, axis_name="data")

    value, *slopes = mapped(inside, (P(), P("data"), P("data")))(*arrays)
    compare((value, *(a / (1 if check_vma else 8) for a in slopes)), expected, span=20)

    def scaled(scale, x, y, where):
        return jax.grad(lambda s: loss(s * x, s * y, where=where, axis_name="data"))(scale)

    parameter = jax.jit(
        jax.shard_map(
            lambda s, *a: scaled(s, *a) if check_vma else jax.lax.pmean(scaled(s, *a), "data"),
            mesh=mesh,
            in_specs=(P(), P("data"), P("data"), P("data")),
            out_specs=P(),
            check_vma=check_vma,
        )
    )(jnp.float32(1), *arrays)
    x, y, where = arrays
    same(parameter, jax.grad(lambda s: loss(s * x, s * y, where=where))(jnp.float32(1)), span=20)


@every_loss
def test_an_axis_of_vmap(name, rng):
    arrays, loss = split(rng), LOSSES[name][0]
    expected = gradients(loss, *arrays[:2], where=arrays[2])
    parts = [a.reshape(4, 6, *a.shape[1:]) for a in arrays]
    ours = jax.vmap(lambda x, y, where: gradients(loss, x, y, where=where, axis_name="parts"), axis_name="parts")(
        *parts
    )
    compare((ours[0][0], *(a.reshape(24, -1) / 4 for a in ours[1:])), expected, span=20)
