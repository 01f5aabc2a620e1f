"""Batches of sequences: which steps are not padded, and the classes of a few labels in each step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from . import arguments
from .compiler import cpu_fusion_barrier, reshard
from .masks import Mask, prepare_mask
from .special import log1p_of_ratio


class Sequences(NamedTuple):
    """Labels and frames, without what is padded or masked."""

    blank: int
    labels: Array  # [..., n], the blank where padded
    counts: Array  # [...], the number of labels
    frames: Array | None  # [..., frames], False where padded
    label_mask: Array | None  # [..., n], False where padded
    valid: Array  # [...]
    mask: Mask  # [...]


def prepare_sequences(
    name: str,
    shape: tuple[int, ...],
    classes: int,
    labels: ArrayLike | None,
    paddings: tuple[ArrayLike | None, ArrayLike | None],
    lengths: tuple[ArrayLike | None, ArrayLike | None],
    blank_id: int,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    dtype: np.dtype,
    nan: Array,
) -> Sequences:
    """For frames [..., frames] of that shape; the paddings and the lengths are those of frames and of labels.

    ``nan`` says which frames contain NaN: a sequence of weight 0 that contains NaN is masked.
    """
    *batch, _ = shape
    if labels is None:
        raise TypeError(f"{name}: expected `labels` to be an array, got None; pass `labels=`.")
    y = arguments.integer(name, "labels", labels)
    if y.shape[:-1] != tuple(batch) or y.ndim == 0:
        expected = "".join(f"{n}, " for n in batch)
        advice = ""
        if len(shape) == 2 and y.ndim == 2 and y.shape[0] == shape[1]:
            advice = " Logits are batch first: use `jnp.swapaxes(logits, 0, 1)` if these are (frames, batch, ...)."
        raise ValueError(f"{name}: expected `labels` of shape ({expected}n), got {y.shape}.{advice}")
    blank = class_of_blank(name, blank_id, classes)
    frames, valid_frames = steps(name, "logit", paddings[0], lengths[0], shape)
    label_mask, valid_lengths = steps(name, "label", paddings[1], lengths[1], y.shape)
    valid_labels = (y >= 0) & (y < classes) & (y != blank)
    if label_mask is not None:
        valid_labels |= ~label_mask
        valid_lengths &= ~(label_mask[..., 1:] & ~label_mask[..., :-1]).any(-1)
    valid = valid_labels.all(-1) & valid_frames & valid_lengths
    mask = prepare_mask(name, where, weights, tuple(batch), dtype)
    if mask.weight is not None:
        mask = mask.exclude(valid & ~(nan if frames is None else nan & frames).any(-1))
    if mask.examples is not None:
        frames, label_mask = (
            _unmasked_steps(mask.examples, step_mask, step_shape)
            for step_mask, step_shape in ((frames, shape), (label_mask, y.shape))
        )
        valid |= ~mask.examples
    if label_mask is not None:
        y, valid_labels = jnp.where(label_mask, y, blank), valid_labels | ~label_mask
    counts = jnp.full_like(valid, y.shape[-1], np.int32) if label_mask is None else label_mask.sum(-1, dtype=np.int32)
    return Sequences(blank, jnp.where(valid_labels, y, blank), counts, frames, label_mask, valid, mask)


def shard_like_logits(x: Array, sequences: Sequences) -> Sequences:
    """The sequences of logits [..., frames, classes], split over devices as these are: an explicit mesh wants that."""
    batch = tuple(jax.typeof(x).sharding.spec)[:-2]
    if not any(batch):
        return sequences
    placed: Any = jax.tree.map(
        lambda a: reshard(a, PartitionSpec(*batch, *[None] * (a.ndim - len(batch))), x), sequences[1:]
    )
    return Sequences(sequences.blank, *placed)


def _unmasked_steps(examples: Array, steps: Array | None, shape: tuple[int, ...]) -> Array:
    """The steps of unmasked sequences."""
    return jnp.broadcast_to(examples[..., None], shape) if steps is None else steps & examples[..., None]


def class_of_blank(name: str, blank_id: int, classes: int) -> int:
    if isinstance(blank_id, bool) or not isinstance(blank_id, (int, np.integer)) or not -classes <= blank_id < classes:
        raise ValueError(f"{name}: expected `blank_id` to be an integer in [-{classes}, {classes}), got {blank_id!r}.")
    return int(blank_id) % classes


def steps(
    name: str, what: str, paddings: ArrayLike | None, lengths: ArrayLike | None, shape: tuple[int, ...]
) -> tuple[Array | None, Array]:
    """Which steps are not padded, None for all; and which sequences have a possible length."""
    if paddings is not None and lengths is not None:
        raise ValueError(f"{name}: expected `{what}_paddings` or `{what}_lengths`, got both.")
    valid = jnp.ones(shape[:-1], bool)
    if paddings is not None:
        padded = arguments.real(name, f"{what}_paddings", paddings)
        arguments.same_shape(name, f"{what}_paddings", padded, shape)
        return ~padded if padded.dtype == np.bool_ else padded == 0, valid
    if lengths is not None:
        length = arguments.integer(name, f"{what}_lengths", lengths)
        arguments.same_shape(name, f"{what}_lengths", length, shape[:-1])
        present = lax.broadcasted_iota(np.int32, shape, len(shape) - 1) < length[..., None].astype(np.int32)
        return present, (length >= 0) & (length <= shape[-1])
    return None, valid


def select_step(present: Array | None, new: tuple[Array, Array], old: tuple[Array, Array]) -> tuple[Array, Array]:
    """The new states of sequences with this frame, the old ones where it is padded."""
    if present is None:
        return new
    return jnp.where(present[..., None], new[0], old[0]), jnp.where(present[..., None], new[1], old[1])


def shifted(x: Array, fill: float) -> Array:
    """The entries, moved by one place to the right."""
    return jnp.concatenate([jnp.full_like(x[..., :1], fill), x[..., :-1]], -1)


def shifted_back(x: Array) -> Array:
    return jnp.concatenate([x[..., 1:], jnp.zeros_like(x[..., :1])], -1)


def repeated_labels(y: Array) -> Array:
    """Whether the next label is the same; False for the last one."""
    return shifted_back(y + 1) == y + 1


def log_add(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """log(exp a + exp b); a - b, 0 if both are -inf; and the lesser exponential over the greater.

    The greater is selected: the derivatives of a maximum and of an absolute value are not those of the sum where a = b.
    """
    both_zero = (a == -jnp.inf) & (b == -jnp.inf)
    d = jnp.where(both_zero, 0, a) - jnp.where(both_zero, 0, b)
    b_is_greater = d < 0
    (ratio,) = cpu_fusion_barrier(jnp.exp(jnp.where(b_is_greater, d, -d)))
    return jnp.where(b_is_greater, b, a) + log1p_of_ratio(ratio), d, ratio


def _one_hot(labels: Array, classes: int, dtype: np.dtype) -> Array:
    return (lax.broadcasted_iota(labels.dtype, (*labels.shape, classes), labels.ndim) == labels[..., None]).astype(
        dtype
    )


@jax.custom_jvp
def pick_several(x: Array, labels: Array) -> Array:
    """x [..., steps, classes] at labels [..., n], in each step: [..., steps, n]."""
    return jnp.take_along_axis(x, labels[..., None, :], -1)


@pick_several.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, object]) -> tuple[Array, Array]:
    # The transpose of a gather would be a scatter, which explicit meshes refuse.
    (x, labels), (t, _) = primals, tangents
    table = _one_hot(labels, x.shape[-1], t.dtype)
    return pick_several(x, labels), jnp.einsum("...tk,...nk->...tn", t, table, precision=lax.Precision.HIGHEST)


def spread(x: Array, labels: Array, classes: int) -> Array:
    """The transpose: x [..., steps, n] summed into the classes of its labels, [..., steps, classes]."""
    return jnp.einsum("...tn,...nk->...tk", x, _one_hot(labels, classes, x.dtype), precision=lax.Precision.HIGHEST)
