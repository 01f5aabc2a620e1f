"""Random calls: masks, weights, class weights, reductions, options, axes, dtypes, empty batches, all at once.

The truth of a call is made of the textbook's loss and gradient of each example, at many digits, by the definitions of
the masks and of the reductions. `make sweep` draws hundreds of calls a loss, `make test` a few; a failure prints the
smallest call that fails, and the seed that both print draws the same calls again: `make test SEED=...`.
"""

import functools
import inspect
import itertools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from cases import CASES, INDEX, UNIT_INTERVAL
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracles import exact, exact_gradient
from test_options import RANGES, range_of
from tolerances import close

DTYPES = (np.float32, jnp.bfloat16, np.float16)
BATCHES = ((), (2,), (0,), (2, 1))
CLASSES = (1, 3, 4)
BAD = (np.nan, np.inf, -np.inf)
DIVISORS = {"q", "beta"}  # of formulas that have another form at 0
HAS_FEATURES = ("cosine", "triplet")  # one feature has no direction, and no distance but a difference


@dataclass
class Drawn:
    """A call, with the classes on the last axis."""

    x: np.ndarray
    t: np.ndarray
    where: np.ndarray | None = None  # of the shape of the loss or, in rows, of x
    weights: np.ndarray | None = None
    class_weights: np.ndarray | None = None
    reduction: str = "none"
    options: dict[str, float] = field(default_factory=dict)
    traced: bool = False
    jitted: bool = False
    first: bool = False  # whether the classes are on the first axis


def numbers_of(case, rng, shape, domain):
    array = np.asarray(domain.draw(rng, shape, 2.0))
    if domain is UNIT_INTERVAL:
        array = np.round(array * 4) / 4
    return array


@st.composite
def drawn_calls(draw, case):
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    dtype, batch = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(BATCHES))
    classes = draw(st.sampled_from(CLASSES[1:] if case.name.startswith(HAS_FEATURES) else CLASSES))
    shape = (*batch, classes)
    x = np.asarray(jnp.asarray(numbers_of(case, rng, shape, case.predictions), dtype), np.float64)
    if case.target_domain is INDEX:
        t = rng.integers(classes, size=batch)
    else:
        t = np.asarray(jnp.asarray(numbers_of(case, rng, shape, case.target_domain), dtype), np.float64)
    call = Drawn(x, t)
    loss_shape = batch if case.rows else shape
    mask = draw(st.sampled_from(["none", "examples", "classes", "rows"] if case.rows else ["none", "examples"]))
    if mask == "examples":
        call.where = rng.random(loss_shape) < 0.6
    elif mask != "none":
        call.where = rng.random(shape) < (0.7 if mask == "classes" else 1)
        call.where &= (rng.random(batch) < 0.6)[..., None] if mask == "rows" else True
    if draw(st.booleans()):
        call.weights = rng.choice([0.0, 0.5, 1.0, -1.5, 2.0], loss_shape)
    if case.takes("class_weights") and draw(st.booleans()):
        call.class_weights = rng.choice([0.0, 0.5, 2.0], classes)
    call.reduction = draw(st.sampled_from(["none", "sum", "mean"]))
    for option in draw(st.lists(st.sampled_from(sorted(options_of(case)) or [""]), max_size=2, unique=True)):
        if option:
            low, high = range_of(case, option)
            values = [v for v in (0.0, 0.25, 1.0, 1.5, 3.0) if low <= v <= high and (v or option not in DIVISORS)]
            call.options[option] = draw(st.sampled_from(values))
    call.traced, call.jitted = draw(st.booleans()), draw(st.booleans())
    call.first = case.rows and case.takes("axis") and "axis" not in case.static and draw(st.booleans())
    return dtype, call


@functools.cache
def options_of(case):
    """The numbers that the formula takes, but for those that the row fixes."""
    known = inspect.signature(case.formula).parameters
    return {k for k in known if k in RANGES and case.takes(k) and k not in case.static}


# What the masks say.


def entries_of(case, call):
    """The mask of examples, and that of classes, both in full."""
    kept, classes = np.ones(call.x.shape[:-1] if case.rows else call.x.shape, bool), None
    if call.where is not None:
        if case.rows and call.where.ndim == call.x.ndim:
            classes, kept = call.where, call.where.any(-1)
        else:
            kept = kept & call.where
    return kept, classes


def planted(case, call, kept, classes):
    """NaN and infinities, and labels out of range, where something is masked."""
    entries = kept[..., None] if case.rows else kept
    entries = np.broadcast_to(entries, call.x.shape) & (True if classes is None else classes)
    x = np.where(entries, call.x, np.resize(BAD, call.x.shape))
    if case.targets == "index":
        return x, np.where(kept, call.t, np.resize([-100, 10**6], call.t.shape))
    return x, np.where(entries, call.t, np.resize(BAD[::-1], call.t.shape))


def truth_of(case, call, kept, classes):
    """Loss, weight, gradient, and the sizes of the terms of both, of each example; a flag where there is a kink."""
    options = {**case.options, **case.static, **call.options}
    shape = kept.shape
    losses, sizes, weights = (np.zeros(shape) for _ in range(3))
    gradients, slopes, smooth = np.zeros(call.x.shape), np.zeros(call.x.shape), np.ones(call.x.shape, bool)
    with mp.workdps(120):
        for i in itertools.product(*map(range, shape)):
            if not kept[i]:
                continue
            x, t = call.x[i], call.t[i]
            columns = np.arange(call.x.shape[-1]) if classes is None else np.flatnonzero(classes[i])
            if case.targets == "index":
                if t not in columns:
                    losses[i] = np.inf
                    weights[i] = 1 if call.class_weights is None else call.class_weights[t]
                    continue
                factor = 1 if call.class_weights is None else call.class_weights[t]
                t = np.eye(call.x.shape[-1])[t]
            elif call.class_weights is not None:
                factor = (t[columns] * call.class_weights[columns]).sum()
            else:
                factor = 1
            if case.rows:
                x, t = x[columns], t[columns]
            weights[i] = factor
            losses[i], sizes[i] = map(float, exact(case.formula, x, t, rows=case.rows, **options))
            slope, size, differentiable = exact_gradient(case.formula, x, t, rows=case.rows, **options)
            where = (*i, columns) if case.rows else i
            gradients[where], slopes[where], smooth[where] = (
                np.asarray(slope, float),
                np.asarray(size, float),
                np.asarray(differentiable, bool) & (len(columns) > 1 or not case.name.startswith(HAS_FEATURES)),
            )
    if call.weights is not None:
        weights = weights * call.weights
    weights = np.where(kept, weights, 0)
    return losses, sizes, weights, gradients, slopes, smooth


def reduced(values, weights, reduction):
    """As the docstring of `reduce` says."""
    weighted = np.where(weights == 0, 0, weights * np.where(weights == 0, 0, values))
    if reduction == "none":
        return weighted
    total, count = weighted.sum(), weights.sum()
    return total if reduction == "sum" else total / count if count else 0.0


def few(test, examples):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    phases = [Phase.explicit, Phase.generate, Phase.shrink]
    return settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet, phases=phases)(
        test
    )


def check(case, dtype, call):
    kept, classes = entries_of(case, call)
    losses, sizes, weights, gradients, slopes, smooth = truth_of(case, call, kept, classes)
    if np.isnan(losses).any() or abs(weights.sum()) < 1e-3 < np.abs(weights).sum() or not np.isfinite(sizes).all():
        return  # weights that cancel divide by what rounding leaves
    x, t = planted(case, call, kept, classes)
    x = jnp.asarray(x, dtype)
    t = jnp.asarray(t, np.int32) if case.targets == "index" else jnp.asarray(t, dtype)
    masks: dict[str, Any] = {"reduction": call.reduction}
    where = call.where
    if call.first:
        x = jnp.moveaxis(x, -1, 0)
        t = t if case.targets == "index" else jnp.moveaxis(t, -1, 0)
        where = where if where is None or where.ndim < call.x.ndim else np.moveaxis(where, -1, 0)
        masks["axis"] = 0
    if where is not None:
        masks["where"] = jnp.asarray(where)
    if call.class_weights is not None:
        masks["class_weights"] = jnp.asarray(call.class_weights, np.float32)
    if call.weights is not None:
        masks["weights"] = jnp.asarray(call.weights, np.float32)
    options = {k: jnp.float32(v) for k, v in call.options.items()} if call.traced else call.options

    def both(x, options):
        value, pull = jax.vjp(lambda x: case(x, t, **options, **masks), x)
        return value, pull(jnp.ones_like(value))[0]

    if call.jitted:
        both = jax.jit(both) if call.traced else functools.partial(jax.jit(lambda x, both=both: both(x, options)))
    value, gradient = both(x, options) if call.traced or not call.jitted else both(x)
    expected = reduced(losses, weights, call.reduction)
    if np.isfinite(expected).all() or call.reduction == "none":
        size = reduced(sizes, np.abs(weights), "none" if call.reduction == "none" else "sum")
        divisor = abs(weights.sum()) if call.reduction == "mean" and weights.sum() else 1
        close(value, expected, np.where(np.isfinite(size), size, 1) / divisor, span=10, of="value")
    coefficient = weights / (weights.sum() or 1) if call.reduction == "mean" else weights
    coefficient = coefficient[..., None] if case.rows else coefficient
    finite = np.isfinite(losses)[..., None] if case.rows else np.isfinite(losses)
    right = smooth & np.broadcast_to(finite, smooth.shape)
    gradient = np.asarray(jnp.moveaxis(gradient, 0, -1) if call.first else gradient, np.float64)
    truth = np.where(right, coefficient * gradients, 0)
    scale = np.abs(coefficient) * (slopes.max(-1, keepdims=True, initial=0) if case.rows else slopes)
    close(np.where(right, gradient, 0), truth, np.where(right, scale, 1), span=10, dtype=dtype, of="gradient")


each = pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in CASES])


def _test(case, examples):
    @given(drawn_calls(case))
    def test(drawn):
        check(case, *drawn)

    few(test, examples)()


@each
def test_a_few_random_calls(case):
    _test(case, 2)


@each
@pytest.mark.sweep
def test_many_random_calls(case):
    _test(case, 200)
