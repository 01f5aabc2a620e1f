"""What extremes.py plants, and the truth of it at many digits.

An infinite input is a limit: 1e120 and 1e121 stand in for it, in both orders where there are several, and alike. Where
the results differ there is no limit: then a convention below says what is right, or the result is left out.
"""

import functools
from collections.abc import Iterable
from types import SimpleNamespace
from typing import NamedTuple

import cases
import jax.numpy as jnp
import mpmath as mp
import numpy as np
from cases import INDEX, Case
from oracles import EXACT, numbers

MODES = ("value", "gradient", "forward mode", "second order")
DTYPES = (np.float32, np.float16, jnp.bfloat16)
inf, nan = np.inf, np.nan
LARGEST, TINY = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)

# What is planted: elements.

_SIZES = (1e-40, 1e-30, 1e-8, 1.0, 1.0001, 17.0, 100.0, 1e4, 1e30, 3e38)
_REAL = (-inf, *(-s for s in reversed(_SIZES)), -0.0, 0.0, *_SIZES, inf)
_LOGS = (-inf, -1e30, -1e4, -100.0, -17.0, -1.0, -1e-8, -1e-40, 0.0, 1e-40, 1e-8, 1.0, 17.0, 88.0, 100.0, 1e30, inf)
_LOG_PROBABILITIES = (-inf, -1e4, -200.0, -100.0, -17.0, -1.0, -1e-8, 0.0)
ELEMENTS = {
    cases.REAL: _REAL,
    cases.FINITE: tuple(v for v in _REAL if np.isfinite(v)),
    cases.NOT_ZERO: tuple(v for v in _REAL if v and np.isfinite(v)),
    cases.POSITIVE: (0.0, *_SIZES, inf),
    cases.COUNT: (0.0, 1.0, 2.0, 17.0, 100.0, 1e4, 1e6, 1e30, 3e38),
    cases.ABOVE_MINUS_ONE: (-1.0, -0.99, -1e-8, -1e-40, 0.0, *_SIZES, inf),
    cases.SIGN: (-1.0, 1.0),
    cases.UNIT_INTERVAL: (0.0, 1e-8, 0.25, 1.0),
    cases.PROBABILITY: (0.0, 1e-40, 1e-30, 1e-8, 0.25, 0.5, 1 - 2.0**-11, 1 - 2.0**-24, 1.0),
    cases.LOG_RATE: _LOGS,
    cases.LOG_PROBABILITY: _LOG_PROBABILITIES,
    cases.OTHER_LOG_PROBABILITY: _LOG_PROBABILITIES,
    cases.SAMPLED_LOG_PROBABILITY: (-200.0, -100.0, -17.0, -1.5, -1e-8),
    cases.OTHER_SAMPLED_LOG_PROBABILITY: (-200.0, -100.0, -17.0, -1.5, -1e-8),
    cases.FEW_LOG_PROBABILITIES: (-2.0, -1.0, -0.5, -1e-8, 0.0),  # ratios of which an exponential is taken once more
    cases.OLD_VALUE: (-100.0, -1.0, -1e-8, 0.0, 0.5, 17.0, 1e4),
}
ENDS = {  # of closed intervals: a derivative is one-sided there
    cases.POSITIVE: {0.0: 1},
    cases.ABOVE_MINUS_ONE: {-1.0: 1},
    cases.PROBABILITY: {0.0: 1, 1.0: -1},
    cases.LOG_PROBABILITY: {0.0: -1},
    cases.SHARES: {0.0: 1},
}


def _rounded(values: Iterable[float], dtype) -> list[float]:
    """As the dtype has them, without what over- or underflows; with its smallest and its largest, and both zeros."""
    finfo = jnp.finfo(dtype)
    own = [float(v) for v in (finfo.smallest_subnormal, finfo.tiny, finfo.max)] if max(values) == inf else []
    given = np.array([*values, *own, *(-v for v in own if min(values) == -inf)])
    with np.errstate(over="ignore"):
        found = given.astype(dtype).astype(np.float64)
    found = found[(np.isfinite(found) | np.isinf(given)) & ((found != 0) | (given == 0))].tolist()
    return sorted({(v, bool(np.signbit(v))): v for v in found}.values())


# Rows.

_SOME = np.array([0.3, -1.2, 2.0, 0.7, -0.4])
DIRECTION = np.array([0.75, -1.25, 0.5, 1.5, -1.0])  # of forward mode and of Hessians; of elements 1


def _with(row, *entries: tuple[int, float]):
    row = np.array(row)
    for i, v in entries:
        row[i] = v
    return row


def logits(classes: int) -> list[np.ndarray]:
    some, zeros = _SOME[:classes], np.zeros(classes)
    found = [zeros, -zeros, some, zeros + 1e-40, 1e-8 * some, 1e30 * some, some + 1e5, some + 1e6]
    found += [zeros + v for v in (1e30, 3e38, -3e38, -inf)]
    for far in (5.0, 17.0, 100.0, 1e4, 6e4, 1e30, inf):
        found += [_with(zeros, (0, far)), _with(some, (-1, far))]
    found += [_with(some, (i, low)) for i in (0, -1) for low in (-1e4, -1e30, -inf)]
    if classes > 1:
        ends = ((1e30, -1e30), (-3e38, 3e38), (6e4, -6e4), (-inf, inf), (inf, inf), (inf, 3e38))
        found += [_with(some, (0, a), (-1, b)) for a, b in ends]
        found += [_with(zeros - inf, (0, 0.5))]
    return found


def shares(classes: int) -> list[np.ndarray]:
    """Of sum 1."""
    if classes == 1:
        return [np.ones(1)]
    hard, zeros = np.eye(classes), np.zeros(classes)
    halves = 2.0 ** -np.minimum(np.arange(1, classes + 1), classes - 1)
    found = [zeros + 1 / classes, hard[0], hard[-1], halves]
    for small in (1e-40, 1e-30, 1e-8, 2.0**-10):
        found += [_with(zeros, (0, small), (-1, 1 - small)), _with(zeros, (-1, small), (0, 1 - small))]
    return found


def targets(classes: int) -> list[np.ndarray]:
    hard, soft = np.eye(classes), shares(classes)[-9:]
    return [hard[0], hard[-1], soft[0], np.zeros(classes), *([np.full(2, 1e-40), *soft[1:4]] if classes == 2 else [])]


def _log_shares(classes: int) -> list[np.ndarray]:
    """Not of denormal probabilities, which are 0 to XLA on a CPU."""
    with np.errstate(divide="ignore"):
        found = [np.log(p) for p in shares(classes) if not ((p > 0) & (p < TINY)).any()]
    if classes > 1:
        nothing = np.full(classes, -inf)
        for low in (-17.0, -85.0, -1e4, -1e30):
            found += [_with(nothing, (0, 0.0), (-1, low)), _with(nothing, (0, low), (-1, 0.0))]
    return [*found, np.full(classes, -inf)]


def _vectors(classes: int) -> list[np.ndarray]:
    some = _SOME[:classes]
    found = [size * some for size in (0.0, 1e-40, 1e-30, 1e-8, 1.0, 1e4, 1e18, 1e30, 1e38)]
    found += [some * (1 + 1e-4 * np.cos(np.arange(classes))), some + 1e6, -some, np.full(classes, 3e38)]
    return found + [size * np.eye(classes)[i] for size in (1e-20, 1.0, 3e38) for i in {0, classes - 1}]


def _bits(classes: int) -> list[np.ndarray]:
    hard = np.eye(classes)
    return [hard[0], hard[-1], 1 - hard[0], np.zeros(classes), np.ones(classes)]


def _probabilities(classes: int) -> list[np.ndarray]:
    return [*shares(classes), np.zeros(classes), np.ones(classes), np.full(classes, 1e-30)]


def _labels(classes: int) -> list[int]:
    return sorted({0, classes - 1})


def _hard(classes: int) -> list[np.ndarray]:
    return [np.eye(classes)[i] for i in _labels(classes)]


ROWS = {  # predictions and targets
    (cases.REAL, cases.REAL): (_vectors, _vectors),
    (cases.REAL, cases.SHARES): (logits, targets),
    (cases.REAL, cases.TEACHER_LOGITS): (logits, lambda classes: logits(classes)[::3]),
    (cases.LOG_SHARES, cases.SHARES): (_log_shares, targets),
    (cases.LOG_SHARES, cases.LOG_SHARES): (_log_shares, lambda classes: _log_shares(classes)[::3]),
    (cases.SHARES, cases.SHARES): (shares, targets),
    (cases.REAL, INDEX): (logits, _labels),
    (cases.SHARES, INDEX): (shares, _labels),
    (cases.LOG_SHARES, INDEX): (_log_shares, _labels),
    (cases.REAL, cases.BITS): (logits, _bits),
    (cases.PROBABILITY, cases.UNIT_INTERVAL): (_probabilities, _bits),
}
ONE_HOT = ("categorical_hinge_loss_with_zero_class",)
OF_LIKE_SIZE = ("triplet_margin_loss",)  # the difference of two distances is lost beside a distance


class Inputs(NamedTuple):
    x: np.ndarray  # float64, [inputs] or [inputs, classes]
    t: np.ndarray  # the same, or int32 [inputs]
    direction: np.ndarray

    def __getitem__(self, part):
        return Inputs(self.x[part], self.t[part], self.direction)


def inputs(case: Case, dtype) -> list[Inputs]:
    """All pairs: of elements in one array, of rows in one for each number of classes."""
    domains = case.predictions, case.target_domain
    if not case.rows:
        x, t = np.meshgrid(*(_rounded(ELEMENTS[d], dtype) for d in domains))
        return [Inputs(x.ravel(), t.ravel(), np.ones(1))]
    first, second = ROWS[domains]
    second = _hard if case.name in ONE_HOT else second
    found = [
        of_rows([rows(classes)[:: 4 if classes == 5 else 1] for rows in (first, second)], dtype, DIRECTION[:classes])
        for classes in ((1, 2, 3, 5) if dtype == np.float32 else (3,))
    ]
    return [_alike(batch) for batch in found] if case.name in OF_LIKE_SIZE else found


def _alike(batch: Inputs) -> Inputs:
    sizes = [np.abs(a).max(-1) for a in (batch.x, batch.t)]
    return batch[(np.min(sizes, 0) == 0) | (np.max(sizes, 0) <= 100 * np.min(sizes, 0))]


def of_rows(choices, dtype, direction) -> Inputs:
    low = []
    for rows in choices:
        with np.errstate(over="ignore"):
            as_they_are = [(np.asarray(r), np.asarray(r, np.float64).astype(dtype).astype(np.float64)) for r in rows]
        fits = [np.int32(b) if a.ndim == 0 else b for a, b in as_they_are if (np.isfinite(b) | np.isinf(a)).all()]
        low.append(list({r.tobytes(): r for r in fits}.values()))
    x, t = (np.stack(a) for a in zip(*((x, t) for x in low[0] for t in low[1]), strict=True))
    return Inputs(x, t, direction)


# The truth.


class Truth(NamedTuple):
    """Of each input, and of each entry of its row where the result is one."""

    truth: np.ndarray  # NaN where there is none
    terms: np.ndarray  # the sum of the absolute terms
    smooth: np.ndarray  # False: at a kink any finite number is right


_DIGITS = 420  # of the square of a stand-in beside the square of a step
_INFINITIES = ((120, 121), (121, 120), (120, 120))  # the tens of those of a row, in turn
mp.mp.dps = _DIGITS
_THIRD, _ROOT = mp.mpf(1) / 3, mp.exp(mp.mpf(1) / 3)
_M = SimpleNamespace(**vars(EXACT))


@functools.lru_cache(1 << 16)
def _exp(v: mp.mpf) -> mp.mpf:
    return mp.exp(v - _THIRD) * _ROOT  # mpmath takes long to raise e to an integer


_M.exp = lambda x: _each(_exp, x)
_M.cosh = lambda x: (_M.exp(x) + _M.exp(-x)) / 2
_TENS = {k: mp.mpf(10) ** k for k in (30 - _DIGITS, -300, -140, -137, -70, -50, -20, 120, 121)}


def _each(f, *arrays):
    return np.frompyfunc(f, len(arrays), 1)(*arrays)


def truths(case: Case, given: Inputs) -> list[dict[str, Truth]]:
    """Readings, any of which is right: the limit, the convention, and with 0 for what XLA has as 0 on a CPU."""
    with mp.workdps(_DIGITS):
        readings = _readings(case, given)
        x, t = (np.where(np.abs(a) < TINY, 0, a) for a in (given.x, given.t))
        changed = _any(x != given.x) | _any(t != given.t)
        if changed.any():
            some = _readings(case, Inputs(x[changed], t[changed], given.direction))
            readings += [_put(readings[0], each, changed) for each in some]
    return readings


def _any(a: np.ndarray) -> np.ndarray:
    return a.any(-1) if a.ndim > 1 else a


def _put(whole: dict[str, Truth], some: dict[str, Truth], where: np.ndarray) -> dict[str, Truth]:
    def put(a, b):
        a = a.copy()
        a[where] = b
        return a

    return {mode: Truth(*map(put, whole[mode], some[mode])) for mode in MODES}


def _readings(case: Case, given: Inputs) -> list[dict[str, Truth]]:
    infinite = _any(np.isinf(given.x)) | _any(np.isinf(given.t))
    found = _evaluated(case, given, _INFINITIES[0])
    if infinite.any():
        limits = [_evaluated(case, given[infinite], tens) for tens in _INFINITIES]
        found = _put(found, {mode: _limit([each[mode] for each in limits]) for mode in MODES}, infinite)
    return [found, *conventions(case, given, found)]


def _limit(found: list[Truth]) -> Truth:
    """Of a row whose entries all have one, with the rounding of any stand-in, save of terms beyond all numbers.

    What vanishes does so by tens, as its stand-ins; what is small and changes less has their logarithm, without end.
    """
    first = found[0]
    agree = np.logical_and.reduce([_agree(o.truth, first.truth) for o in found])
    agree = agree.all(-1, keepdims=True) if agree.ndim > 1 else agree
    terms = np.max([np.where(o.terms < LARGEST, o.terms, 0) for o in found], 0)
    smooth = np.logical_and.reduce([o.smooth for o in found])
    return Truth(np.where(agree, first.truth, nan), terms, smooth)


def _agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    least, most = np.minimum(np.abs(a), np.abs(b)), np.maximum(np.abs(a), np.abs(b))
    return np.isclose(a, b, rtol=1e-6, atol=1e-100) | ((most < TINY) & (least < most / 2))


def _evaluated(case: Case, given: Inputs, tens: tuple[int, ...]) -> dict[str, Truth]:
    """Where the formula divides by zero, or leaves the real numbers, there is no truth."""
    try:
        return _derived(case, given, tens)
    except (ZeroDivisionError, TypeError, ValueError):
        n = len(given.x)
        if n == 1:
            shapes = (n,), given.x.shape, (n,), given.x.shape
            return {
                m: Truth(np.full(s, nan), np.zeros(s), np.ones(s, bool)) for m, s in zip(MODES, shapes, strict=True)
            }
        halves = [_evaluated(case, given[part], tens) for part in (slice(n // 2), slice(n // 2, n))]
        return {m: Truth(*map(np.concatenate, zip(*(half[m] for half in halves), strict=True))) for m in MODES}


def _derived(case: Case, given: Inputs, tens: tuple[int, ...]) -> dict[str, Truth]:
    """The value, and its derivatives by differences of each term."""
    x, t = (a if case.rows else a[:, None] for a in (given.x, given.t))
    t = np.eye(x.shape[-1])[t] if case.target_domain is INDEX else t
    both = np.concatenate([x, t], -1)
    infinite = np.isinf(both)
    stand_ins = np.sign(both).astype(object) * _each(lambda k: _TENS[tens[k % len(tens)]], infinite.cumsum(-1))
    both = np.where(infinite, stand_ins, numbers(np.where(infinite, 0, both)))
    here, t = both[:, : x.shape[-1]], both[:, x.shape[-1] :]

    options = {k: numbers([np.float32(v)]) for k, v in case.options.items()} | case.static
    step, inside = np.full(x.shape, _TENS[-70]), here
    for end, side in ENDS.get(case.predictions, {}).items():
        outside = case.formula(_M, np.where(x == end, here - side * step, here), t, **options)
        leaves = functools.reduce(np.logical_or, (_each(_unreal, u).astype(bool).any(-1) for u in outside))
        at_end = (x == end) & leaves[:, None]
        step = np.where(at_end, _TENS[-140], step)
        inside = np.where(at_end, here + side * _TENS[-137], inside)
    along = np.min(step, -1, keepdims=True)

    @functools.cache
    def at(column: int, steps: int, steps_along: int) -> list[np.ndarray]:
        moved = inside + steps * step * (np.arange(x.shape[-1]) == column) + steps_along * along * given.direction
        return case.formula(_M, moved, t, **options)

    columns = range(x.shape[-1])
    value, size = _added(case.formula(_M, here, t, **options))
    slopes = [_slope(at, c, step[:, c, None]) for c in columns]
    slope, terms, smooth = (np.stack(part, -1) for part in zip(*slopes, strict=True))
    bends = [_bend(at, c, step[:, c, None], along) for c in columns]
    bend, bend_terms, composed, bend_smooth = (np.stack(part, -1) for part in zip(*bends, strict=True))
    if case.name.startswith(
        "cosine"
    ):  # of vectors of any length: terms are what is divided by the length, or its square
        least = mp.sqrt(options["epsilon"][0]) if "epsilon" in options else 0  # shorter ones are not divided
        inverse = _each(lambda v: 1 / v if v > least else mp.mpf(0), np.max(np.abs(here), -1, keepdims=True))
        terms, bend_terms = terms + inverse, bend_terms + inverse**2
    too_large = case.rows * np.isinf(_floats(bend_terms)).any(-1, keepdims=True)  # the products of which it is the sum
    products = slope * given.direction
    along = _floats(products.sum(-1))
    signs = [(sign * _floats(products) == inf).any(-1) for sign in (-1, 1)]
    clash = np.where(np.isfinite(along), signs[0] | signs[1], signs[0] & signs[1])  # of products beyond all numbers
    flat = slice(None) if case.rows else (slice(None), 0)
    return {
        "value": Truth(_floats(value), _floats(size), np.ones(len(x), bool)),
        "gradient": Truth(*(a[flat] for a in (_floats(slope), _floats(terms), smooth))),
        "forward mode": Truth(
            np.where(clash, nan, along),
            _floats((terms * np.abs(given.direction)).sum(-1)),
            smooth.all(-1),
        ),
        "second order": Truth(
            np.where(too_large, nan, _floats(bend))[flat],
            _floats(bend_terms + composed)[flat],
            (bend_smooth & smooth.all(-1, keepdims=True))[flat],
        ),
    }


def _unreal(v) -> bool:
    return isinstance(v, mp.mpc) or not mp.isfinite(v)


def _difference(a: np.ndarray, b: np.ndarray, than: np.ndarray) -> np.ndarray:
    """a - b, 0 where that is rounding of the numbers it is of."""
    rounding = np.asarray(np.abs(a - b) < np.abs(than) * _TENS[30 - _DIGITS], bool)
    return np.where(rounding, mp.mpf(0), a - b)


def _added(terms: Iterable[np.ndarray]) -> list[np.ndarray]:
    """The sum of the terms, and that of their absolute values."""
    return [sum(np.sum(u, axis=-1) for u in each) for each in (terms, [np.abs(u) for u in terms])]


def _slope(at, column: int, step: np.ndarray) -> tuple[np.ndarray, ...]:
    """By one entry: the derivative, the size of its terms, whether that from the right is the same."""
    above, here, below = (at(*place) for place in ((column, 1, 0), (0, 0, 0), (column, -1, 0)))
    value, size = _added([_difference(a, b, a) / (2 * step) for a, b in zip(above, below, strict=True)])
    right, _ = _added([_difference(a, b, a) / step for a, b in zip(above, here, strict=True)])
    return value, size, _same(right, value, size)


def _bend(at, column: int, step: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of that, the derivative along the direction. Of g(h(x)) it has also terms g'' h'^2, measured by f'^2 / f."""
    here = at(0, 0, 0)
    value, size, right, composed = 0, 0, 0, 0
    for i, f in enumerate(here):
        slopes = {k: at(column, 1, k)[i] - at(column, -1, k)[i] for k in (-1, 0, 1)}
        than = np.abs(f) + np.abs(at(column, 1, 1)[i])
        bend = _difference(slopes[1], slopes[-1], than) / (4 * step * along)
        other = _difference(at(0, 0, 1)[i], at(0, 0, -1)[i], than) / (2 * along)
        value += bend.sum(-1)
        right += (_difference(slopes[1], slopes[0], than) / (2 * step * along)).sum(-1)
        size += np.abs(bend).sum(-1)
        composed += (np.abs(slopes[0] / (2 * step) * other) / (np.abs(f) + _TENS[-300])).sum(-1)
    return value, size, composed, _same(right, value, size)


def _same(right, value, size) -> np.ndarray:
    return np.asarray(np.abs(right - value) <= size * _TENS[-20] + _TENS[-50], bool)


def _floats(x: np.ndarray) -> np.ndarray:
    """In float64, with infinity for what float32 has not."""
    with np.errstate(all="ignore"):
        x = _each(float, x).astype(float)
    return np.where(np.abs(x) > LARGEST, np.copysign(inf, x), x)


# What holds besides.


def conventions(case: Case, given: Inputs, limit: dict[str, Truth]) -> list[dict[str, Truth]]:
    """A logit of -inf is a class of probability 0, without a gradient; a row of nothing else costs infinity.

    A vector of zeros has the cosine 0 with any other, without a gradient. Labels that no alignment gives cost infinity,
    without a gradient; a mask of nothing where nothing is costs 0. A target of 0 is missed by infinite percents.
    """
    if "softmax_" in case.name or case.name.startswith(("poly", "multiclass_sparsemax")):
        lowest = given.x == -inf
        return [_with_zeros(limit, given, lowest, lowest.all(-1), inf)]
    if case.name.startswith("cosine") and "epsilon" not in case.options:
        zero = ~(given.x.any(-1) & given.t.any(-1))
        value = 1.0 if case.formula.__name__ in ("cosine_distance", "cosine_embedding_loss") else 0.0
        return [_with_zeros(limit, given, zero[:, None] & np.ones(given.x.shape, bool), zero, value)]
    if case.name in ("ctc_loss", "rnnt_loss"):
        impossible = limit["value"].truth == inf
        return [_with_zeros(limit, given, impossible[:, None] & np.ones(given.x.shape, bool), impossible, inf)]
    if case.name == "tversky_loss":
        nothing = ~(given.x.any(-1) | given.t.any(-1))
        return [_with_zeros(limit, given, nothing[:, None] & np.ones(given.x.shape, bool), nothing, 0.0)]
    if case.name == "absolute_percentage_error":
        hit = given.x == given.t
        return [_with_zeros(limit, given, hit & (given.t == 0), given.t == 0, np.where(hit, 0, inf))]
    return []


def _with_zeros(
    limit, given: Inputs, entries: np.ndarray, rows: np.ndarray, value: float | np.ndarray
) -> dict[str, Truth]:
    """With that value of those rows, and derivatives of 0 by those entries."""

    def put(mode, where, v):
        truth, terms, smooth = limit[mode]
        return Truth(np.where(where, v, truth), np.where(where, 0, terms), smooth | where)

    gradient, second = (put(mode, entries, 0.0) for mode in ("gradient", "second order"))
    gradient = gradient._replace(truth=np.where(_rows(rows, gradient), 0.0, gradient.truth))
    second = second._replace(truth=np.where(_rows(rows, second), 0.0, second.truth))
    forward = limit["forward mode"]
    if entries.ndim > 1:
        with np.errstate(invalid="ignore"):
            along = (gradient.truth * given.direction).sum(-1)
        forward = forward._replace(truth=np.where(entries.any(-1), along, forward.truth))
    return {"value": put("value", rows, value), "gradient": gradient, "forward mode": forward, "second order": second}


def _rows(rows: np.ndarray, like: Truth) -> np.ndarray:
    return rows[:, None] if like.truth.ndim > 1 else rows
