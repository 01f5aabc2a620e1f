"""The softmax of rows of logits: a summary of each row, probabilities, their logarithms, and their derivatives."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .classes import class_max, class_sum, one_hot_mask_of_shards, take_label_of_shards
from .compiler import cpu_fusion_barrier
from .special import subtract_no_nan
from .types import AxisName


class Row(NamedTuple):
    """A summary of the logits z, with the maximum m: one number per row each."""

    top: Array  # m
    tail: Array  # the sum of exp(z_j - m) over all j but one maximum
    log_total: Array  # log1p(tail) = logsumexp(z) - m

    @property
    def empty(self) -> Array:
        """Whether all logits are -inf. On a CPU, XLA's maximum of NaN alone is -inf, too."""
        return (self.top == -jnp.inf) & ~jnp.isnan(self.tail)


def logsumexp(row: Row) -> Array:
    return row.top + row.log_total


def finite_logsumexp(row: Row) -> Array:
    """The logsumexp, 0 for a row of -inf, which has no gradient."""
    return jnp.where(row.empty, 0, row.top) + row.log_total


def exp_below(z: Array, top: Array) -> Array:
    """exp(z - m), 1 at an infinite maximum too; m with an axis of size 1 for the classes."""
    largest = jnp.finfo(top.dtype).max
    return jnp.exp(jnp.minimum(z.astype(top.dtype), largest) - jnp.clip(top, -largest, largest))


def exp_sum(z: Array, top: Array, classes: Array) -> Array:
    """The sum of classes * exp(z - m), where ``classes`` is 1 for the classes to add up and 0 elsewhere.

    It repeats `exp_below` behind barriers: on a CPU a value that a sum shares with another pass is written to memory.
    """
    largest = jnp.asarray(jnp.finfo(top.dtype).max, top.dtype)
    classes, largest, finite_top = cpu_fusion_barrier(classes, largest, jnp.clip(top, -largest, largest))
    return (jnp.exp(jnp.minimum(z.astype(top.dtype), largest) - finite_top[..., None]) * classes).sum(-1)


def gap_to_max(z: Array, top: Array) -> Array:
    """m - z, 0 at an infinite maximum too."""
    return subtract_no_nan(top, z.astype(top.dtype))


def summary(z: Array, computed: bool = False, class_axis_name: AxisName | None = None) -> Row:
    """The summary of each row. ``computed`` logits may not be in memory, which `_tail_by_bound` needs."""
    top = class_max(z, class_axis_name).astype(np.promote_types(z.dtype, np.float32))
    tail = _tail_by_select(z, top, class_axis_name) if computed else _tail(z, top, class_axis_name)
    return Row(top, tail, jnp.log1p(tail))


def summary_beside_label(z: Array, y: Array, label_logit: Array, class_axis_name: AxisName | None = None) -> Row:
    """The summary of a row whose label has the logit z_y: tail = exp(z_y - m) - 1 + sum of exp(z_j - m) over j != y.

    It takes one sum. Where the label is a maximum, the tail is that sum, exactly. Where another class is, the loss is
    at least log(2), beside which the rounding of the tail, an eps, does not count, unless a z-loss multiplies it by far
    more than 1. The tail is NaN if z_y is.
    """
    top = class_max(z, class_axis_name).astype(label_logit.dtype)
    others = class_sum(_exp_beside_label(z, y, top, class_axis_name), class_axis_name)
    tail = others + jnp.expm1(-gap_to_max(label_logit, top))
    return Row(top, tail, jnp.log1p(tail))


def _exp_beside_label(z: Array, y: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    """exp(z - m), 0 at the label."""
    return jnp.where(one_hot_mask_of_shards(y, z, class_axis_name), 0, exp_below(z, top[..., None]))


def _tail_by_select(z: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    """The sum of exp(z_j - m) over all j but one maximum, with its derivative. 0 for a row of -inf."""
    z, m = z.astype(top.dtype), top[..., None]
    exp = exp_below(z, m)
    maxima = class_sum(jnp.where(z == m, exp, 0), class_axis_name)
    return class_sum(jnp.where(z < m, exp, 0), class_axis_name) + jnp.where(top == -jnp.inf, 0, maxima - 1)


def _tail_by_bound(z: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    """The same without comparisons, which make XLA's sums of rows several times slower on a CPU.

    If the total is below 1.5, all exponentials but the maximum's are below 1/2, where min(exp, 1 - exp) is exp.
    Otherwise subtracting 1 is exact enough. The logits have to be in memory: a fusion that computes them twice, for m
    and for exp, may round them in two ways.
    """
    exp = exp_below(z, top[..., None])
    (one,) = cpu_fusion_barrier(jnp.ones((), exp.dtype))  # one that two passes share is written as an array
    total, below = class_sum(exp, class_axis_name), class_sum(jnp.minimum(exp, one - exp), class_axis_name)
    constant = lax.stop_gradient
    return constant(jnp.where(total < 1.5, below, total - 1)) + (
        total - constant(total)
    )  # the value of the exact branch, the derivative of `total`


def _tail(z: Array, top: Array, class_axis_name: AxisName | None) -> Array:
    on_cpu, elsewhere = (partial(tail, class_axis_name=class_axis_name) for tail in (_tail_by_bound, _tail_by_select))
    tail: Array = lax.platform_dependent(z, top, cpu=on_cpu, default=elsewhere)
    return tail


# Probabilities and their logarithms have their own rules. Where one class has most of the probability, its derivative
# is a difference of large terms that loses the other classes, so tangents are taken relative to that class. Each rule
# is the total derivative by z and ignores the tangent of the row: in a scan JAX inlines some of these functions.


def _relative_tangent(z: Array, row: Row, v: Array, class_axis_name: AxisName | None) -> Array:
    """The tangent v minus that of a class with most of the probability. Only differences of tangents matter."""
    v = v.astype(row.top.dtype)
    # The other classes of a confident row are more than log(2) below.
    is_confident = (row.tail < 0.5)[..., None] & (gap_to_max(z, row.top[..., None]) < 0.5)
    return jnp.where(is_confident, 0, v - class_sum(jnp.where(is_confident, v, 0), class_axis_name)[..., None])


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def probabilities(z: Array, row: Row, class_axis_name: AxisName | None = None) -> tuple[Array, Array]:
    """p and 1 - p = (1 - exp + tail) / (1 + tail), where 1 - exp is 0 or tail contains exp: nothing cancels."""
    slope = (1 / (1 + row.tail))[..., None]
    exp = exp_below(z, row.top[..., None])
    # Not as 1 - exp, which XLA would share with `_tail_by_bound` and save.
    return slope * exp, slope * (row.tail[..., None] - (exp - 1))


@probabilities.defjvp
def _(class_axis_name: AxisName | None, primals: tuple[Array, Row], tangents: tuple[Array, Row]) -> Any:
    p, complement = probabilities(*primals, class_axis_name)
    v = _relative_tangent(*primals, tangents[0], class_axis_name)
    tangent = p * (v - class_sum(p * v, class_axis_name)[..., None])
    return (p, complement), (tangent, -tangent)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def other_probabilities(z: Array, y: Array, row: Row, class_axis_name: AxisName | None = None) -> Array:
    """p, 0 at the label."""
    return (1 / (1 + row.tail))[..., None] * _exp_beside_label(z, y, row.top, class_axis_name)


@other_probabilities.defjvp
def _(class_axis_name: AxisName | None, primals: Any, tangents: Any) -> Any:
    z, y, row = primals
    of_all = partial(probabilities, class_axis_name=class_axis_name)
    _, (tangent, _) = jax.jvp(of_all, (z, row), (tangents[0], tangents[2]))
    is_label = one_hot_mask_of_shards(y, z, class_axis_name)
    return other_probabilities(*primals, class_axis_name), jnp.where(is_label, 0, tangent)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def label_probability(
    label_logit: Array, y: Array, z: Array, row: Row, class_axis_name: AxisName | None = None
) -> tuple[Array, Array]:
    """p of the label y, whose z is known, and p - 1 = (exp - 1 - tail) / (1 + tail), where exp - 1 is exact."""
    distance = gap_to_max(label_logit, row.top)
    slope = 1 / (1 + row.tail)
    return slope * jnp.exp(-distance), slope * (jnp.expm1(-distance) - row.tail)


@label_probability.defjvp
def _(class_axis_name: AxisName | None, primals: Any, tangents: Any) -> Any:
    _, y, z, row = primals
    p, minus_complement = label_probability(*primals, class_axis_name)
    v = _relative_tangent(z, row, tangents[2], class_axis_name)
    mean = class_sum(probabilities(z, row, class_axis_name)[0] * v, class_axis_name)
    tangent = p * (take_label_of_shards(v, y, class_axis_name) - mean)
    return (p, minus_complement), (tangent, tangent)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def surprisal(z: Array, row: Row, class_axis_name: AxisName | None = None) -> Array:
    """-log p_c = m - z_c + log1p(tail), a sum of two non-negative terms."""
    return gap_to_max(z, row.top[..., None]) + row.log_total[..., None]


@surprisal.defjvp
def _(class_axis_name: AxisName | None, primals: tuple[Array, Row], tangents: tuple[Array, Row]) -> Any:
    v = jnp.where(primals[0] == -jnp.inf, 0, _relative_tangent(*primals, tangents[0], class_axis_name))
    mean = class_sum(probabilities(*primals, class_axis_name)[0] * v, class_axis_name)
    return surprisal(*primals, class_axis_name), mean[..., None] - v
