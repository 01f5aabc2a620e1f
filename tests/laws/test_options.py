"""Options that are numbers: their derivatives where another path is taken, and their ends, however they are given."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from cases import CASES
from oracles import exact
from tolerances import close

import jaxloss

pytestmark = pytest.mark.exact

inf = math.inf
FLOAT = np.finfo(np.float32)
UNIT, NOT_NEGATIVE, POSITIVE = (0.0, 1.0), (0.0, float(FLOAT.max)), (float(FLOAT.tiny), float(FLOAT.max))
REAL = -float(FLOAT.max), float(FLOAT.max)
RANGES = {
    **dict.fromkeys(["label_smoothing", "quantile", "q"], UNIT),
    **dict.fromkeys(["z_loss", "pos_weight", "gamma", "delta", "smooth", "eps"], NOT_NEGATIVE),
    **dict.fromkeys(["soft_cap", "variance", "temperature"], POSITIVE),
    **dict.fromkeys(["logit_scale", "margin"], REAL),
    "log_variance": (-80.0, 80.0),  # beyond, its exponential is no number of float32
    "epsilon": (0.0, float(FLOAT.max)),
    "beta": (0.0, float(FLOAT.max)),
    "alpha": (0.0, float(FLOAT.max)),
}
OWN_RANGES = {
    ("jensen_shannon_divergence", "beta"): UNIT,
    ("softmax_jensen_shannon_divergence", "beta"): UNIT,
    ("sigmoid_focal_loss", "alpha"): UNIT,
    ("cosine_embedding_loss", "margin"): (-1.0, 1.0),
    ("poly_loss_cross_entropy", "epsilon"): (-1.0, float(FLOAT.max)),
}
INFINITE = {"soft_cap", "delta"}  # and what they become at infinity
POINTS = (float(FLOAT.tiny), 1e-30, 0.5, 1.0, 2.0, 1e30, float(FLOAT.max))


def _options():
    """Each loss of the table with each of its numbers, beside the options that the row gives it."""
    for case in {case.name: case for case in CASES}.values():
        parameters = inspect.signature(case.formula).parameters
        for option in parameters:
            if option in RANGES and case.takes(option):
                yield case, option


OPTIONS = list(_options())
each_option = pytest.mark.parametrize(("case", "option"), [pytest.param(*o, id=f"{o[0].name}-{o[1]}") for o in OPTIONS])


def range_of(case, option):
    return OWN_RANGES.get((case.name, option), RANGES[option])


def draw(case):
    """Few examples, moderate, and none at a kink."""
    x, t = case.draw(np.random.default_rng(3), 3, classes=4)
    return x, t, jax.nn.one_hot(t, 4) if case.targets == "index" else t


def others(case, option):
    return {k: v for k, v in {**case.options, **case.static}.items() if k != option}


def call(case, x, t, option, value):
    return (case.call or case.loss)(x, t, **others(case, option), **{option: value})


def truth_of(case, x, hot, option, value):
    """The losses and the sums of their absolute terms."""
    return exact(case.formula, x, hot, rows=case.rows, **others(case, option), **{option: value})


STEP = mp.mpf(10) ** -60


@each_option
def test_the_derivative_where_an_option_changes_nothing(case, option):
    """At 0, at the neutral value and at the ends, in both modes: the limit from inside of the range."""
    x, t, hot = draw(case)
    low, high = range_of(case, option)

    loss = functools.partial(call, case, x, t, option)
    modes = {"forward": jax.jit(jax.jacfwd(loss)), "reverse": jax.jit(jax.jacrev(loss))}
    for point in (p for p in (0.0, 0.5, 1.0, 2.0) if low <= p <= high):
        side = -1 if point == high else 1
        near, far = (truth_of(case, x, hot, option, mp.mpf(point) + side * k * STEP) for k in (1, 2))
        truth = np.asarray((far[0] - near[0]) / (side * STEP), np.float64)
        size = np.abs(truth) + np.asarray(near[1], np.float64)
        for name, mode in modes.items():
            close(mode(jnp.float32(point)), truth, size, span=10, of=f"{point}, {name}")
    if option in INFINITE:
        for mode in modes.values():
            np.testing.assert_array_equal(mode(jnp.float32(inf)), 0)


@each_option
@pytest.mark.parametrize(
    "points", [pytest.param(POINTS[::3], id="ends"), pytest.param(POINTS, id="all", marks=pytest.mark.sweep)]
)
def test_a_number_is_the_same_however_it_is_given(case, option, points):
    """A Python constant under `jit`, a NumPy scalar, traced and eager; value and gradient, over the whole range."""
    x, t, hot = draw(case)
    low, high = range_of(case, option)

    def both(x, value):
        losses, pull = jax.vjp(lambda x: call(case, x, t, option, value), x)
        return losses, pull(jnp.ones_like(losses))[0]

    points = [*(p for p in points if low <= p <= high), *([inf] if option in INFINITE else [])]
    constants = jax.jit(lambda x: [both(x, point) for point in points])(x)
    traced = jax.jit(both)
    for point, compiled in zip(points, constants, strict=True):
        expected = traced(x, jnp.float32(point))
        for ours in (compiled, both(x, point), both(x, np.float32(point))):
            for a, b in zip(ours, expected, strict=True):
                size = np.abs(np.where(np.isfinite(b), b, 0)).astype(np.float64)
                close(a, b, size + np.max(size, initial=0), span=2, of=f"{point}")
        if point != inf:
            truth, terms = truth_of(case, x, hot, option, mp.mpf(float(np.float32(point))))
            truth, terms = (np.asarray(a, np.float64) for a in (truth, terms))
            fits = (terms < FLOAT.max / 16) & (terms > FLOAT.tiny * 16)  # XLA flushes what is smaller, in between too
            ours, truth, terms = (np.where(fits, a, 1) for a in (expected[0], truth, terms))
            close(ours, truth, terms, span=10, of=f"{point}")


def test_targets_that_a_function_closes_over():
    """Of vectors of any length; what XLA knows is what it may fold."""
    x = jnp.ones(2)
    for length in (1e-30, 1e-19, 1e19, 1e30):
        t = jnp.array([length, 0.0])
        for loss in (jaxloss.cosine_distance, jaxloss.cosine_similarity):
            expected = jax.jit(jax.grad(loss))(x, t)
            np.testing.assert_allclose(jax.jit(jax.grad(lambda x, t=t, loss=loss: loss(x, t)))(x), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "args", "options", "words"),
    [
        ("huber_loss", (0.5,), {"delta": -1}, "`delta` to be at least 0, got -1"),
        ("smooth_l1_loss", (0.5,), {"beta": -0.5}, "`beta` to be at least 0, got -0.5"),
        ("quantile_loss", (0.5, 1.0), {"quantile": 1.5}, r"`quantile` to be in \[0, 1\], got 1.5"),
        ("sigmoid_binary_cross_entropy", (0.5, 1.0), {"soft_cap": 0.0}, "`soft_cap` to be positive, got 0.0"),
        ("gaussian_nll_loss", (0.5, 1.0), {"variance": np.float64(0)}, "`variance` to be positive, got 0.0"),
        ("ntxent", (jnp.ones((2, 3)), jnp.ones(2), 0.0), {}, "`temperature` to be positive, got 0.0"),
        ("triplet_margin_loss", (jnp.ones(2),) * 3, {"norm_degree": 0.01}, "`norm_degree` to be at least 1, got 0.01"),
        ("smooth_labels", (jnp.ones(2), 2), {}, r"`alpha` to be in \[0, 1\], got 2"),
        ("cosine_embedding_loss", (jnp.ones(2),) * 3, {"margin": -7}, r"`margin` to be in \[-1, 1\], got -7"),
    ],
)
def test_a_number_out_of_range_raises(name, args, options, words):
    with pytest.raises(ValueError, match=f"^{name}: expected {words}"):
        getattr(jaxloss, name)(*args, **options)
