"""The mathematics of the softmax cross entropies: rows of logits, the classes on the last axis, and their derivatives.

With z the logits after scale, cap and masks, m their maximum and rest the sum of exp(z_j - m) over all j but one
maximum, logsumexp(z) = m + log1p(rest). So for labels t the loss

    sum_c t_c (logsumexp(z) - z_c)  =  sum_c t_c (m - z_c)  +  (sum_c t_c) log1p(rest)

is a sum of non-negative terms: nothing cancels, neither in confident rows nor in confidently wrong ones.

``across`` names the mapped axis over which the classes are split, if they are: each device has some columns, and what a
row sums to, or a maximum, is that of all devices.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._derivatives import every_mode
from ._numerics import soft_cap, soft_cap_partials, times, times_bounded
from ._rows import apart, at, count, here, in_range, largest, pick_across, removed_as, summed
from ._types import AxisName


class Options(NamedTuple):
    """One number a row, or None where there is nothing to do."""

    label_smoothing: Array | None = None
    z_loss: Array | None = None
    soft_cap: Array | None = None
    logit_scale: Array | None = None

    @property
    def computed(self) -> bool:
        """Whether the logits are not those that are given."""
        return self.soft_cap is not None or self.logit_scale is not None


class Row(NamedTuple):
    """What is kept of the logits: one number a row each."""

    top: Array  # m
    rest: Array
    log_total: Array  # log1p(rest) = logsumexp(z) - m

    @property
    def empty(self) -> Array:
        """Whether all logits are -inf. On a CPU, XLA's maximum of NaN alone is -inf, too."""
        return (self.top == -jnp.inf) & ~jnp.isnan(self.rest)


def _transform(x: Array, kept: Array | None, classes: Array | None, options: Options) -> Array:
    """The logits z. What a mask removes is replaced before anything can overflow on it: a row by zeros."""
    x = removed_as(0, x, kept, classes)
    if classes is not None:  # not every dtype of 8 bits has an infinity
        x = x.astype(np.promote_types(x.dtype, np.float32))
    if options.logit_scale is not None:
        x = options.logit_scale[..., None] * x.astype(options.logit_scale.dtype)
    if options.soft_cap is not None:
        x = soft_cap(x.astype(options.soft_cap.dtype), options.soft_cap[..., None])
    return x if classes is None else jnp.where(classes, x, -jnp.inf)


def _transform_backward(
    gradient: Array,
    x: Array,
    kept: Array | None,
    classes: Array | None,
    options: Options,
    across: AxisName | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The cotangents of x, soft_cap and logit_scale from the one of z."""
    gradient = removed_as(0, gradient, kept, classes)
    x = removed_as(0, x.astype(gradient.dtype), kept, classes)
    of_cap = of_scale = None
    if options.soft_cap is not None:
        scaled = x if options.logit_scale is None else options.logit_scale[..., None] * x
        slope, by_cap = soft_cap_partials(scaled, options.soft_cap[..., None])
        of_cap = summed(times(gradient, by_cap), across)
        gradient = slope * gradient
    if options.logit_scale is not None:
        of_scale = summed(times(gradient, x), across)
        gradient = options.logit_scale[..., None] * gradient
    return gradient, of_cap, of_scale


def _options(numbers: tuple[Array | None, ...], kept: Array | None) -> Options:
    """The options, of which an excluded row has harmless ones."""
    return Options(*(n if n is None or kept is None else jnp.where(kept, n, 1) for n in numbers))


def logsumexp(row: Row) -> Array:
    return row.top + row.log_total


def _finite_logsumexp(row: Row) -> Array:
    """Of a row of -inf, 0: it has no gradient."""
    return jnp.where(row.empty, 0, row.top) + row.log_total


def exp_below(z: Array, top: Array) -> Array:
    """exp(z - m), 1 at an infinite maximum too."""
    largest = jnp.finfo(top.dtype).max
    return jnp.exp(jnp.minimum(z.astype(top.dtype), largest) - jnp.clip(top, -largest, largest))


def exp_sum(z: Array, top: Array, classes: Array) -> Array:
    """The sum of exp(z - m) over some classes, those where the other factor is 1, and 0 elsewhere.

    On a CPU the terms of `exp_below` stand apart: what a sum has in common with another pass is written to memory.
    """
    largest = jnp.asarray(jnp.finfo(top.dtype).max, top.dtype)
    classes, largest, finite_top = apart(classes, largest, jnp.clip(top, -largest, largest))
    return (jnp.exp(jnp.minimum(z.astype(top.dtype), largest) - finite_top[..., None]) * classes).sum(-1)


def gap(z: Array, top: Array) -> Array:
    """m - z, 0 at an infinite maximum too."""
    z = z.astype(top.dtype)
    undefined = (z == top) & jnp.isinf(z)
    return jnp.where(undefined, 0, top - jnp.where(undefined, 0, z))


def summary(z: Array, computed: bool = False, across: AxisName | None = None) -> Row:
    top = largest(z, across).astype(np.promote_types(z.dtype, np.float32))
    rest = _rest_by_select(z, top, across) if computed else _rest(z, top, across)
    return Row(top, rest, jnp.log1p(rest))


def _rest_by_select(z: Array, top: Array, across: AxisName | None) -> Array:
    """The sum of exp(z_j - m) over all j but one maximum, whose exp is 1 and yet has a derivative. Of none, 0."""
    z, m = z.astype(top.dtype), top[..., None]
    exp = exp_below(z, m)
    maxima = summed(jnp.where(z == m, exp, 0), across)
    return summed(jnp.where(z < m, exp, 0), across) + jnp.where(top == -jnp.inf, 0, maxima - 1)


def _rest_by_bound(z: Array, top: Array, across: AxisName | None) -> Array:
    """The same. On a CPU, XLA sums a row several times faster if no comparison stands in the way.

    If everything sums to less than 1.5, all but the maximum's exp(0) = 1 is below 1/2, where min(exp, 1 - exp) is exp;
    else 1 may be subtracted. That takes logits that are in memory: those that a fusion computes again, once for m and
    once for exp, may differ in the last digit.
    """
    exp = exp_below(z, top[..., None])
    every, below = summed(exp, across), summed(jnp.minimum(exp, 1 - exp), across)
    constant = lax.stop_gradient
    return constant(jnp.where(every < 1.5, below, every - 1)) + (every - constant(every))  # the derivative of `every`


def _rest(z: Array, top: Array, across: AxisName | None) -> Array:
    by_bound, by_select = (partial(rest, across=across) for rest in (_rest_by_bound, _rest_by_select))
    rest: Array = lax.platform_dependent(z, top, cpu=by_bound, default=by_select)
    return rest


# Probabilities and their logarithms have rules of their own: where one class has most of the probability, what its
# logit does to it is a difference of large terms, in which the others would be lost; so tangents are those beside that
# class. Each rule is true by itself, and not beside that of m alone: in a scan JAX inlines some functions, some not.


def _moving(z: Array, row: Row, v: Array, across: AxisName | None) -> Array:
    """The tangent v, of which only differences count, less that of a class that has most of the probability."""
    v = v.astype(row.top.dtype)
    sure = (row.rest < 0.5)[..., None] & (gap(z, row.top[..., None]) < 0.5)  # others are log(2) below
    return jnp.where(sure, 0, v - summed(jnp.where(sure, v, 0), across)[..., None])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def probabilities(z: Array, row: Row, across: AxisName | None = None) -> tuple[Array, Array]:
    """p and 1 - p = (1 - exp + rest) / (1 + rest), where 1 - exp is 0 or rest contains exp: nothing cancels."""
    slope = (1 / (1 + row.rest))[..., None]
    exp = exp_below(z, row.top[..., None])
    return slope * exp, slope * (row.rest[..., None] - (exp - 1))  # as 1 - exp, which `_rest` has, it would be kept


@probabilities.defjvp
def _(across: AxisName | None, primals: tuple[Array, Row], tangents: tuple[Array, Row]) -> Any:
    p, wrong = probabilities(*primals, across)
    v = _moving(*primals, tangents[0], across)
    tangent = p * (v - summed(p * v, across)[..., None])
    return (p, wrong), (tangent, -tangent)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def of_label(label: Array, y: Array, z: Array, row: Row, across: AxisName | None = None) -> tuple[Array, Array]:
    """p of the label y, whose z is known, and p - 1 = (exp - 1 - rest) / (1 + rest), where exp - 1 is exact."""
    distance = gap(label, row.top)
    slope = 1 / (1 + row.rest)
    return slope * jnp.exp(-distance), slope * (jnp.expm1(-distance) - row.rest)


@of_label.defjvp
def _(across: AxisName | None, primals: Any, tangents: Any) -> Any:
    _, y, z, row = primals
    p, miss = of_label(*primals, across)
    v = _moving(z, row, tangents[2], across)
    mean = summed(probabilities(z, row, across)[0] * v, across)
    tangent = p * (pick_across(v, y, across) - mean)
    return (p, miss), (tangent, tangent)


@jax.custom_jvp
def surprise(z: Array, row: Row) -> Array:
    """-log p_c = m - z_c + log1p(rest), of two terms that are not negative."""
    return gap(z, row.top[..., None]) + row.log_total[..., None]


@surprise.defjvp
def _(primals: tuple[Array, Row], tangents: tuple[Array, Row]) -> tuple[Array, Array]:
    v = jnp.where(primals[0] == -jnp.inf, 0, _moving(*primals, tangents[0], None))
    return surprise(*primals), (probabilities(*primals)[0] * v).sum(-1, keepdims=True) - v


def smoothed(t: Array, classes: Array | None, alpha: Array) -> Array:
    """(1 - alpha) t + alpha / K over the K classes kept, alpha with the rank of t."""
    return removed_as(0, (1 - alpha) * t + alpha * _share(t, classes), None, classes)


def _share(x: Array, classes: Array | None, across: AxisName | None = None) -> Array | float:
    """1 / K, with the rank of x."""
    if classes is None:
        return 1 / count(x, across)
    return 1 / jnp.maximum(classes.sum(-1, keepdims=True), 1).astype(x.dtype)


class _Saved(NamedTuple):
    x: Array
    labels: Array
    kept: Array | None
    classes: Array | None
    options: Options
    row: Row


# With labels as indices: t is 1 at y and 0 elsewhere, and never built.


def indexed_forward(
    x: Array,
    y: Array,
    kept: Array | None,
    classes: Array | None,
    *numbers: Array | None,
    across: AxisName | None = None,
) -> tuple[Array, tuple[_Saved, Array, Array | None]]:
    options = _options(numbers, kept)
    (x,) = apart(x)
    z = _transform(x, kept, classes, options)
    row = summary(z, options.computed, across)
    label = pick_across(z, y, across).astype(row.top.dtype)
    valid = in_range(y, count(x, across))
    label = jnp.where(valid if kept is None else valid | ~kept, label, jnp.nan)  # and so the loss and the gradient
    loss = gap(label, row.top)
    mean_gap = None
    if options.label_smoothing is not None:
        each = gap(z, row.top[..., None])
        mean_gap = summed(removed_as(0, each, None, classes) * _share(each, classes, across), across)
        loss = times(1 - options.label_smoothing, loss) + times(options.label_smoothing, mean_gap)
    loss += row.log_total
    if options.z_loss is not None:
        loss += times(options.z_loss, jnp.square(logsumexp(row)))
    loss = jnp.where(row.empty & ~jnp.isnan(label), jnp.inf, loss)
    return loss, (_Saved(x, y, kept, classes, options, row), label, mean_gap)


def indexed_backward(
    saved: tuple[_Saved, Array, Array | None], g: Array, across: AxisName | None = None
) -> tuple[Array | None, ...]:
    (x, y, kept, classes, options, row), label, mean_gap = saved
    z = _transform(x.astype(g.dtype), kept, classes, options)
    g = jnp.where(jnp.isnan(label), jnp.nan, jnp.where(row.empty, 0, g))
    g = g if kept is None else jnp.where(kept, g, 0)
    p_y, at_label = of_label(label, y, z, row, across)
    gradient = g[..., None] * probabilities(z, row, across)[0]
    of_smoothing = of_z_loss = None
    if options.z_loss is not None:
        of_z_loss = times(g, jnp.square(_finite_logsumexp(row)))
        push = 2 * times(options.z_loss, _finite_logsumexp(row))
        gradient *= 1 + push[..., None]
    if options.label_smoothing is not None and mean_gap is not None:
        of_smoothing = times(g, mean_gap - gap(label, row.top))
        share = options.label_smoothing[..., None] * _share(z, classes, across)
        at_label = (1 - options.label_smoothing) * at_label + (options.label_smoothing * p_y - share[..., 0])
        gradient -= jnp.where(z == -jnp.inf, 0, g[..., None] * share)
    if options.z_loss is not None:
        at_label += push * p_y
    at_label = jnp.where(label == -jnp.inf, 0, at_label)
    gradient = jnp.where(at(here(y, z, across), z), (g * at_label)[..., None], gradient)
    gradient, of_cap, of_scale = _transform_backward(gradient, x, kept, classes, options, across)
    return gradient, None, None, None, of_smoothing, of_z_loss, of_cap, of_scale


indexed = every_mode(indexed_forward, indexed_backward)


# What else there is to know of a row: its logits, the entropy, where the maximum is.


def transformed(x: Array, kept: Array | None, classes: Array | None, numbers: tuple[Array | None, ...]) -> Array:
    """The logits that a loss uses; ``numbers`` are the soft_cap and the logit_scale, or none."""
    return _transform(x, kept, classes, _options((None, None, *numbers), kept))


def transformed_backward(
    gradient: Array,
    x: Array,
    kept: Array | None,
    classes: Array | None,
    numbers: tuple[Array | None, ...],
    across: AxisName | None,
) -> tuple[Array, Array | None, Array | None]:
    """The cotangents of x, soft_cap and logit_scale."""
    return _transform_backward(gradient, x, kept, classes, _options((None, None, *numbers), kept), across)


def entropy(saved: _Saved, across: AxisName | None) -> Array:
    """sum_c p_c (m - z_c) + log1p(rest), in nats, of the row that was saved."""
    z, row = _logits(saved), saved.row
    mean_gap = summed(_weighted_gaps(z, row), across) / (1 + row.rest)
    return jnp.where(row.empty, 0, mean_gap + row.log_total)


def entropy_backward(
    saved: _Saved, value: Array, g: Array, across: AxisName | None
) -> tuple[Array, Array | None, Array | None]:
    """The cotangents of x, soft_cap and logit_scale; that of z_c is p_c (-log p_c - entropy)."""
    z, row = _logits(saved), saved.row
    g = jnp.where(row.empty, 0, g) / (1 + row.rest)
    excess = (row.log_total - value)[..., None] * exp_below(z, row.top[..., None])
    gradient = g[..., None] * (_weighted_gaps(z, row) + excess)
    return _transform_backward(gradient, saved.x, saved.kept, saved.classes, saved.options, across)


def is_correct(saved: _Saved, across: AxisName | None) -> Array:
    """Whether the label is the first of the classes with the largest logit."""
    z, y = _logits(saved), saved.labels
    index = lax.broadcasted_iota(y.dtype, z.shape, z.ndim - 1) - here(jnp.zeros_like(y), z, across)[..., None]
    first = jnp.where(z == saved.row.top[..., None], index, count(z, across)).min(-1)
    first = first if across is None else lax.pmin(first, across)
    return (first == y) & in_range(y, count(z, across))


def _logits(saved: _Saved) -> Array:
    return _transform(saved.x, saved.kept, saved.classes, saved.options)


def _weighted_gaps(z: Array, row: Row) -> Array:
    """exp(z_c - m) (m - z_c), 0 for a class of probability 0."""
    top = row.top[..., None]
    return times(exp_below(z, top), gap(z, top))


# With a probability for each class.


def _dense_labels(t: Array, kept: Array | None, classes: Array | None, options: Options, dtype: np.dtype) -> Array:
    t = removed_as(0, t.astype(dtype), kept, classes)
    return t if options.label_smoothing is None else smoothed(t, classes, options.label_smoothing[..., None])


def _finite(top: Array) -> Array:
    largest = jnp.finfo(top.dtype).max
    return jnp.clip(top, -largest, largest)


def _label_gaps(z: Array, labels: Array, top: Array) -> Array:
    """The sum of t_c (m - z_c), of halves, which are finite."""
    (half,) = apart(_finite(top) / 2)
    half = half[..., None]
    gaps = times_bounded(labels, half - jnp.minimum(z.astype(top.dtype) / 2, half)).sum(-1)
    return times(gaps, jnp.where(top == jnp.inf, jnp.inf, 2))  # below an infinite maximum they were finite


class _Dense(NamedTuple):
    saved: _Saved
    mass: Array  # of all labels
    beside: Array  # of those `others`


def _dense_forward(
    x: Array, t: Array, kept: Array | None, classes: Array | None, *numbers: Array | None
) -> tuple[Array, _Dense]:
    options = _options(numbers, kept)
    (x,) = apart(x)
    z = _transform(x, kept, classes, options)
    row = summary(z, options.computed)
    (each,) = apart(t)  # for each sum anew, lest labels of half precision be widened in memory
    mass = _dense_labels(each, kept, classes, options, row.top.dtype).sum(-1)
    z, each, top = apart(z, t, row.top)
    loss = _label_gaps(z, _dense_labels(each, kept, classes, options, top.dtype), top) + times(mass, row.log_total)
    z, each, top = apart(z, t, row.top)
    beside = others(z, top, _dense_labels(each, kept, classes, options, top.dtype))
    if options.z_loss is not None:
        loss += times(options.z_loss, jnp.square(logsumexp(row)))
    loss = jnp.where(row.empty, jnp.inf, loss)
    return loss, _Dense(_Saved(x, t, kept, classes, options, row), mass, beside)


def others(z: Array, top: Array, labels: Array) -> Array:
    """In a row where one class has most of p, the sum of the labels of all others, whose logits are log(2) below.

    The factor of a label is 1 from 1/2 below the maximum on, and 0 up to 1/4: arithmetic for z < m - 1/2.
    """
    (bound,) = apart(_finite(top) - 0.25)
    bound = bound[..., None]
    below = 4 * jnp.minimum(bound - jnp.minimum(z.astype(top.dtype), bound), 0.25)
    return (labels * lax.stop_gradient(below)).sum(-1)


def against(z: Array, row: Row, labels: Array, mass: Array, beside: Array) -> tuple[Array, Array]:
    """s p - t, with s the sum of the labels t, and p. What `others` returns is s - t where rounding would lose it.

    It is exact as it stands in every entry but the maximum's, which near p = 1 needs (s - t) p - t (1 - p).
    """
    p, wrong = probabilities(z, row)
    sure = row.rest < 0.5  # selects a number of the row: a select of entries takes twice as long on a CPU
    beside, less = jnp.where(sure, beside, mass)[..., None], jnp.where(sure, 0, 1)[..., None].astype(p.dtype)
    at_top = (beside - less * labels) * p - labels * wrong
    return jnp.where(z == row.top[..., None], at_top, mass[..., None] * p - labels), p


def _dense_backward(dense: _Dense, g: Array) -> tuple[Array | None, ...]:
    (x, t, kept, classes, options, row), mass, beside = dense
    z = _transform(x.astype(g.dtype), kept, classes, options)
    labels = _dense_labels(t, kept, classes, options, g.dtype)
    g = jnp.where(row.empty if kept is None else row.empty | ~kept, 0, g)[..., None]
    gradient, p = against(z, row, labels, mass, beside)
    of_smoothing = of_z_loss = None
    if options.z_loss is not None:
        of_z_loss = times(g[..., 0], jnp.square(_finite_logsumexp(row)))
        gradient += 2 * times(options.z_loss, _finite_logsumexp(row))[..., None] * p
    gradient = g * jnp.where(z == -jnp.inf, 0, gradient)
    gradient, of_cap, of_scale = _transform_backward(gradient, x, kept, classes, options)
    of_labels = removed_as(0, times(g, surprise(z, row)), kept, classes)
    if options.label_smoothing is not None:
        given = removed_as(0, t.astype(g.dtype), kept, classes)
        of_smoothing = times(_share(z, classes) - given, of_labels).sum(-1)
        of_labels = times(1 - options.label_smoothing[..., None], of_labels)
    return gradient, of_labels, None, None, of_smoothing, of_z_loss, of_cap, of_scale


dense = every_mode(_dense_forward, _dense_backward, infinite=(1,))
