"""Losses whose targets name k classes of each row by index, and no others.

Such a loss depends on k + 1 numbers of a row: the logits of the classes named, and the logsumexp of all others. Of
these, less the row's maximum, `Loss` is a loss of k + 1 classes, so nothing as large as the logits is ever a target.

``class_axis_name`` names the mapped axis over which the classes are split, if they are.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .classes import in_range, is_named, nan_unless, num_classes, one_hot_mask, set_classes, take_classes
from .compiler import reshard, shard_like
from .cross_entropy import Options, dense_cross_entropy, transform_logits, transform_logits_backward
from .masks import Mask, prepare_mask
from .rows import as_rows, defer_upcast
from .softmax import Row, gap_to_max, logsumexp, probabilities
from .softmax import summary as softmax_summary
from .softmax_divergence import softmax_kl
from .special import expm1, multiply_no_nan
from .types import AxisName

PADDING = -1  # an index that names no class


class Summary(NamedTuple):
    """What a loss depends on: of each row, some numbers."""

    logits: Array  # of the k classes named, anything for what names none, and of all others together, less `top`
    top: Array  # the maximum of the row, or 0
    others: Row


Loss = Callable[[Summary, Array, Array, Options], Array]
"""(summary, indices, targets, options) -> losses of rows whose indices are valid."""


def are_valid(indices: Array, classes: int) -> Array:
    """Whether each index of a row names a class, or is padding."""
    return (in_range(indices, classes) | (indices == PADDING)).all(-1)


def _are_distinct(indices: Array) -> Array:
    """Whether no class of a row is named twice."""
    return (_is_first(indices) | (indices == PADDING)).all(-1)


def _equal(indices: Array) -> Array:
    """[..., k, k]: whether two indices of a row are the same."""
    return indices[..., :, None] == indices[..., None, :]


def _is_first(indices: Array) -> Array:
    """Whether an index names a class, and is the first of its row that does."""
    return (indices != PADDING) & ~jnp.tril(_equal(indices), -1).any(-1)


def _summarize(z: Array, indices: Array, relative: bool, class_axis_name: AxisName | None) -> Summary:
    others = softmax_summary(_others(z, indices, class_axis_name), any(jax.typeof(z).sharding.spec), class_axis_name)
    named = take_classes(z, indices, class_axis_name).astype(others.top.dtype)
    named = jnp.where(_is_first(indices), named, others.top[..., None])
    top = lax.stop_gradient(jnp.maximum(named.max(-1), others.top)) if relative else jnp.zeros_like(others.top)
    of_others = others.log_total - gap_to_max(others.top, top)
    logits = _append(
        jnp.where(named == -jnp.inf, -jnp.inf, -gap_to_max(named, top[..., None])),
        jnp.where(others.empty, -jnp.inf, of_others),
    )
    return Summary(logits, top, others)


def _masked(logits: Array, indices: Array) -> Array:
    """The logits with -inf for what names no class: not saved as such, so that debuggers find no infinity."""
    return jnp.where(_append(_is_first(indices), jnp.ones_like(indices[..., 0], bool)), logits, -jnp.inf)


def _others(z: Array, indices: Array, class_axis_name: AxisName | None) -> Array:
    z = z if z.dtype.itemsize > 1 else z.astype(np.float32)  # not every dtype of 8 bits has an infinity
    return jnp.where(is_named(indices, z, class_axis_name), -jnp.inf, z)


def _append(of_named: Array, of_others: Array) -> Array:
    return jnp.concatenate([of_named, of_others[..., None].astype(of_named.dtype)], -1)


class _Saved(NamedTuple):
    x: Array
    indices: Array
    targets: Array
    mask: Mask
    options: Options
    summary: Summary


class Pair(NamedTuple):
    """The functions of `custom_derivative`, of rows of logits. Rows of invalid indices are NaN, as are cotangents."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]


def _pair(loss: Loss, relative: bool = True) -> Pair:
    """If not ``relative``, ``top`` is 0: a loss of the classes named alone needs no maximum, and their differences from
    it would be rounded.
    """

    def forward(
        x: Array,
        indices: Array,
        targets: Array,
        mask: Mask,
        options: Options,
        class_axis_name: AxisName | None = None,
    ) -> tuple[Array, _Saved]:
        options = mask.fill_options(options)
        indices, targets = mask.fill_examples(indices, PADDING), mask.fill_examples(targets)
        summary = _summarize(transform_logits(x, mask, options), indices, relative, class_axis_name)
        losses = loss(summary._replace(logits=_masked(summary.logits, indices)), indices, targets, options)
        losses = jnp.where(are_valid(indices, num_classes(x, class_axis_name)), losses, jnp.nan)
        return losses, _Saved(x, indices, targets, mask, options, summary)

    def backward(
        saved: _Saved, g: Array, class_axis_name: AxisName | None = None
    ) -> tuple[Array, None, Array, None, Options]:
        x, indices, targets, mask, options, summary = saved
        g = mask.fill_options(jnp.where(are_valid(indices, num_classes(x, class_axis_name)), g, jnp.nan), 0)

        def of_arrays(logits: Array, targets: Array, z_loss: Array | None) -> Array:
            return loss(summary._replace(logits=logits), indices, targets, Options(z_loss=z_loss))

        logits = _masked(summary.logits, indices)
        _, pullback = jax.vjp(of_arrays, logits, targets.astype(g.dtype), options.z_loss)
        ct_logits, ct_targets, ct_z_loss = pullback(g)
        others = _others(transform_logits(x, mask, options), indices, class_axis_name)
        p_of_others, _ = probabilities(others, summary.others, class_axis_name)
        first = jnp.where(_is_first(indices), indices, PADDING)
        gradient = set_classes(ct_logits[..., -1:] * p_of_others, first, ct_logits[..., :-1], class_axis_name)
        gradient, ct_cap, ct_scale = transform_logits_backward(gradient, x, mask, options, class_axis_name)
        return gradient, None, ct_targets, None, Options(None, ct_z_loss, ct_cap, ct_scale)

    return Pair(forward, backward)


def _cross_entropy(summary: Summary, indices: Array, labels: Array, options: Options) -> Array:
    """Labels are the probabilities of the classes named; those of a class that is named twice are added up."""
    labels = labels.astype(summary.logits.dtype)
    added = jnp.where(_equal(indices), labels[..., None, :], 0).sum(-1)
    labels = _append(jnp.where(_is_first(indices), added, 0), jnp.zeros_like(summary.top))
    losses = dense_cross_entropy(summary.logits, labels, Mask(), Options())
    if options.z_loss is not None:
        empty = (summary.logits == -jnp.inf).all(-1, keepdims=True)
        row = softmax_summary(jnp.where(empty, 0, summary.logits))
        losses += multiply_no_nan(options.z_loss, jnp.square(summary.top + logsumexp(row)))
    return losses


Rest = Literal["bucket", "renormalize", "drop"]
"""What a divergence makes of the classes that are not named."""


def _kl_divergence(rest: Rest) -> Loss:
    """The divergence from a teacher whose log-probabilities of the classes named are the targets."""

    def loss(summary: Summary, indices: Array, log_probs: Array, options: Options) -> Array:
        student = summary.logits
        teacher = jnp.where(indices == PADDING, -jnp.inf, log_probs.astype(student.dtype))
        if rest == "drop":
            student = student[..., :-1]
        elif rest == "renormalize":
            teacher = _append(teacher, jnp.full_like(summary.top, -jnp.inf))
        else:
            # 1 - sum t, from 1 - t of the largest t, which may be near 1. By rounding it may be negative, and positive
            # where no class is left.
            largest = one_hot_mask(teacher.argmax(-1), teacher)
            r = -jnp.where(largest, expm1(teacher), jnp.exp(teacher)).sum(-1)
            has_rest = (r > 0) & ~summary.others.empty
            teacher = _append(teacher, jnp.where(has_rest, jnp.log(jnp.where(has_rest, r, 1)), -jnp.inf))
        losses = softmax_kl(student, teacher, Mask(), None)
        losses = jnp.where((indices == PADDING).all(-1), 0, losses)  # of nothing
        return losses * nan_unless(_are_distinct(indices), losses.dtype)

    return loss


CROSS_ENTROPY = _pair(_cross_entropy)
KL_DIVERGENCES: dict[str, Pair] = {
    rest: _pair(_kl_divergence(rest), relative=rest != "drop") for rest in get_args(Rest)
}


def kl_divergence(name: str, rest: Rest) -> Pair:
    if not isinstance(rest, str) or rest not in KL_DIVERGENCES:
        raise ValueError(f"{name}: expected `rest` to be one of {get_args(Rest)}, got {rest!r}.")
    return KL_DIVERGENCES[rest]


def prepare_named(
    name: str, indices: ArrayLike, argument: str, targets: ArrayLike | None, shape: tuple[int, ...], axis: int = -1
) -> tuple[Array, Array]:
    """The indices and the targets of rows of that shape; without targets, a probability of 1 / n for n indices."""
    i = arguments.signed_integer(name, "indices", indices)
    axis = axis % (len(shape) + 1)
    k = i.shape[axis] if i.ndim == len(shape) + 1 else 1
    hint = "; the classes that are named, padded with -1"
    arguments.same_shape(name, "indices", i, (*shape[:axis], k, *shape[axis:]), hint)
    if not k:  # of no classes
        i = jnp.full((*shape[:axis], 1, *shape[axis:]), PADDING, i.dtype)
        targets = None if targets is None else jnp.zeros(i.shape, arguments.real(name, argument, targets).dtype)
    if targets is not None:
        t = arguments.real(name, argument, targets)
        arguments.same_shape(name, argument, t, i.shape, "; a number for each of `indices`")
        t = t if jnp.issubdtype(t.dtype, np.floating) else t.astype(np.float32)
        return jnp.moveaxis(i, axis, -1), jnp.moveaxis(t, axis, -1)
    i = jnp.moveaxis(i, axis, -1)
    named = (i != PADDING).astype(np.float32)
    return i, named / jnp.maximum(named.sum(-1, keepdims=True), 1)


def prepare_named_rows(
    name: str,
    logits: ArrayLike,
    indices: ArrayLike,
    argument: str,
    targets: ArrayLike | None,
    axis: int,
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[Array, Array, Array, Mask]:
    """The prologue of losses of logits: the rows, the indices, the targets, the mask of examples."""
    x = arguments.floating(name, "logits", logits)
    axis = arguments.class_axis(name, axis, x.shape)
    x = as_rows(x, (axis,))
    i, t = prepare_named(name, indices, argument, targets, x.shape[:-1], axis)
    dtype = arguments.compute_dtype(x, t)
    mask = prepare_mask(name, where, weights, x.shape[:-1], dtype).exclude(are_valid(i, x.shape[-1]))
    spec = jax.typeof(x).sharding.spec
    if any(spec):  # see `shard_like`
        i, t = (reshard(a, jax.sharding.PartitionSpec(*spec[:-1], None), x) for a in (i, t))
    return defer_upcast(x, dtype), i, t, shard_like(x, mask)
