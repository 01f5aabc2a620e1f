"""The mathematics of the softmax cross entropies: rows of logits, the classes on the last axis, and their derivatives.

With z the logits after scale, cap and masks, m their maximum and tail the sum of exp(z_j - m) over all j but one
maximum, logsumexp(z) = m + log1p(tail). So for labels t the loss

    sum_c t_c (logsumexp(z) - z_c)  =  sum_c t_c (m - z_c)  +  (sum_c t_c) log1p(tail)

is a sum of non-negative terms: nothing cancels, neither in confident rows nor in confidently wrong ones.

``class_axis_name`` names the mapped axis over which the classes are split, if they are. Then each device has some
columns, and sums and maxima over a row run over all devices.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .classes import (
    class_sum,
    has_many_entries,
    in_range,
    local_labels,
    num_classes,
    one_hot_mask_of_shards,
    take_label_of_shards,
)
from .compiler import cpu_fusion_barrier, cpu_shortcut
from .derivatives import custom_derivative
from .masks import Mask
from .softmax import (
    Row,
    exp_below,
    finite_logsumexp,
    gap_to_max,
    label_probability,
    logsumexp,
    other_probabilities,
    probabilities,
    summary,
    summary_beside_label,
    surprisal,
)
from .special import at_most, bounded_product, multiply_no_nan, soft_cap, soft_cap_partials
from .types import AxisName


class Options(NamedTuple):
    """One number per row each, or None for the neutral value."""

    label_smoothing: Array | None = None
    z_loss: Array | None = None
    soft_cap: Array | None = None
    logit_scale: Array | None = None

    @property
    def computed(self) -> bool:
        """Whether the logits are computed from those that are given."""
        return self.soft_cap is not None or self.logit_scale is not None


def transform_logits(x: Array, mask: Mask, options: Options) -> Array:
    """The logits z. Masked entries are replaced first, so that nothing overflows on them."""
    x = mask.fill(x)
    if mask.classes is not None:  # not every dtype of 8 bits has an infinity
        x = x.astype(np.promote_types(x.dtype, np.float32))
    if options.logit_scale is not None:
        x = options.logit_scale[..., None] * x.astype(options.logit_scale.dtype)
    if options.soft_cap is not None:
        x = soft_cap(x.astype(options.soft_cap.dtype), options.soft_cap[..., None])
    return mask.fill_classes(x, -jnp.inf)


def transform_logits_backward(
    gradient: Array,
    x: Array,
    mask: Mask,
    options: Options,
    class_axis_name: AxisName | None = None,
) -> tuple[Array, Array | None, Array | None]:
    """The cotangents of x, soft_cap and logit_scale, from that of z."""
    gradient = mask.fill(gradient)
    x = mask.fill(x.astype(gradient.dtype))
    ct_cap = ct_scale = None
    if options.soft_cap is not None:
        scaled = x if options.logit_scale is None else options.logit_scale[..., None] * x
        slope, d_cap = soft_cap_partials(scaled, options.soft_cap[..., None])
        ct_cap = class_sum(multiply_no_nan(gradient, d_cap), class_axis_name)
        gradient = slope * gradient
    if options.logit_scale is not None:
        ct_scale = class_sum(multiply_no_nan(gradient, x), class_axis_name)
        gradient = options.logit_scale[..., None] * gradient
    return gradient, ct_cap, ct_scale


def smooth(t: Array, mask: Mask, alpha: Array, class_axis_name: AxisName | None = None) -> Array:
    """(1 - alpha) t + alpha / K over the K unmasked classes, alpha with the rank of t."""
    return mask.fill_classes((1 - alpha) * t + alpha * _uniform_label(t, mask, class_axis_name))


def _uniform_label(x: Array, mask: Mask, class_axis_name: AxisName | None = None) -> Array | float:
    """1 / K, with the rank of x."""
    if mask.classes is None:
        return 1 / num_classes(x, class_axis_name)
    return 1 / jnp.maximum(mask.classes.sum(-1, keepdims=True), 1).astype(x.dtype)


class Saved(NamedTuple):
    x: Array
    labels: Array
    mask: Mask
    options: Options
    row: Row


# Integer labels: t is 1 at y and 0 elsewhere, and never built. The sum of the exponentials leaves out the label, whose
# place is known. To leave out a maximum takes a second sum.


def indexed_cross_entropy_forward(
    x: Array,
    y: Array,
    mask: Mask,
    options: Options,
    class_axis_name: AxisName | None = None,
) -> tuple[Array, tuple[Saved, Array, Array | None]]:
    options = mask.fill_options(options)
    (x,) = cpu_fusion_barrier(x)
    z = transform_logits(x, mask, options)
    label_logit = _label_logit(z, y, mask, class_axis_name)
    row = summary_beside_label(z, y, label_logit, class_axis_name)
    loss = gap_to_max(label_logit, row.top)
    mean_gap = None
    if options.label_smoothing is not None:
        gaps = gap_to_max(z, row.top[..., None])
        mean_gap = class_sum(mask.fill_classes(gaps) * _uniform_label(gaps, mask, class_axis_name), class_axis_name)
        loss = multiply_no_nan(1 - options.label_smoothing, loss) + multiply_no_nan(options.label_smoothing, mean_gap)
    loss += row.log_total
    if options.z_loss is not None:
        loss += multiply_no_nan(options.z_loss, jnp.square(logsumexp(row)))
    loss = jnp.where(row.empty, jnp.inf, loss)
    return loss, (Saved(x, y, mask, options, row), label_logit, mean_gap)


def _label_logit(z: Array, y: Array, mask: Mask, class_axis_name: AxisName | None) -> Array:
    """The label's logit; NaN for an invalid label, which makes the loss and the gradient NaN."""
    valid = in_range(y, num_classes(z, class_axis_name))
    valid = valid if mask.examples is None else valid | ~mask.examples
    label_logit = take_label_of_shards(z, y, class_axis_name).astype(np.promote_types(z.dtype, np.float32))
    return jnp.where(valid, label_logit, jnp.nan)


def indexed_cross_entropy_backward(
    saved: tuple[Saved, Array, Array | None], g: Array, class_axis_name: AxisName | None = None
) -> tuple[Array, Array | None, None, Options]:
    (x, y, mask, options, row), label_logit, mean_gap = saved
    z = transform_logits(x.astype(g.dtype), mask, options)
    g = jnp.where(jnp.isnan(label_logit), jnp.nan, jnp.where(row.empty, 0, g))
    g = mask.fill_options(g, 0)
    p_y, ct_label_logit = label_probability(label_logit, y, z, row, class_axis_name)
    gradient = g[..., None] * other_probabilities(z, y, row, class_axis_name)
    ct_smoothing = ct_z_loss = None
    if options.z_loss is not None:
        ct_z_loss = multiply_no_nan(g, jnp.square(finite_logsumexp(row)))
        d_z_loss = 2 * multiply_no_nan(options.z_loss, finite_logsumexp(row))
        gradient *= 1 + d_z_loss[..., None]
    if options.label_smoothing is not None and mean_gap is not None:
        ct_smoothing = multiply_no_nan(g, mean_gap - gap_to_max(label_logit, row.top))
        uniform_label = options.label_smoothing[..., None] * _uniform_label(z, mask, class_axis_name)
        ct_label_logit = (1 - options.label_smoothing) * ct_label_logit + (
            options.label_smoothing * p_y - uniform_label[..., 0]
        )
        gradient -= jnp.where(z == -jnp.inf, 0, g[..., None] * uniform_label)
    if options.z_loss is not None:
        ct_label_logit += d_z_loss * p_y
    ct_label_logit = jnp.where(label_logit == -jnp.inf, 0, ct_label_logit)
    gradient = jnp.where(one_hot_mask_of_shards(y, z, class_axis_name), (g * ct_label_logit)[..., None], gradient)
    gradient, ct_cap, ct_scale = transform_logits_backward(gradient, x, mask, options, class_axis_name)
    return gradient, None, None, Options(ct_smoothing, ct_z_loss, ct_cap, ct_scale)


indexed_cross_entropy = custom_derivative(indexed_cross_entropy_forward, indexed_cross_entropy_backward)


# Statistics of a row: its logsumexp, its entropy, the rank of its label.


class LogProbs(NamedTuple):
    """The log-probability of each label, and the entropy of each softmax, in nats, of the shape of the labels."""

    log_prob: Array
    entropy: Array


class TokenMetrics(NamedTuple):
    """Statistics of each token's logits, of the shape of the labels and without derivative.

    ``lse`` is the logsumexp; ``correct`` whether the label has the largest logit, as ``argmax(logits) == label`` says;
    ``entropy`` that of the softmax, in nats; ``rank`` how many classes come before the label: those of a larger logit,
    and of an equal one and a lower index. So ``rank < k`` is top-k accuracy, and ``z_loss * lse**2`` the z-loss. A
    masked token has 0, False, 0 and the number of classes.
    """

    lse: Array
    correct: Array
    entropy: Array
    rank: Array


def summarized(x: Array, y: Array, mask: Mask, options: Options, class_axis_name: AxisName | None = None) -> Saved:
    """The rows with a summary that is exact whatever the label, as an entropy needs it."""
    options = mask.fill_options(options)
    (x,) = cpu_fusion_barrier(x)
    row = summary(transform_logits(x, mask, options), options.computed, class_axis_name)
    return Saved(x, y, mask, options, row)


def measure(
    x: Array, y: Array, mask: Mask, options: Options, class_axis_name: AxisName | None = None
) -> tuple[Array, Array, Array]:
    """The logsumexp, the entropy and the rank as floating numbers."""
    saved = summarized(x, y, mask, options, class_axis_name)
    lse, value = mask.fill_options((logsumexp(saved.row), entropy(saved, class_axis_name)), 0)
    return lse, value, mask.fill_options(_label_rank(saved, class_axis_name), num_classes(x, class_axis_name))


def as_metrics(lse: Array, value: Array, rank: Array) -> TokenMetrics:
    return TokenMetrics(lse, rank == 0, value, rank.astype(np.int32))


def _label_rank(saved: Saved, class_axis_name: AxisName | None) -> Array:
    """How many classes come before the label; all, where it is none or a logit is NaN."""
    z = _logits(saved)
    label_logit = _label_logit(z, saved.labels, saved.mask, class_axis_name)
    z = z.astype(label_logit.dtype)
    local = local_labels(saved.labels, z, class_axis_name)[..., None]
    index = lax.broadcasted_iota(local.dtype, z.shape, z.ndim - 1)
    before = (z > label_logit[..., None]) | ((z == label_logit[..., None]) & (index < local))
    # Not the label itself: another fusion may have rounded its logit in another way.
    count = class_sum((before & (index != local)).astype(z.dtype), class_axis_name)
    return jnp.where(jnp.isnan(label_logit) | jnp.isnan(saved.row.tail), num_classes(z, class_axis_name), count)


def entropy(saved: Saved, class_axis_name: AxisName | None) -> Array:
    """sum_c p_c (m - z_c) + log1p(tail), in nats, of the row that was saved."""
    z, row = _logits(saved), saved.row
    mean_gap = class_sum(_weighted_gaps(z, row), class_axis_name) / (1 + row.tail)
    return jnp.where(row.empty, 0, mean_gap + row.log_total)


def entropy_backward(
    saved: Saved, value: Array, g: Array, class_axis_name: AxisName | None
) -> tuple[Array, Array | None, Array | None]:
    """The cotangents of x, soft_cap and logit_scale; that of z_c is p_c (-log p_c - entropy)."""
    z, row = _logits(saved), saved.row
    g = jnp.where(row.empty, 0, g) / (1 + row.tail)
    correction = (row.log_total - value)[..., None] * exp_below(z, row.top[..., None])
    gradient = g[..., None] * (_weighted_gaps(z, row) + correction)
    return transform_logits_backward(gradient, saved.x, saved.mask, saved.options, class_axis_name)


def _logits(saved: Saved) -> Array:
    return transform_logits(saved.x, saved.mask, saved.options)


def _weighted_gaps(z: Array, row: Row) -> Array:
    """exp(z_c - m) (m - z_c), 0 for a class of probability 0."""
    top = row.top[..., None]
    return multiply_no_nan(exp_below(z, top), gap_to_max(z, top))


# Soft labels: a probability for each class.


def _dense_labels(t: Array, mask: Mask, options: Options, dtype: np.dtype, class_axis_name: AxisName | None) -> Array:
    t = mask.fill(t.astype(dtype))
    if options.label_smoothing is None:
        return t
    return smooth(t, mask, options.label_smoothing[..., None], class_axis_name)


def _finite(top: Array) -> Array:
    largest = jnp.finfo(top.dtype).max
    return jnp.clip(top, -largest, largest)


def _label_gaps(
    x: Array, t: Array, top: Array, mask: Mask, options: Options, class_axis_name: AxisName | None
) -> Array:
    """The sum of t_c (m - z_c), where 0 times infinity is 0.

    On a CPU the gaps are bounded, for that, only if the sum of a row is not finite without bounds.
    """

    def rows(x: Array, t: Array) -> tuple[Array, Array]:
        labels = _dense_labels(t, mask, options, top.dtype, class_axis_name)
        return transform_logits(x, mask, options).astype(top.dtype), labels

    def bounded(x: Array, t: Array, top: Array, _: Array | None = None) -> Array:
        z, labels = rows(x, t)
        (half,) = cpu_fusion_barrier(_finite(top) / 2)  # a difference of halves does not overflow
        half = half[..., None]
        gaps = class_sum(bounded_product(labels, half - at_most(z / 2, half)), class_axis_name)
        return multiply_no_nan(gaps, jnp.where(top == jnp.inf, jnp.inf, 2))  # an infinite maximum was clipped

    as_given = mask.classes is None and not options.computed and x.dtype == t.dtype == top.dtype
    if class_axis_name is not None or not (as_given and has_many_entries(x)):
        return bounded(x, t, top)
    z, labels = rows(x, t)
    gaps = class_sum(labels * (top[..., None] - z), class_axis_name)
    total: Array = cpu_shortcut(~jnp.isfinite(gaps), bounded, lambda x, t, top, gaps: gaps, x, t, top, gaps)
    return total


class _Dense(NamedTuple):
    saved: Saved
    label_sum: Array  # of all labels
    off_max_sum: Array  # of the labels off the maximum, exact in confident rows only


def dense_cross_entropy_forward(
    x: Array, t: Array, mask: Mask, options: Options, class_axis_name: AxisName | None = None
) -> tuple[Array, _Dense]:
    options = mask.fill_options(options)
    (x,) = cpu_fusion_barrier(x)
    row = summary(transform_logits(x, mask, options), options.computed, class_axis_name)
    (t_copy,) = cpu_fusion_barrier(t)  # once per sum, or XLA saves the labels upcast
    labels = _dense_labels(t_copy, mask, options, row.top.dtype, class_axis_name)
    label_sum = class_sum(labels, class_axis_name)
    x_copy, t_copy, top = cpu_fusion_barrier(x, t, row.top)
    loss = _label_gaps(x_copy, t_copy, top, mask, options, class_axis_name)
    loss += multiply_no_nan(label_sum, row.log_total)
    x_copy, t_copy, top = cpu_fusion_barrier(x_copy, t, row.top)
    z = transform_logits(x_copy, mask, options)
    labels = _dense_labels(t_copy, mask, options, top.dtype, class_axis_name)
    off_max_sum = off_max_label_mass(z, top, labels, class_axis_name)
    if options.z_loss is not None:
        loss += multiply_no_nan(options.z_loss, jnp.square(logsumexp(row)))
    loss = jnp.where(row.empty, jnp.inf, loss)
    return loss, _Dense(Saved(x, t, mask, options, row), label_sum, off_max_sum)


def off_max_label_mass(z: Array, top: Array, labels: Array, class_axis_name: AxisName | None = None) -> Array:
    """The sum of the labels off the maximum in confident rows, where their logits are more than log(2) below it.

    A label counts fully if its logit is at least 1/2 below the maximum, and not at all if it is less than 1/4 below,
    linearly between. This replaces the comparison z < m - 1/2, which is slow on CPUs.
    """
    (bound,) = cpu_fusion_barrier(_finite(top) - 0.25)
    bound = bound[..., None]
    below = 4 * jnp.minimum(bound - jnp.minimum(z.astype(top.dtype), bound), 0.25)
    return class_sum(labels * lax.stop_gradient(below), class_axis_name)


def softmax_residual(
    z: Array,
    row: Row,
    labels: Array,
    label_sum: Array,
    off_max_sum: Array,
    class_axis_name: AxisName | None = None,
) -> tuple[Array, Array]:
    """s p - t, with s the sum of the labels t, and p.

    ``off_max_sum``, from `off_max_label_mass`, is s - t at the maximum, where rounding would lose it. The residual is
    exact as it stands in every entry but the maximum's, which near p = 1 needs (s - t) p - t (1 - p).
    """
    p, complement = probabilities(z, row, class_axis_name)
    is_confident = row.tail < 0.5  # selects a number of the row: a select of entries takes twice as long on a CPU
    top_factor = jnp.where(is_confident, off_max_sum, label_sum)[..., None]
    top_labels = jnp.where(is_confident, 0, 1)[..., None].astype(p.dtype) * labels
    at_top = (top_factor - top_labels) * p - labels * complement
    return jnp.where(z == row.top[..., None], at_top, label_sum[..., None] * p - labels), p


def dense_cross_entropy_backward(
    dense: _Dense, g: Array, class_axis_name: AxisName | None = None
) -> tuple[Array, Array | None, None, Options]:
    (x, t, mask, options, row), label_sum, off_max_sum = dense
    z = transform_logits(x.astype(g.dtype), mask, options)
    labels = _dense_labels(t, mask, options, g.dtype, class_axis_name)
    g = jnp.where(row.empty if mask.examples is None else row.empty | ~mask.examples, 0, g)[..., None]
    gradient, p = softmax_residual(z, row, labels, label_sum, off_max_sum, class_axis_name)
    ct_smoothing = ct_z_loss = None
    if options.z_loss is not None:
        ct_z_loss = multiply_no_nan(g[..., 0], jnp.square(finite_logsumexp(row)))
        gradient += 2 * multiply_no_nan(options.z_loss, finite_logsumexp(row))[..., None] * p
    gradient = g * jnp.where(z == -jnp.inf, 0, gradient)
    gradient, ct_cap, ct_scale = transform_logits_backward(gradient, x, mask, options, class_axis_name)
    ct_labels = mask.fill(multiply_no_nan(g, surprisal(z, row, class_axis_name)))
    if options.label_smoothing is not None:
        unsmoothed = mask.fill(t.astype(g.dtype))
        d_smoothing = _uniform_label(z, mask, class_axis_name) - unsmoothed
        ct_smoothing = class_sum(multiply_no_nan(d_smoothing, ct_labels), class_axis_name)
        ct_labels = multiply_no_nan(1 - options.label_smoothing[..., None], ct_labels)
    return gradient, ct_labels, None, Options(ct_smoothing, ct_z_loss, ct_cap, ct_scale)


dense_cross_entropy = custom_derivative(dense_cross_entropy_forward, dense_cross_entropy_backward, infinite=(1,))
