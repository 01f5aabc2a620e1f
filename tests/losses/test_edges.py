"""Where formulas break: kinks, zeros, infinities, ties, near-equal arguments, the ends of the options."""

import functools
import inspect

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from cases import CASES
from tolerances import close

import jaxloss
from jaxloss._core import classes, softmax

inf, nan = np.inf, np.nan


def both(loss, *args, by=0, **options):
    """Value and gradient, and that forward mode has the same, unless it meets 0 inf in an infinite slope."""
    args = [jnp.asarray(a, np.float32) if isinstance(a, (float, list)) else a for a in args]

    @jax.jit
    def every(*args):
        return jax.value_and_grad(f, by)(*args), jax.jacfwd(f, by)(*args)

    def f(*args):
        return loss(*args, **options)

    (value, gradient), forward = every(*args)
    if np.isfinite(gradient).all():
        np.testing.assert_allclose(forward, gradient, rtol=1e-6)
    return value, gradient


# loss, predictions, targets, options, value, slope by predictions
ELEMENTS = [
    ("absolute_error", 2.0, 2.0, {}, 0, 0),
    ("absolute_error", inf, 2.0, {}, inf, 1),
    ("absolute_percentage_error", 3.0, 0.0, {}, inf, inf),
    ("absolute_percentage_error", -3.0, 0.0, {}, inf, -inf),
    ("absolute_percentage_error", 0.0, 0.0, {}, 0, 0),
    ("absolute_percentage_error", 1e-30, 0.0, {}, inf, inf),
    ("absolute_percentage_error", 3e38, -3e38, {}, 200, 1e-36 / 3),
    ("absolute_percentage_error", 1.5e-20, 1e-20, {}, 50, 1e22),
    ("squared_logarithmic_error", -1.0, 0.5, {}, inf, -inf),
    ("squared_logarithmic_error", inf, 0.5, {}, inf, 0),
    ("squared_logarithmic_error", -3.0, -2.9, {}, nan, nan),
    ("squared_logarithmic_error", 1e-8, 3e-8, {}, 4e-16, -4e-8),
    ("squared_logarithmic_error", -0.5, 0.0, {}, 0.48045301, -2.7725887),
    ("huber_loss", inf, 0.0, {}, inf, 1),
    ("huber_loss", -inf, 0.0, {}, inf, -1),
    ("huber_loss", 3.0, 0.0, {"delta": inf}, 4.5, 3),
    ("huber_loss", 3.0, 0.0, {"delta": 0.0}, 0, 0),
    ("huber_loss", 1e30, 0.0, {}, 1e30, 1),
    ("smooth_l1_loss", 3.0, 0.0, {"beta": 0.0}, 3, 1),
    ("smooth_l1_loss", 0.0, 0.0, {"beta": 0.0}, 0, 0),
    ("smooth_l1_loss", -inf, 0.0, {}, inf, -1),
    ("charbonnier_loss", 1e-4, 0.0, {"epsilon": 4.0}, 1.25e-9, 2.5e-5),
    ("charbonnier_loss", -1e30, 0.0, {}, 1e30, -1),
    ("charbonnier_loss", 3e38, 0.0, {"epsilon": 3e38}, 1.2426407e38, 0.70710678),
    ("charbonnier_loss", 0.0, 0.0, {"epsilon": 0.0}, 0, 0),
    ("charbonnier_loss", -2.0, 0.0, {"epsilon": 0.0}, 2, -1),
    ("charbonnier_loss", inf, 0.0, {}, inf, 1),
    ("log_cosh", 1e-4, 0.0, {}, 5e-9, 1e-4),
    ("log_cosh", 3e-5, 0.0, {}, 4.5e-10, 3e-5),
    ("log_cosh", -1e30, 0.0, {}, 1e30, -1),
    ("log_cosh", inf, 0.0, {}, inf, 1),
    ("quantile_loss", 2.0, 2.0, {"quantile": 0.8}, 0, 0),
    ("quantile_loss", inf, 2.0, {"quantile": 1.0}, 0, 0),
    ("quantile_loss", -inf, 2.0, {"quantile": 1.0}, inf, -1),
    ("quantile_loss", 3e38, -3e38, {"quantile": 0.75}, 1.5e38, 0.25),
    ("quantile_loss", 1.0, 2.0, {"quantile": jnp.float32(1.5)}, nan, nan),
    ("poisson_nll_loss", 0.0, 0.0, {}, 0, 1),
    ("poisson_nll_loss", 0.0, 2.0, {}, inf, -inf),
    ("poisson_nll_loss", inf, 2.0, {}, inf, 1),
    ("poisson_nll_loss", 3e38, 3e38, {"full": True}, 45.217361, 0),
    ("poisson_nll_loss", 0.0, 0.0, {"full": True}, 0, 1),
    ("poisson_nll_loss", -1.0, 0.0, {}, nan, nan),
    ("poisson_nll_loss", -1.0, 0.0, {"full": True}, nan, nan),
    ("poisson_nll_loss", 2.0, 2.0, {"full": True}, 1.3068528, 0),
    ("poisson_nll_loss", 0.0, 1e-30, {"full": True}, inf, -inf),
    ("poisson_nll_loss", 1e6, 1e6, {"full": True}, 7.8266939, 0),
    ("poisson_nll_loss_with_log_rates", -inf, 0.0, {}, 0, 0),
    ("poisson_nll_loss_with_log_rates", -inf, 2.0, {}, inf, -2),
    ("poisson_nll_loss_with_log_rates", inf, 2.0, {"full": True}, inf, inf),
    ("gaussian_nll_loss", 1.0, 1.0, {"variance": jnp.float32(0)}, nan, nan),
    ("gaussian_nll_loss_with_log_variance", 1.0, 2.0, {"log_variance": -inf}, inf, nan),
    ("gaussian_nll_loss_with_log_variance", 1.0, 1.0, {"log_variance": -300.0}, -150, 0),
    ("gaussian_nll_loss", 1e25, 0.0, {"variance": 1e30}, 5e19, 1e-5),
    ("gaussian_nll_loss", 1e-3, 0.0, {"variance": 1e-8}, 40.789660, 1e5),
    ("gaussian_nll_loss_with_log_variance", 1e-20, 0.0, {"log_variance": -80.0}, -39.999997, 5.5406224e14),
    ("gaussian_nll_loss_with_log_variance", 1.0, 1.0, {"log_variance": -360.0}, -180, 0),
    ("hinge_loss", 1.0, 1.0, {}, 0, 0),
    ("hinge_loss", -inf, 1.0, {}, inf, -1),
    ("squared_hinge_loss", 1.0, 1.0, {}, 0, 0),
    ("perceptron_loss", 0.0, 1.0, {}, 0, 0),
    ("binary_cross_entropy", 1.0, 1.0, {}, 0, -1),
    ("binary_cross_entropy", 0.0, 0.0, {}, 0, 1),
    ("binary_cross_entropy", 0.0, 1.0, {}, inf, -inf),
    ("binary_cross_entropy", 1.0, 0.0, {}, inf, inf),
    ("binary_cross_entropy", 1.5, 0.5, {}, nan, nan),
    ("binary_cross_entropy", -0.5, 0.5, {}, nan, nan),
    ("binary_cross_entropy", 1e-30, 1.0, {}, 69.077553, -1e30),
]


def test_a_divergence_whose_weight_is_at_an_end_has_second_derivatives():
    q, t = (jax.nn.log_softmax(jnp.array(a)) for a in ([[1.0, 2.0, 3.0]] * 3, [[1.0, 0.0, 3.0]] * 3))

    def total(q, beta):
        return jaxloss.jensen_shannon_divergence(q, t, beta=beta).sum()

    beta = jnp.array([0.0, 1.0, 0.5])
    by_q, by_beta = jax.jvp(jax.grad(total, (0, 1)), (q, beta), (jnp.cos(q), jnp.zeros(3)))[1]
    np.testing.assert_array_equal(by_q[:2], 0)
    assert np.isfinite(by_beta).all()
    assert np.isfinite(jax.jvp(jax.grad(total, 1), (q, beta), (0 * q, jnp.ones(3)))[1]).all()


@pytest.mark.parametrize("sizes", [(1e3, 1e20), (1e20, 1e-20)])
def test_vectors_of_different_length_have_second_derivatives(sizes):
    x, t = sizes[0] * jnp.array([1.0, 0.5]), sizes[1] * jnp.array([1.0, -0.3])
    for loss in (jaxloss.cosine_similarity, jaxloss.cosine_distance):
        direction = jnp.array([1.0, -1.0])
        unit = jax.jvp(jax.grad(loss), (x / sizes[0], t / sizes[1]), (direction, jnp.zeros(2)))[1]
        ours = jax.jvp(jax.grad(loss), (x, t), (sizes[0] * direction, jnp.zeros(2)))[1]
        np.testing.assert_allclose(ours * sizes[0], unit, rtol=1e-5)


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


@pytest.mark.parametrize(("name", "x", "t", "options", "value", "slope"), ELEMENTS)
def test_elements(name, x, t, options, value, slope):
    ours = both(getattr(jaxloss, name), x, t, **options)
    np.testing.assert_allclose(ours[0], value, rtol=1e-6)
    if not np.isnan(slope):
        np.testing.assert_allclose(ours[1], slope, rtol=1e-6)


INDEX = jnp.int32
ROWS = [
    ("softmax_cross_entropy_with_integer_labels", [-inf, -inf], INDEX(0), {"logit_scale": 2.0}, inf, [0, 0]),
    ("softmax_cross_entropy", [-3e38, 3e38], [0.5, 0.5], {}, 3e38, [-0.5, 0.5]),
    ("softmax_cross_entropy", [9.0, 0.0], [2e38, 0.0], {}, 2.4680436e34, [-2.4678915e34, 2.4678915e34]),
    ("kl_divergence", [-inf, 0.0], [0.0, 1.0], {}, 0, [0, -1]),
    ("kl_divergence", [-inf, 0.0], [0.5, 0.5], {}, inf, [-0.5, -0.5]),
    ("kl_divergence_with_log_targets", [-inf, 0.0], [-inf, 0.0], {}, 0, [0, -1]),
    ("kl_divergence_with_log_targets", [-2.0, 0.0], [-inf, 0.0], {}, 0, [0, -1]),
    ("generalized_kl_divergence", [-inf, 0.0], [0.0, 1.0], {}, 0, [0, 0]),
    ("generalized_kl_divergence", [0.0, 0.0], [0.0, 1.0], {}, 1, [1, 0]),
    ("softmax_kl_divergence", [0.0, -inf], [3.0, -inf], {}, 0, [0, 0]),
    ("softmax_kl_divergence", [0.0, 0.0], [3.0, -inf], {}, np.log(2), [-0.5, 0.5]),
    ("softmax_kl_divergence", [0.0, -inf], [0.0, 0.0], {}, inf, [0.5, 0]),
    ("softmax_kl_divergence", [-inf, -inf], [0.0, -inf], {}, inf, [0, 0]),
    ("softmax_kl_divergence", [0.0, 1.0], [-inf, -inf], {}, inf, [0, 0]),
    ("softmax_kl_divergence", [inf, 0.0], [0.0, inf], {}, inf, [1, -1]),
    ("softmax_kl_divergence", [1e30, 0.0], [3e38, 0.0], {"temperature": 3e4}, 0, [0, 0]),
    ("softmax_kl_divergence", [0.0, 1e30], [1e30, 0.0], {"temperature": 0.5}, 2e30, [-2, 2]),
    ("softmax_jensen_shannon_divergence", [-inf, 0.0], [3.0, -inf], {}, np.log(2), [0, 0]),
    ("softmax_jensen_shannon_divergence", [0.0, -inf], [0.0, -inf], {"temperature": 3.0}, 0, [0, 0]),
    ("softmax_jensen_shannon_divergence", [-inf, -inf], [0.0, -inf], {}, inf, [0, 0]),
    ("jensen_shannon_divergence", [0.0, -inf], [-inf, 0.0], {}, np.log(2), [np.log(2) / 2, 0]),
    ("jensen_shannon_divergence", [-inf, 0.0], [-inf, 0.0], {}, 0, [0, 0]),
    ("jensen_shannon_divergence", [-200.0, 0.0], [-200.0, 0.0], {}, 0, [0, 0]),
    ("jensen_shannon_divergence", [0.0, -inf], [-inf, 0.0], {"beta": 0.0}, 0, [0, 0]),
    ("jensen_shannon_divergence", [0.0, -inf], [-inf, 0.0], {"beta": 1.0}, 0, [0, 0]),
    ("total_variation_distance", [0.5, 0.5], [0.5, 0.5], {}, 0, [0, 0]),
    ("categorical_cross_entropy", [0.0, 1.0], [0.0, 1.0], {}, 0, [0, -1]),
    ("categorical_cross_entropy", [0.0, 1.0], [1.0, 0.0], {}, inf, [-inf, 0]),
    ("categorical_cross_entropy_with_integer_labels", [0.0, 1.0], INDEX(0), {}, inf, [-inf, 0]),
    ("generalized_cross_entropy", [0.5, 0.5], INDEX(0), {"q": 1e-6}, 0.69314694, [-2, 0]),
    ("generalized_cross_entropy", [0.5, 0.5], INDEX(0), {"q": 0.0}, 0.69314718, [-2, 0]),
    ("generalized_cross_entropy", [0.0, 1.0], INDEX(0), {"q": 0.5}, 2, [-inf, 0]),
    ("generalized_cross_entropy", [0.0, 1.0], INDEX(0), {"q": 0.0}, inf, [-inf, 0]),
    ("generalized_cross_entropy", [0.0, 1.0], INDEX(0), {"q": 1.0}, 1, [-1, 0]),
    ("multiclass_hinge_loss", [1e8, 1e8], INDEX(0), {}, 1, [-1, 1]),
    ("multiclass_hinge_loss", [0.0, 1.0, 1.0], INDEX(0), {}, 2, [-1, 0.5, 0.5]),
    ("multiclass_hinge_loss", [1.0, 0.0], INDEX(0), {}, 0, [0, 0]),
    ("multiclass_hinge_loss", [1.0, -inf], INDEX(0), {}, 0, [0, 0]),
    ("multiclass_hinge_loss", [-inf, 1.0], INDEX(0), {}, inf, [-1, 1]),
    ("multiclass_perceptron_loss", [1.0, 1.0], INDEX(0), {}, 0, [0, 0]),
    ("multiclass_perceptron_loss", [1.0, -inf], INDEX(0), {}, 0, [0, 0]),
    ("multiclass_perceptron_loss", [1.0], INDEX(0), {}, 0, [0]),
    ("weston_watkins_hinge_loss", [0.0, 1.0, -inf], INDEX(0), {}, 2, [-1, 1, 0]),
    ("categorical_hinge_loss_with_zero_class", [-5.0, -10.0], [1.0, 0.0], {}, 6, [-1, 0]),
    ("categorical_hinge_loss_with_zero_class", [3.0, -inf], [1.0, 0.0], {}, 0, [0, 0]),
    ("cosine_similarity", [0.0, 0.0], [1.0, 0.0], {}, 0, [0, 0]),
    ("cosine_distance", [0.0, 0.0], [1.0, 0.0], {}, 1, [0, 0]),
    ("cosine_distance", [0.0, 0.0], [0.0, 0.0], {}, 1, [0, 0]),
    ("cosine_similarity", [1e20, 0.0], [1e20, 0.0], {}, 1, [0, 0]),
    ("cosine_similarity", [3e38, 3e38], [1e-37, 1e-37], {}, 1, [0, 0]),
    ("cosine_similarity", [1e-20, 0.0], [0.0, 1e20], {}, 0, [0, 1e20]),
    ("cosine_distance", [1.0, 0.0], [-2.0, 0.0], {}, 2, [0, 0]),
    ("cosine_distance", [0.3, 0.7, 0.1], [0.3, 0.7, 0.1], {}, 0, [0, 0, 0]),
]


@pytest.mark.parametrize(("name", "x", "t", "options", "value", "slope"), ROWS)
def test_rows(name, x, t, options, value, slope):
    ours = both(getattr(jaxloss, name), x, t, **options)
    np.testing.assert_allclose(ours[0], value, rtol=1e-6)
    np.testing.assert_allclose(ours[1], slope, rtol=1e-6, atol=1e-12)


def test_zeros_in_targets_have_their_gradient():
    _, by_targets = both(jaxloss.kl_divergence, [-1.0, -2.0], [0.0, 1.0], by=1)
    np.testing.assert_array_equal(by_targets, [-inf, 3])
    _, by_targets = both(jaxloss.kl_divergence_with_log_targets, [-1.0, -2.0], [-inf, 0.0], by=1)
    np.testing.assert_array_equal(by_targets, [0, 3])
    _, by_targets = both(jaxloss.categorical_cross_entropy, [0.0, 0.5], [0.0, 1.0], by=1)
    np.testing.assert_allclose(by_targets, [inf, np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("difference", [0.3, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_near_vectors_are_exactly_apart(difference, dtype):
    """The distance and its gradient, relative to themselves."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 7)).astype(dtype)
    t = (x * (1 + difference * rng.normal(size=x.shape))).astype(dtype)
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
            stretch = mp.sqrt(sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) / (2 * (1 - cosine))) / na
            close(ours[i], float(1 - cosine), float((1 - cosine) * (1 + 2 * stretch)), dtype=dtype)
            truth = [(u * cosine / na - v / nb) / na for u, v in zip(a, b, strict=True)]
            size = mp.sqrt(sum(v * v for v in truth)) * (1 + 2 * stretch)
            close(gradient[i], [float(v) for v in truth], float(size), dtype=dtype)


@pytest.mark.parametrize("difference", [0.3, 1e-2, 1e-3, 1e-5])
def test_near_distributions_are_exactly_apart(difference):
    """Divergences that cannot be negative are not, and are relative to themselves what the difference is."""
    rng = np.random.default_rng(0)
    lt = np.log(rng.dirichlet(np.ones(6), 20)).astype(np.float32)
    lq = (lt + difference * rng.normal(size=lt.shape)).astype(np.float32)
    t = np.exp(lt)
    js = jaxloss.jensen_shannon_divergence(jnp.asarray(lq), jnp.asarray(lt), beta=0.3)
    kl = jaxloss.generalized_kl_divergence(jnp.asarray(lq), jnp.asarray(t))
    assert (js >= 0).all()
    assert (kl >= 0).all()
    with mp.workdps(60):
        for i in range(len(t)):
            a, b = ([mp.mpf(float(v)) for v in row] for row in (lt[i], lq[i]))
            beta = mp.mpf(float(np.float32(0.3)))
            truth, size = mp.mpf(0), mp.mpf(0)
            for u, v in zip(a, b, strict=True):
                p, q = mp.exp(u), mp.exp(v)
                m = mp.log(beta * p + (1 - beta) * q)
                truth += beta * p * (u - m) + (1 - beta) * q * (v - m)
                size += (1 - beta) * beta * p * (u - v) ** 2  # the term itself, which is never negative
            close(js[i], float(truth), float(size), span=2, dtype=np.float32)
            truth, size = mp.mpf(0), mp.mpf(0)
            for target, v in zip(t[i], b, strict=True):
                target = mp.mpf(float(target))
                u = v - mp.log(target)
                truth += target * (mp.expm1(u) - u)
                size += target * (u**2 + abs(u) * (abs(v) + 1))  # log(target) is rounded, and u has its error
            close(kl[i], float(truth), float(size), dtype=np.float32)


def test_what_stirling_approximates_is_exact():
    counts = np.array([0, 1, 2, 3, 10, 170, 1e4, 1e6], np.float32)
    ours = jaxloss.poisson_nll_loss(jnp.asarray(counts), jnp.asarray(counts), full=True)
    truth = [float(mp.loggamma(c + 1) + c - (c * mp.log(c) if c else 0)) for c in map(mp.mpf, counts.tolist())]
    close(ours, truth, np.maximum(truth, counts * (counts < 8)), dtype=np.float32, span=1)


def test_options_have_their_gradients():
    """By differences at many digits, of a point on each side of a kink."""
    for name, formula, x, option, value in [
        ("huber_loss", lambda e, d: e**2 / 2 if abs(e) <= d else d * (abs(e) - d / 2), 0.3, "delta", 0.7),
        ("huber_loss", lambda e, d: e**2 / 2 if abs(e) <= d else d * (abs(e) - d / 2), 2.0, "delta", 0.7),
        ("smooth_l1_loss", lambda e, b: e**2 / 2 / b if abs(e) < b else abs(e) - b / 2, 0.3, "beta", 0.7),
        ("smooth_l1_loss", lambda e, b: e**2 / 2 / b if abs(e) < b else abs(e) - b / 2, 2.0, "beta", 0.7),
        ("quantile_loss", lambda e, q: (1 - q) * e, 2.0, "quantile", 0.8),
        ("gaussian_nll_loss", lambda e, v: (mp.log(v) + e**2 / v) / 2, 2.0, "variance", 0.7),
        ("gaussian_nll_loss_with_log_variance", lambda e, s: (s + e**2 * mp.exp(-s)) / 2, 2.0, "log_variance", 0.7),
    ]:
        given = mp.mpf(float(np.float32(x))), mp.mpf(float(np.float32(value)))
        for order in (1, 2):
            derivative = jax.grad
            f = derivative(lambda v, n=name, o=option, x=x: getattr(jaxloss, n)(jnp.float32(x), 0.0, **{o: v}))
            f = derivative(f) if order == 2 else f
            truth = mp.diff(formula, given, (0, order))
            close(f(jnp.float32(value)), float(truth), max(1.0, abs(float(truth))), dtype=np.float32)
    p, q = mp.mpf(0.25), mp.mpf(float(np.float32(0.3)))
    probabilities = jnp.array([0.25, 0.75])
    ours = jax.grad(lambda q: jaxloss.generalized_cross_entropy(probabilities, jnp.int32(0), q=q))(0.3)
    truth = mp.diff(lambda q: (1 - p**q) / q, q)
    close(ours, float(truth), abs(float(truth)), span=1, dtype=np.float32)


def test_second_derivatives_where_pieces_meet():
    """Where a formula is put together of pieces, its derivatives are too."""
    lp = jnp.log(jnp.array([0.5, 0.25]))
    for beta in (0.5, 0.3):
        hessian = jax.hessian(lambda a, beta=beta: jaxloss.jensen_shannon_divergence(a, lp, beta=beta))(lp)
        np.testing.assert_allclose(jnp.diag(hessian), beta * (1 - beta) * np.exp(lp), rtol=1e-6)
        mixed = jax.jacfwd(jax.grad(lambda a, b: jaxloss.jensen_shannon_divergence(a, b)), 1)(lp, lp)
        np.testing.assert_allclose(jnp.diag(mixed), -0.25 * np.exp(lp), rtol=1e-6)
    hit = jax.hessian(lambda x: jaxloss.smooth_l1_loss(x, 1.0, beta=2.0))(1.0)
    assert hit == 0.5
    assert np.isfinite(jax.hessian(lambda x, b: jaxloss.smooth_l1_loss(x, 0.0, beta=b), (0, 1))(2.0, 0.0)).all()
    fourth = jaxloss.log_cosh
    for _ in range(4):
        fourth = jax.grad(fourth)
    np.testing.assert_allclose(fourth(0.0), -2, rtol=1e-6)
    assert jax.grad(jax.grad(lambda r: jaxloss.poisson_nll_loss(r, 2.0)))(0.0) == inf
    hessian = jax.hessian(lambda x, v: jaxloss.gaussian_nll_loss(x, 1.0, variance=v), (0, 1))(1.0, 1e-15)
    np.testing.assert_allclose(hessian, [[1e15, 0], [0, -5e29]], rtol=1e-5)


def test_mixed_derivatives_at_hard_labels():
    def by_both(loss, *args):
        return [jax.jacfwd(jax.grad(loss, i), 1 - i)(*args) for i in (0, 1)]

    smoothing = by_both(lambda p, a: jaxloss.binary_cross_entropy(p, 0.0, label_smoothing=a), 0.3, 0.0)
    np.testing.assert_allclose(smoothing, -2.3809524, rtol=1e-6)
    np.testing.assert_allclose(by_both(lambda r, t: jaxloss.poisson_nll_loss(r, t), 2.0, 0.0), -0.5)
    p, t = jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])
    for mixed in by_both(jaxloss.categorical_cross_entropy, p, t):
        np.testing.assert_allclose(mixed, [[-2, 0], [0, -2]])


@pytest.mark.parametrize("beta", [0.0, 1e-9, 1e-3, 0.5, 1.0])
@pytest.mark.parametrize("margin", [5.0, 17.0, 30.0, 200.0])
def test_jensen_shannon_of_far_distributions(beta, margin):
    a, b = (jax.nn.log_softmax(jnp.array(x)) for x in ([margin, 0.0], [0.0, margin]))
    value, gradients = jax.value_and_grad(lambda *x: jaxloss.jensen_shannon_divergence(*x, beta=beta), (0, 1))(a, b)
    weight, truth, size = mp.mpf(float(np.float32(beta))), mp.mpf(0), mp.mpf(0)
    with mp.workdps(120):
        for lq, lt in zip(a.tolist(), b.tolist(), strict=True):
            t, q = mp.exp(lt), mp.exp(lq)
            m = mp.log(weight * t + (1 - weight) * q)
            truth += weight * t * (lt - m) + (1 - weight) * q * (lq - m)
            size += weight * (1 - weight) * (t + q) * (1 + abs(mp.log(weight) if weight else 0))
        close(value, float(truth), float(size), span=margin, dtype=np.float32)
    assert np.isfinite(gradients).all()


def test_cosines_stay_in_their_range():
    x = jax.random.normal(jax.random.key(0), (2000, 5))
    for factor in (-3.0, 3.0, -1.0):
        cosine, distance = jaxloss.cosine_similarity(x, factor * x), jaxloss.cosine_distance(x, factor * x)
        assert (jnp.abs(cosine) <= 1).all()
        assert ((distance >= 0) & (distance <= 2)).all()


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


def test_what_is_excluded_does_not_reach_an_option():
    kept = jnp.array([True, False])
    f, p, t = jaxloss.binary_cross_entropy, jnp.array([0.3, 0.6]), jnp.array([0.0, 1.0])
    for masks in ({"where": kept}, {"weights": kept.astype(np.float32)}):
        ours = jax.grad(lambda a, m=masks: f(p, t, label_smoothing=a, reduction="sum", **m))(0.1)
        np.testing.assert_allclose(ours, jax.grad(lambda a: f(p[0], t[0], label_smoothing=a))(0.1), rtol=1e-6)
    scores, labels = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0, 0])
    for power in (1, 2):
        loss = functools.partial(jaxloss.weston_watkins_hinge_loss, power=power, where=kept, reduction="sum")
        gradient = jax.grad(lambda m, f=loss: f(scores, labels, margin=m))(jnp.array([1.0, inf]))
        assert gradient[1] == 0
    probabilities, classes = jnp.array([[0.3, 0.7], [0.3, 0.7]]), jnp.array([[True, True], [True, False]])
    gce = functools.partial(jaxloss.generalized_cross_entropy, probabilities, jnp.array([0, 1]), where=classes)
    assert np.isfinite(jax.grad(lambda q: gce(q=q)[0])(0.0))


def test_removed_and_unchoosable_classes_and_margins():
    ww, cs = jaxloss.weston_watkins_hinge_loss, jaxloss.multiclass_hinge_loss
    only = jnp.array([True, False, False])
    for loss in (ww, cs):
        assert loss(jnp.array([-inf, 0.0, 0.0]), jnp.int32(0), where=only) == 0
        assert loss(jnp.array([-inf]), jnp.int32(0)) == 0
        assert loss(jnp.array([0.0, -inf]), jnp.int32(0), where=~only[:2]) == inf


def test_a_row_of_impossible_classes_on_every_platform(monkeypatch):
    """Elsewhere than on a CPU the sum leaves out the maximum by a comparison."""
    monkeypatch.setattr(softmax, "_rest_by_bound", softmax._rest_by_select)
    value, slope = both(jaxloss.softmax_cross_entropy_with_integer_labels, [-inf, -inf], INDEX(1))
    assert value == inf
    np.testing.assert_array_equal(slope, [0, 0])


def test_labels_far_below_a_hard_one_keep_their_gradient():
    _, slope = both(jaxloss.softmax_cross_entropy, [0.3, 100.0], [1e-30, 1.0])
    np.testing.assert_allclose(slope, [-1e-30, 1e-30], rtol=1e-6)


OF_A_MARGIN = [  # the loss of two logits, and its second derivative over p (1 - p)
    (lambda x: jaxloss.softmax_cross_entropy(x, jnp.array([1.0, 0.0])), lambda p: 1),
    (lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, INDEX(0)), lambda p: 1),
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


@pytest.mark.parametrize("name", sorted({case.name for case in CASES if case.targets == "index"}))
def test_labels_out_of_range_on_every_platform(name, monkeypatch):
    """Elsewhere than on a CPU the label's entry is selected, not gathered."""
    monkeypatch.setattr(classes, "_pick_by_gather", classes._pick_by_select)
    (case, *_) = [case for case in CASES if case.name == name]
    x, _ = case.draw(np.random.default_rng(0), 2)
    losses, pull = jax.vjp(lambda x: case(x, jnp.array([-1, 1])), x)
    (gradient,) = pull(jnp.ones_like(losses))
    np.testing.assert_array_equal(np.isnan(losses), [True, False])
    np.testing.assert_array_equal(np.isnan(gradient), np.repeat([[True], [False]], x.shape[1], 1))


def test_targets_may_be_left_away_only_where_the_signature_says_so():
    for name in {case.name for case in CASES}:
        second = list(inspect.signature(getattr(jaxloss, name)).parameters.values())[1]
        if second.default is None:
            assert getattr(jaxloss, name)(jnp.ones(3)).shape == (3,)
        else:
            with pytest.raises(TypeError, match=f"expected `{second.name}` to be an array, got NoneType"):
                getattr(jaxloss, name)(jnp.ones(3), None, **required(name))


def required(name):
    """What else has no default: options, and a third array."""
    parameters = list(inspect.signature(getattr(jaxloss, name)).parameters.values())[2:]
    return {p.name: 0.5 if p.kind is p.KEYWORD_ONLY else jnp.ones(3) for p in parameters if p.default is p.empty}
