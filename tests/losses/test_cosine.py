"""Cosines: their edges, near-equal vectors, vectors of any length, `epsilon`."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from edges import at_edges, check_edge
from tolerances import close, same

import jaxloss

pytestmark = pytest.mark.exact


@at_edges(
    [
        ("cosine_similarity", [0.0, 0.0], [1.0, 0.0], {}, 0, [0, 0]),
        ("cosine_distance", [0.0, 0.0], [1.0, 0.0], {}, 1, [0, 0]),
        ("cosine_distance", [0.0, 0.0], [0.0, 0.0], {}, 1, [0, 0]),
        ("cosine_similarity", [1e20, 0.0], [1e20, 0.0], {}, 1, [0, 0]),
        ("cosine_similarity", [3e38, 3e38], [1e-37, 1e-37], {}, 1, [0, 0]),
        ("cosine_similarity", [1e-20, 0.0], [0.0, 1e20], {}, 0, [0, 1e20]),
        ("cosine_similarity", [1e10, 1e10], [1e-10, 1e-10], {}, 1, [0, 0]),
        ("cosine_distance", [1.0, 0.0], [-2.0, 0.0], {}, 2, [0, 0]),
        ("cosine_distance", [0.3, 0.7, 0.1], [0.3, 0.7, 0.1], {}, 0, [0, 0, 0]),
    ]
)
def test_edges(name, x, t, options, value, gradient):
    check_edge(name, x, t, options, value, gradient)


@pytest.mark.parametrize("difference", [0.3, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("sign", [1, -1], ids=["near", "opposite"])
@pytest.mark.parametrize("length", [1, 3e-5, 7e3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_near_vectors_are_exactly_apart(difference, sign, length, dtype):
    """The distance and its gradient, relative to themselves; nearly opposite vectors are as near to a distance of 2.

    The difference of vectors of unlike lengths is rounded: an error of eps / angle.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 7)).astype(dtype)
    t = (sign * length * x * (1 + difference * rng.normal(size=x.shape))).astype(dtype)
    with jax.enable_x64(dtype == np.float64), mp.workdps(60):
        ours, gradient = (
            np.asarray(a)
            for a in (
                jaxloss.cosine_distance(jnp.asarray(x), jnp.asarray(t)),
                jax.grad(lambda x: jaxloss.cosine_distance(x, jnp.asarray(t)).sum())(jnp.asarray(x)),
            )
        )
        for i in range(len(x)):
            a, b = ([mp.mpf(float(v)) for v in row] for row in (x[i], t[i]))
            na, nb = mp.sqrt(sum(v * v for v in a)), mp.sqrt(sum(v * v for v in b))
            cosine = sum(u * v for u, v in zip(a, b, strict=True)) / na / nb
            # what lies along the vectors in their difference is rounded, and does not count
            apart = mp.sqrt(sum((u - sign * v) ** 2 for u, v in zip(a, b, strict=True))) / na if length == 1 else 1
            stretch = apart / mp.sqrt(2 * (1 - sign * cosine))
            close(ours[i], float(1 - cosine), float((1 - cosine) * (1 + 2 * stretch)), dtype=dtype)
            truth = [(u * cosine / na - v / nb) / na for u, v in zip(a, b, strict=True)]
            size = mp.sqrt(sum(v * v for v in truth)) * (1 + 2 * stretch)
            close(gradient[i], [float(v) for v in truth], float(size), dtype=dtype)


def test_cosines_stay_in_their_range():
    x = jax.random.normal(jax.random.key(0), (2000, 5))
    for factor in (-3.0, 3.0, -1.0):
        cosine, distance = jaxloss.cosine_similarity(x, factor * x), jaxloss.cosine_distance(x, factor * x)
        assert (jnp.abs(cosine) <= 1).all()
        assert ((distance >= 0) & (distance <= 2)).all()


@pytest.mark.parametrize("sizes", [(1e3, 1e20), (1e20, 1e-20)])
def test_vectors_of_different_length_have_second_derivatives(sizes):
    x, t = sizes[0] * jnp.array([1.0, 0.5]), sizes[1] * jnp.array([1.0, -0.3])
    for loss in (jaxloss.cosine_similarity, jaxloss.cosine_distance):
        direction = jnp.array([1.0, -1.0])
        unit = jax.jvp(jax.grad(loss), (x / sizes[0], t / sizes[1]), (direction, jnp.zeros(2)))[1]
        ours = jax.jvp(jax.grad(loss), (x, t), (sizes[0] * direction, jnp.zeros(2)))[1]
        np.testing.assert_allclose(ours * sizes[0], unit, rtol=1e-5)


def test_epsilon_at_a_zero_vector_is_that_of_optax():
    t = jnp.array([3.0, 4.0])
    for x in ([0.0, 0.0], [1e-6, 0.0]):
        gradient = jax.grad(lambda x: jaxloss.cosine_similarity(x, t, epsilon=1e-4))(jnp.array(x))
        np.testing.assert_allclose(gradient, [60, 80], rtol=1e-6)
    assert jax.grad(lambda e: jaxloss.cosine_similarity(t[::-1], t, epsilon=e))(0.0) == 0


def test_second_derivatives_of_a_vector_below_epsilon():
    def f(x):
        return jaxloss.cosine_distance(x, jnp.array([0.6, 0.8]), epsilon=1e-6)

    x = 1e-20 * jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(f)(x), [-600, -800], rtol=1e-6)
    np.testing.assert_array_equal(jax.hessian(f)(x), 0)


@pytest.mark.parametrize("loss", [jaxloss.cosine_similarity, jaxloss.cosine_distance])
@pytest.mark.parametrize(
    "rare", [{"scale": 1e30}, {"scale": 1e-30}, {"near": 1e-3}, {"scale": 1e30, "near": 1e-3}, {"scale": 0.0}]
)
def test_a_rare_row_changes_no_other(loss, rare, rng):
    """A CPU takes more passes for a batch that holds such a row."""
    x, t = (jnp.asarray(rng.normal(size=(6, 16)), np.float32) for _ in range(2))
    with_rare = t.at[2].set(x[2] + rare["near"] * t[2] if "near" in rare else t[2]) * rare.get("scale", 1.0)
    mixed = jnp.where(jnp.arange(6)[:, None] == 2, with_rare, t)

    @jax.jit
    def law(x, t):
        return loss(x, t), jax.grad(lambda x, t: loss(x, t).sum(), (0, 1))(x, t)

    (losses, gradients), (expected, slopes) = law(x, mixed), law(x, t)
    others = np.arange(6) != 2
    np.testing.assert_array_equal(losses[others], expected[others])
    for found, slope in zip(gradients, slopes, strict=True):
        same(found[others], slope[others])
    (alone,), _ = law(x[2:3], mixed[2:3])
    same(losses[2], alone)
