"""The mathematics of divergences of a student's softmax q from a teacher's t, both from rows of logits.

Let a be the student's logits less their maximum, and b the teacher's, each divided by the temperature. With A and B
the sums of exp(a) and exp(b), u = log(q / t) = (a - b) - log(A / B), and a term of KL(t, q) is q - t - t u, which is
t (exp(u) - 1 - u): none is negative. Where a class has nearly the same logit in both, a - b is computed from the
difference of the two logits, which is exact, and log(A / B) from A - B, a sum of exp(a) - exp(b) = exp(b) expm1(a - b).
So the divergence of nearly equal rows keeps its digits, which a difference of two log-probabilities has lost.

``across`` names the mapped axis over which the classes are split, if they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ._divergence import js_ratios
from ._numerics import excess, expm1, log_ratio, minus, times
from ._rows import largest, summed
from ._softmax_rows import Row, gap, probabilities, summary_below, relative_to_likely
from ._types import AxisName


class Comparison(NamedTuple):
    """What the formulas below need of each class."""

    q: Array
    t: Array
    log_ratio: Array  # u = log(q / t)
    difference: Array  # q - t


class Formula(NamedTuple):
    """A divergence of a row. ``numbers`` are its options, with a last axis of size 1."""

    # (comparison, *numbers) -> arrays of terms; their sums are saved
    terms: Callable[..., tuple[Array, ...]]
    # (sums, *numbers) -> the divergence, both without the class axis
    total: Callable[..., Array]
    # (comparison, student row, teacher row, sums, *numbers) -> gradients by a and by b, and the sum of both
    gradients: Callable[..., tuple[Array, Array, Array]]
    # (sums,) -> the derivatives by the numbers, without the class axis
    of_numbers: Callable[..., tuple[Array, ...]]


class Summary(NamedTuple):
    """What is saved of two rows of logits: some numbers a row each."""

    tops: tuple[Array, Array]
    rows: tuple[Row, Row]  # of a and of b
    shift: Array  # log(A / B)
    sums: tuple[Array, ...]

    @property
    def empty(self) -> Array:
        """Whether all logits of the student or all of the teacher are -inf."""
        (x, y), (a, b) = self.tops, self.rows
        return ((x == -jnp.inf) | (y == -jnp.inf)) & ~jnp.isnan(a.rest + b.rest)


def _column(x: Array) -> Array:
    return x[..., None]


def _relative(x: Array, y: Array, tops: tuple[Array, Array], temperature: Array | None) -> tuple[Array, Array, Array]:
    """a, b and a - b, each of them exact where it is near 0."""
    top_x, top_y = map(_column, tops)
    x, y = x.astype(top_x.dtype), y.astype(top_y.dtype)
    gap_x, gap_y = gap(x, top_x), gap(y, top_y)
    of_logits, of_tops = minus(x, y), minus(top_x, top_y)
    direct = jnp.abs(of_logits) + jnp.abs(of_tops) < gap_x + gap_y
    difference = jnp.where(direct, of_logits - jnp.where(direct, of_tops, 0), minus(gap_y, gap_x))
    if temperature is None:
        return -gap_x, -gap_y, difference
    t = _column(temperature)
    return -gap_x / t, -gap_y / t, difference / t


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _compare(a: Array, b: Array, difference: Array, rows: Any, shift: Array, across: AxisName | None) -> Comparison:
    q, t = (probabilities(z, row, across)[0] for z, row in zip((a, b), rows, strict=True))
    u = minus(difference, _column(shift))
    near = jnp.abs(u) < 1
    return Comparison(q, t, u, jnp.where(near, t * expm1(jnp.where(near, u, 0)), q - t))


@_compare.defjvp
def _(across: AxisName | None, primals: Any, tangents: Any) -> Any:
    (a, b, _, rows, _), comparison = primals, _compare(*primals, across)
    q, t = comparison[:2]
    of_a, of_b = (relative_to_likely(z, r, v, across) for z, r, v in zip((a, b), rows, tangents[:2], strict=True))
    of_log_q, of_log_t = (v - _column(summed(p * v, across)) for p, v in ((q, of_a), (t, of_b)))
    of_q, of_t = q * of_log_q, t * of_log_t
    return comparison, Comparison(of_q, of_t, of_log_q - of_log_t, of_q - of_t)


def summarize(
    formula: Formula,
    x: Array,
    y: Array,
    temperature: Array | None,
    numbers: tuple[Array, ...],
    across: AxisName | None = None,
) -> Summary:
    """Of logits, of which those that a mask excludes are replaced already."""
    tops = tuple(largest(z, across).astype(np.promote_types(z.dtype, np.float32)) for z in (x, y))
    a, b, difference = _relative(x, y, tops, temperature)
    rows = summary_below(a, jnp.zeros_like(tops[0]), across), summary_below(b, jnp.zeros_like(tops[1]), across)
    near = jnp.abs(difference) < 1
    v = jnp.where(near, difference, 0)
    of_sums = summed(jnp.where(near, jnp.exp(b) * expm1(v), jnp.exp(a) - jnp.exp(b)), across)
    shift = log_ratio(1 + rows[0].rest, 1 + rows[1].rest, of_sums)
    terms = formula.terms(_compare(a, b, difference, rows, shift, across), *map(_column, numbers))
    return Summary(tops, rows, shift, tuple(summed(term, across) for term in terms))


def divergence(formula: Formula, summary: Summary, numbers: tuple[Array, ...]) -> Array:
    """Infinite where a row has no class."""
    return jnp.where(summary.empty, jnp.inf, formula.total(summary.sums, *numbers))


def gradients(
    formula: Formula,
    x: Array,
    y: Array,
    summary: Summary,
    temperature: Array | None,
    numbers: tuple[Array, ...],
    across: AxisName | None = None,
) -> tuple[Array, Array, Array | None, tuple[Array, ...]]:
    """The gradients by both logits, by the temperature and by the numbers."""
    a, b, difference = _relative(x, y, summary.tops, temperature)
    comparison = _compare(a, b, difference, summary.rows, summary.shift, across)
    of_a, of_b, of_both = formula.gradients(
        comparison, *zip((a, b), summary.rows, strict=True), summary.sums, across, *map(_column, numbers)
    )
    empty = _column(summary.empty)
    of_a, of_b = jnp.where(empty | (a == -jnp.inf), 0, of_a), jnp.where(empty | (b == -jnp.inf), 0, of_b)
    of_numbers = tuple(jnp.where(summary.empty, 0, of) for of in formula.of_numbers(summary.sums))
    if temperature is None:
        return of_a, of_b, None, of_numbers
    # It is -(of_a a + of_b b) / T. Of nearly equal rows that is a difference of terms that are of first order in u,
    # where of_a (a - b) + (of_a + of_b) b has terms of second order, as the divergence.
    near = ~empty & (jnp.abs(comparison.log_ratio) < 1)
    together = times(of_a, jnp.where(near, difference, 0)) + times(jnp.where(near, of_both, 0), b)
    apart = times(of_a, a) + times(of_b, b)
    of_temperature = -summed(jnp.where(near, together, apart), across) / temperature
    t = _column(temperature)
    return of_a / t, of_b / t, of_temperature, of_numbers


def _centered(p: Array, u: Array, mean: Array, relative: tuple[Array, Row], across: AxisName | None) -> Array:
    """p_c (mean - u_c), where the mean is that of u weighted by p. So these sum to 0, and where one class has most of
    p, its entry is that of the others, negated. Where the mean is infinite, what makes it so has the other sign.
    """
    z, row = relative
    products = times(p, jnp.where(jnp.isinf(u), -u, mean - u))
    likely = _column((row.rest < 0.5) & jnp.isfinite(mean[..., 0])) & (z > -0.5)
    others = jnp.where(likely, 0, products)
    return jnp.where(likely, -_column(summed(others, across)), products)


def _kl_terms(c: Comparison) -> tuple[Array]:
    return (excess(c.t, c.q, c.log_ratio),)


def _kl_gradients(
    c: Comparison, student: tuple[Array, Row], teacher: tuple[Array, Row], sums: tuple[Array], across: AxisName | None
) -> tuple[Array, Array, Array]:
    (kl,) = map(_column, sums)
    of_teacher = _centered(c.t, c.log_ratio, -kl, teacher, across)
    return c.difference, of_teacher, _kl_terms(c)[0] - times(c.t, kl)


KL = Formula(_kl_terms, lambda sums: sums[0], _kl_gradients, lambda sums: ())


def _js_terms(c: Comparison, beta: Array) -> tuple[Array, Array]:
    r, s = js_ratios(-c.log_ratio, beta)
    mixture = beta * c.t + (1 - beta) * c.q
    return excess(c.q, mixture, r), excess(c.t, mixture, s)


def _js_gradients(
    c: Comparison,
    student: tuple[Array, Row],
    teacher: tuple[Array, Row],
    sums: tuple[Array, Array],
    across: AxisName | None,
    beta: Array,
) -> tuple[Array, Array, Array]:
    of_student, of_teacher = map(_column, sums)
    r, s = js_ratios(-c.log_ratio, beta)
    by_student = times(1 - beta, _centered(c.q, r, -of_student, student, across))
    by_teacher = times(beta, _centered(c.t, s, -of_teacher, teacher, across))
    terms = _js_terms(c, beta)
    by_both = times(1 - beta, terms[0] - times(c.q, of_student)) + times(beta, terms[1] - times(c.t, of_teacher))
    return by_student, by_teacher, by_both


JS = Formula(
    _js_terms,
    lambda sums, beta: times(1 - beta, sums[0]) + times(beta, sums[1]),
    _js_gradients,
    lambda sums: (sums[1] - sums[0],),
)
