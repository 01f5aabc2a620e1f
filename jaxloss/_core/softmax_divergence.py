"""The mathematics of divergences of a student's softmax q from a teacher's t, both from rows of logits.

Let a be the student's logits less their maximum, and b the teacher's, each divided by the temperature. With A and B
the sums of exp(a) and exp(b), u = log(q / t) = (a - b) - log(A / B), and a term of KL(t, q) is q - t - t u, which is
t (exp(u) - 1 - u): none is negative. Where the two rows are nearly equal, a - b is computed from the difference of the
logits, which is exact, and log(A / B) from A - B, a sum of exp(b) (exp(a - b) - 1). So the divergence keeps its digits,
which a difference of two rounded log-probabilities has lost.

``class_axis_name`` names the mapped axis over which the classes are split, if they are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .classes import class_max, class_sum_of_formulas
from .compiler import cpu_fusion_barrier, gpu_recompute_barrier
from .cross_entropy import Options, transform_logits, transform_logits_backward
from .derivatives import custom_derivative
from .masks import Mask
from .special import exp_difference, js_ratios, kl_term, log_ratio, multiply_no_nan, near_kl_term
from .types import AxisName


class Tops(NamedTuple):
    """How the logits of a row become relative: one number a row each."""

    student: Array  # the maximum
    teacher: Array
    empty: Array  # whether all of the student or all of the teacher are -inf

    @property
    def least(self) -> Array:
        """What the logits are raised to."""
        return jnp.where(self.empty, 0, -jnp.inf).astype(self.student.dtype)


class Totals(NamedTuple):
    """What else the comparison of two rows needs: one number a row each."""

    student: Array  # A
    teacher: Array  # B
    shift: Array  # log(A / B)


class Comparison(NamedTuple):
    """What the formulas need of each class."""

    q: Array
    t: Array
    half: Array  # of u = log(q / t)
    difference: Array  # q - t

    @property
    def log_ratio(self) -> Array:
        return 2 * self.half


class Formula(NamedTuple):
    """A divergence of a row. ``numbers`` are its options."""

    sums: int  # how many there are
    # (comparison, *numbers) -> terms, whose sums over the classes are saved; here, and in the gradients, sums and
    # numbers have an axis of size 1 for the classes
    terms: Callable[..., tuple[Array, ...]]
    # (sums, *numbers) -> the divergence
    total: Callable[..., Array]
    # (comparison, is_likely, sums, numbers, class_axis_name) -> gradients by a and b, and their sum without its
    # rounding error
    gradients: Callable[..., tuple[Array, Array, Array]]
    # (sums) -> the derivatives by the numbers
    d_numbers: Callable[..., tuple[Array, ...]]


class Summary(NamedTuple):
    """What is saved of two rows of logits: some numbers a row."""

    tops: Tops
    totals: Totals
    sums: tuple[Array, ...]


def _column(x: Array) -> Array:
    return x[..., None]


def _largest(x: Array) -> float:
    return float(jnp.finfo(x.dtype).max)


# On a CPU, XLA sums arithmetic fast, and arithmetic with comparisons of elements slowly or from an array in memory. So
# infinite logits are not compared, but bounded by the largest numbers, and their differences are made infinite again.


def _tops(x: Array, y: Array, class_axis_name: AxisName | None) -> Tops:
    top_x, top_y = (class_max(z, class_axis_name).astype(np.promote_types(z.dtype, np.float32)) for z in (x, y))
    tops = Tops(top_x, top_y, (top_x == -jnp.inf) | (top_y == -jnp.inf))
    return Tops(*cpu_fusion_barrier(jnp.maximum(top_x, tops.least), jnp.maximum(top_y, tops.least), tops.empty))


def _relative(logits: tuple[Array, Array], tops: Tops, temperature: Array | None) -> tuple[Array, Array, Array]:
    """a, b and (a - b) / 2, from halves of the logits, whose differences do not overflow."""
    bound = _largest(tops.student)
    top_x, top_y = (jnp.minimum(top / 2, bound) for top in (tops.student, tops.teacher))
    # The difference of the maxima is subtracted from that of the logits if it is small, else each from its own.
    top_gap = top_x - top_y
    small = jnp.abs(top_gap) < 0.5
    rows = (
        top_x,
        top_y,
        tops.least,
        jnp.where(small, 0, top_x),
        jnp.where(small, 0, top_y),
        jnp.where(small, top_gap, 0),
    )
    top_x, top_y, least, offset_x, offset_y, top_gap = map(_column, cpu_fusion_barrier(*rows))
    x, y = (jnp.maximum(jnp.minimum(z.astype(top_x.dtype) / 2, bound), least) for z in logits)
    difference = jnp.maximum(x - offset_x, -bound) - jnp.maximum(y - offset_y, -bound) - top_gap
    beyond = jnp.minimum(difference + 0.9 * bound, 0) + jnp.maximum(difference - 0.9 * bound, 0)
    difference += lax.stop_gradient(beyond * bound)
    a, b = x - top_x, y - top_y
    if temperature is not None:
        t = _column(temperature)
        a, b, difference = _divided(a, t), _divided(b, t), _divided(difference, t)
    return 2 * a, 2 * b, difference


@jax.custom_jvp
def _divided(x: Array, temperature: Array) -> Array:
    """x / T, infinite at every temperature where x is."""
    return x / temperature


@_divided.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    x, temperature = primals
    ratio = _divided(x, temperature)
    return ratio, (tangents[0] - jnp.where(jnp.isinf(ratio), 0, ratio) * tangents[1]) / temperature


def _totals(
    logits: tuple[Array, Array], tops: Tops, temperature: Array | None, class_axis_name: AxisName | None
) -> Totals:
    def relative(depth: int) -> tuple[Array, Array, Array]:  # for each sum anew, or XLA keeps what they share
        x, y, *rows = cpu_fusion_barrier(*logits, *tops)
        x, y = gpu_recompute_barrier(x, y, depth=depth)
        return _relative((x, y), Tops(*rows), temperature)

    student = class_sum_of_formulas(jnp.exp(relative(1)[0]), class_axis_name)
    teacher = class_sum_of_formulas(jnp.exp(relative(2)[1]), class_axis_name)
    a, b, half = relative(3)
    difference = class_sum_of_formulas(exp_difference(jnp.exp(a), jnp.exp(b), 2 * half), class_axis_name)
    return Totals(student, teacher, log_ratio(student, teacher, difference))


def _is_likely(a: Array, total: Array) -> Array:
    """Whether a class has most of the probability."""
    return _column(total < 1.5) & (a > -0.5)


def _softmax_tangent(p: Array, is_likely: Array, v: Array, class_axis_name: AxisName | None) -> Array:
    """The tangent of log p, of logits with tangent v, of which only differences count: less that of a likely class."""
    v = jnp.where(is_likely, 0, v - _column(class_sum_of_formulas(jnp.where(is_likely, v, 0), class_axis_name)))
    return v - _column(class_sum_of_formulas(p * v, class_axis_name))


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _compare(a: Array, b: Array, half: Array, totals: Totals, class_axis_name: AxisName | None) -> Comparison:
    q, t = jnp.exp(a) * _column(1 / totals.student), jnp.exp(b) * _column(1 / totals.teacher)
    half -= _column(totals.shift / 2)
    return Comparison(q, t, half, exp_difference(q, t, 2 * half))


@_compare.defjvp
def _(class_axis_name: AxisName | None, primals: Any, tangents: Any) -> Any:
    a, b, _, totals = primals
    comparison = _compare(*primals, class_axis_name)
    q, t, _, _ = comparison
    is_likely = _is_likely(a, totals.student), _is_likely(b, totals.teacher)
    log_q_dot, log_t_dot = (
        _softmax_tangent(p, likely, v, class_axis_name)
        for p, likely, v in zip((q, t), is_likely, tangents[:2], strict=True)
    )
    q_dot, t_dot = q * log_q_dot, t * log_t_dot
    return comparison, Comparison(q_dot, t_dot, (log_q_dot - log_t_dot) / 2, q_dot - t_dot)


def summarize(
    formula: Formula,
    logits: tuple[Array, Array],
    temperature: Array | None,
    numbers: tuple[Array, ...],
    class_axis_name: AxisName | None = None,
) -> Summary:
    """The summary of two rows of logits, whose masked entries are replaced already."""
    tops = _tops(*logits, class_axis_name)
    totals = _totals(logits, tops, temperature, class_axis_name)
    columns = tuple(map(_column, numbers))

    def terms(depth: int) -> tuple[Array, ...]:  # for each sum anew, as above
        x, y = gpu_recompute_barrier(*cpu_fusion_barrier(*logits), depth=depth)
        return formula.terms(_compare(*_relative((x, y), tops, temperature), totals, class_axis_name), *columns)

    sums = (class_sum_of_formulas(terms(4 + i)[i], class_axis_name) for i in range(formula.sums))
    return Summary(tops, totals, tuple(sums))


def divergence(formula: Formula, summary: Summary, numbers: tuple[Array, ...]) -> Array:
    """Infinite where all logits of one row are -inf."""
    return formula.total(summary.sums, *numbers) + jnp.where(summary.tops.empty, jnp.inf, 0)


def gradients(
    formula: Formula,
    logits: tuple[Array, Array],
    summary: Summary,
    temperature: Array | None,
    numbers: tuple[Array, ...],
    class_axis_name: AxisName | None = None,
) -> tuple[Array, Array, Array | None, tuple[Array, ...]]:
    """The gradients by both logits, by the temperature and by the numbers."""
    tops, totals, sums = summary
    a, b, half = _relative(logits, tops, temperature)
    comparison = _compare(a, b, half, totals, class_axis_name)
    is_likely = _is_likely(a, totals.student), _is_likely(b, totals.teacher)
    columns = (tuple(map(_column, n)) for n in (sums, numbers))
    d_a, d_b, d_both = formula.gradients(comparison, is_likely, *columns, class_axis_name)
    usable = jnp.where(tops.empty, 0, 1).astype(a.dtype)
    d_a, d_b = (
        _column(usable) * jnp.where(z == -jnp.inf, 0, derivative)
        for z, derivative in zip(logits, (d_a, d_b), strict=True)
    )
    d_numbers = tuple(usable * derivative for derivative in formula.d_numbers(sums))
    if temperature is None:
        return d_a, d_b, None, d_numbers
    # It is -(of_a a + of_b b) / T. Of nearly equal rows that is a difference of terms that are of first order in u,
    # where of_a (a - b) + (of_a + of_b) b has terms of second order, as the divergence.
    is_small = jnp.abs(comparison.log_ratio) < 1
    together = multiply_no_nan(d_a, jnp.where(is_small, 2 * half, 0)) + multiply_no_nan(
        _column(usable) * jnp.where(is_small, d_both, 0), b
    )
    alone = multiply_no_nan(d_a, a) + multiply_no_nan(d_b, b)
    d_temperature = -class_sum_of_formulas(jnp.where(is_small, together, alone), class_axis_name) / temperature
    t = _column(temperature)
    return d_a / t, d_b / t, d_temperature, d_numbers


def _centered(p: Array, u: Array, mean: Array, is_likely: Array, class_axis_name: AxisName | None) -> Array:
    """p_c (mean - u_c), where the mean is that of u weighted by p. So these sum to 0, and where one class has most of
    p, its entry is that of the others, negated. Where the mean is infinite, what makes it so has the other sign.
    """
    products = multiply_no_nan(p, jnp.where(jnp.isinf(u), -u, mean - u))
    is_likely &= jnp.isfinite(mean)
    other_products = jnp.where(is_likely, 0, products)
    return jnp.where(is_likely, -_column(class_sum_of_formulas(other_products, class_axis_name)), products)


def _kl_terms(c: Comparison) -> tuple[Array]:
    is_small = jnp.abs(c.log_ratio) < 1
    near = near_kl_term(c.t, jnp.where(is_small, c.log_ratio, 0))
    return (jnp.where(is_small, near, c.q - c.t - multiply_no_nan(2 * c.t, c.half)),)


def _kl_gradients(
    c: Comparison,
    is_likely: tuple[Array, Array],
    sums: tuple[Array],
    numbers: tuple[()],
    class_axis_name: AxisName | None,
) -> tuple[Array, Array, Array]:
    d_teacher = _centered(c.t, c.log_ratio, -sums[0], is_likely[1], class_axis_name)
    return c.difference, d_teacher, _kl_terms(c)[0] - multiply_no_nan(c.t, sums[0])


KL = Formula(1, _kl_terms, lambda sums: sums[0], _kl_gradients, lambda sums: ())


def _js_terms(c: Comparison, beta: Array) -> tuple[Array, Array]:
    r, s = js_ratios(-c.log_ratio, beta)
    mixture = beta * c.t + (1 - beta) * c.q
    return kl_term(c.q, mixture, r), kl_term(c.t, mixture, s)


def _js_gradients(
    c: Comparison,
    is_likely: tuple[Array, Array],
    sums: tuple[Array, Array],
    numbers: tuple[Array],
    class_axis_name: AxisName | None,
) -> tuple[Array, Array, Array]:
    (kl_q, kl_t), (beta,) = sums, numbers
    r, s = js_ratios(-c.log_ratio, beta)
    d_student = multiply_no_nan(1 - beta, _centered(c.q, r, -kl_q, is_likely[0], class_axis_name))
    d_teacher = multiply_no_nan(beta, _centered(c.t, s, -kl_t, is_likely[1], class_axis_name))
    terms = _js_terms(c, beta)
    d_both = multiply_no_nan(1 - beta, terms[0] - multiply_no_nan(c.q, kl_q)) + multiply_no_nan(
        beta, terms[1] - multiply_no_nan(c.t, kl_t)
    )
    return d_student, d_teacher, d_both


JS = Formula(
    2,
    _js_terms,
    lambda sums, beta: multiply_no_nan(1 - beta, sums[0]) + multiply_no_nan(beta, sums[1]),
    _js_gradients,
    lambda sums: (sums[1] - sums[0],),
)


def _tv_terms(c: Comparison) -> tuple[Array, ...]:
    """|q - t|; and of q and of t twice what is where q < t, and where q > t, and once what is elsewhere."""
    side = jnp.sign(c.difference)
    return jnp.abs(c.difference), *(part for p in (c.q, c.t) for part in (p - p * side, p + p * side))


def _tv_gradients(
    c: Comparison,
    is_likely: tuple[Array, Array],
    sums: tuple[Array, ...],
    numbers: tuple[()],
    class_axis_name: AxisName | None,
) -> tuple[Array, Array, Array]:
    """By a, q_c (s_c - sum_k q_k s_k) with s = sign(q - t) / 2, in sums of terms of one sign; by b, the same of t."""
    distance, *masses = (total / 2 for total in sums)
    side = jnp.sign(c.difference)

    def factor(below: Array, above: Array) -> Array:
        return jnp.where(side < 0, -above, jnp.where(side > 0, below, (below - above) / 2))

    of_q, of_t = factor(*masses[:2]), factor(*masses[2:])
    # The masses of q are those of t, and the distance more above and less below: so the factors differ by the distance.
    return c.q * of_q, -c.t * of_t, c.difference * of_q - c.t * distance


TV = Formula(5, _tv_terms, lambda sums: sums[0] / 2, _tv_gradients, lambda sums: ())


# Of arrays of logits. (The losses of hidden states have chunks of them.)


class _Saved(NamedTuple):
    x: Array
    y: Array
    mask: Mask
    temperature: Array | None
    numbers: tuple[Array, ...]
    summary: Summary


def _with_derivative(formula: Formula) -> Callable[..., Array]:
    """The divergence of each row of logits, with its derivatives."""

    def masked_logits(x: Array, y: Array, mask: Mask) -> tuple[Array, Array]:
        return transform_logits(x, mask, Options()), transform_logits(y, mask, Options())

    def forward(
        x: Array,
        y: Array,
        mask: Mask,
        temperature: Array | None,
        *numbers: Array,
    ) -> tuple[Array, _Saved]:
        temperature, numbers = mask.fill_options(temperature), mask.fill_options(numbers, 0.5)
        summary = summarize(formula, masked_logits(x, y, mask), temperature, numbers)
        return divergence(formula, summary, numbers), _Saved(x, y, mask, temperature, numbers, summary)

    def backward(saved: _Saved, g: Array) -> tuple[Array | None, ...]:
        x, y, mask, temperature, numbers, summary = saved
        g = mask.fill_options(g, 0)
        logits = masked_logits(x, y, mask)
        *d_logits, d_temperature, d_numbers = gradients(formula, logits, summary, temperature, numbers)
        ct_x, ct_y = (
            transform_logits_backward(g[..., None] * gradient, z, mask, Options())[0]
            for gradient, z in zip(d_logits, (x, y), strict=True)
        )
        d_temperature = None if d_temperature is None else g * d_temperature
        return ct_x, ct_y, None, d_temperature, *(g * derivative for derivative in d_numbers)

    return custom_derivative(forward, backward, infinite=(1,))


softmax_kl, softmax_js, softmax_tv = map(_with_derivative, (KL, JS, TV))
