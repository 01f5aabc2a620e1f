"""The softmax of rows of logits: what is kept of a row, probabilities, their logarithms, and derivatives of these."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .classes import class_max, class_sum, take_label_of_shards
from .compiler import cpu_fusion_barrier
from .special import subtract_no_nan
from .types import AxisName


class Row(NamedTuple):
    """What is kept of the logits: one number a row each."""

    top: Array  # m
    rest: Array
    log_total: Array  # log1p(rest) = logsumexp(z) - m

    @property
    def empty(self) -> Array:
        """Whether all logits are -inf. On a CPU, XLA's maximum of NaN alone is -inf, too."""
        return (self.top == -jnp.inf) & ~jnp.isnan(self.rest)


def logsumexp(row: Row) -> Array:
    return row.top + row.log_total


def finite_logsumexp(row: Row) -> Array:
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
    classes, largest, finite_top = cpu_fusion_barrier(classes, largest, jnp.clip(top, -largest, largest))
    return (jnp.exp(jnp.minimum(z.astype(top.dtype), largest) - finite_top[..., None]) * classes).sum(-1)


def gap_to_max(z: Array, top: Array) -> Array:
    """m - z, 0 at an infinite maximum too."""
    return subtract_no_nan(top, z.astype(top.dtype))


def summary(z: Array, computed: bool = False, class_axis_name: AxisName | None = None) -> Row:
    top = class_max(z, class_axis_name).astype(np.promote_types(z.dtype, np.float32))
    rest = _rest_by_select(z, top, class_axis_name) if computed else _rest(z, top, class_axis_name)
    return Row(top, rest, jnp.log1p(rest))


def _rest_by_select(z: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    """The sum of exp(z_j - m) over all j but one maximum, whose exp is 1 and yet has a derivative. Of none, 0."""
    z, m = z.astype(top.dtype), top[..., None]
    exp = exp_below(z, m)
    maxima = class_sum(jnp.where(z == m, exp, 0), class_axis_name)
    return class_sum(jnp.where(z < m, exp, 0), class_axis_name) + jnp.where(top == -jnp.inf, 0, maxima - 1)


def _rest_by_bound(z: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    """The same. On a CPU, XLA sums a row several times faster if no comparison stands in the way.

    If everything sums to less than 1.5, all but the maximum's exp(0) = 1 is below 1/2, where min(exp, 1 - exp) is exp;
    else 1 may be subtracted. That takes logits that are in memory: those that a fusion computes again, once for m and
    once for exp, may differ in the last digit.
    """
    exp = exp_below(z, top[..., None])
    every, below = class_sum(exp, class_axis_name), class_sum(jnp.minimum(exp, 1 - exp), class_axis_name)
    constant = lax.stop_gradient
    return constant(jnp.where(every < 1.5, below, every - 1)) + (every - constant(every))  # the derivative of `every`


def _rest(z: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    by_bound, by_select = (partial(rest, class_axis_name=class_axis_name) for rest in (_rest_by_bound, _rest_by_select))
    rest: Array = lax.platform_dependent(z, top, cpu=by_bound, default=by_select)
    return rest


# Probabilities and their logarithms have rules of their own: where one class has most of the probability, what its
# logit does to it is a difference of large terms, in which the others would be lost; so tangents are those beside that
# class. Each rule is true by itself, and not beside that of m alone: in a scan JAX inlines some functions, some not.


def _moving(z: Array, row: Row, v: Array, class_axis_name: AxisName | None) -> Array:
    """The tangent v, of which only differences count, less that of a class that has most of the probability."""
    v = v.astype(row.top.dtype)
    is_confident = (row.rest < 0.5)[..., None] & (gap_to_max(z, row.top[..., None]) < 0.5)  # others are log(2) below
    return jnp.where(is_confident, 0, v - class_sum(jnp.where(is_confident, v, 0), class_axis_name)[..., None])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def probabilities(z: Array, row: Row, class_axis_name: AxisName | None = None) -> tuple[Array, Array]:
    """p and 1 - p = (1 - exp + rest) / (1 + rest), where 1 - exp is 0 or rest contains exp: nothing cancels."""
    slope = (1 / (1 + row.rest))[..., None]
    exp = exp_below(z, row.top[..., None])
    return slope * exp, slope * (row.rest[..., None] - (exp - 1))  # as 1 - exp, which `_rest` has, it would be kept


@probabilities.defjvp
def _(class_axis_name: AxisName | None, primals: tuple[Array, Row], tangents: tuple[Array, Row]) -> Any:
    p, wrong = probabilities(*primals, class_axis_name)
    v = _moving(*primals, tangents[0], class_axis_name)
    tangent = p * (v - class_sum(p * v, class_axis_name)[..., None])
    return (p, wrong), (tangent, -tangent)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def label_probability(
    label: Array, y: Array, z: Array, row: Row, class_axis_name: AxisName | None = None
) -> tuple[Array, Array]:
    """p of the label y, whose z is known, and p - 1 = (exp - 1 - rest) / (1 + rest), where exp - 1 is exact."""
    distance = gap_to_max(label, row.top)
    slope = 1 / (1 + row.rest)
    return slope * jnp.exp(-distance), slope * (jnp.expm1(-distance) - row.rest)


@label_probability.defjvp
def _(class_axis_name: AxisName | None, primals: Any, tangents: Any) -> Any:
    _, y, z, row = primals
    p, miss = label_probability(*primals, class_axis_name)
    v = _moving(z, row, tangents[2], class_axis_name)
    mean = class_sum(probabilities(z, row, class_axis_name)[0] * v, class_axis_name)
    tangent = p * (take_label_of_shards(v, y, class_axis_name) - mean)
    return (p, miss), (tangent, tangent)


@jax.custom_jvp
def surprisal(z: Array, row: Row) -> Array:
    """-log p_c = m - z_c + log1p(rest), of two terms that are not negative."""
    return gap_to_max(z, row.top[..., None]) + row.log_total[..., None]


@surprisal.defjvp
def _(primals: tuple[Array, Row], tangents: tuple[Array, Row]) -> tuple[Array, Array]:
    v = jnp.where(primals[0] == -jnp.inf, 0, _moving(*primals, tangents[0], None))
    return surprisal(*primals), (probabilities(*primals)[0] * v).sum(-1, keepdims=True) - v
