"""The transducer (RNN-T): the probability of a sequence of labels, over all its alignments to frames, one label a step.

The nodes of a lattice are the pairs of t frames that are over and u labels that are out. From each of them a blank
leads to the next frame, with log-probability blank(t, u), and the next label stays in the frame, with label(t, u):

    alpha(t, u)  =  log(exp(alpha(t-1, u) + blank(t-1, u)) + exp(alpha(t, u-1) + label(t, u-1)))

from alpha(0, 0) = 0. The sequence's probability is exp alpha(T, U), so the last arc is a blank. A logarithm near 0 is
computed again by `_core/confident_sequences`, for which the other classes of a node are summed, too. What is kept of
each node for the derivative is the difference of the two sums, whose sigmoid is the share of the first. With the shares
the posterior of each arc goes back from the last node to the first by products and sums of non-negative numbers alone.

All nodes of a diagonal, where t + u is the same, are computed at once, and have made the same number of steps: their
largest is subtracted after each. Arrays by diagonals have entry (t, u) at (t + u, u). A frame that is not there is a
blank of probability 1. So is every node after the last frame: what ends too early never reaches the last label.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments, confident_sequences
from ._core.classes import class_max, nan_unless, one_hot_mask, take_label
from ._core.compiler import compiled, cpu_fusion_barrier, match_varying_axes
from ._core.confident_sequences import LOG_2, exactly
from ._core.derivatives import custom_derivative
from ._core.masks import Mask
from ._core.sequences import Sequences, log_add, prepare_sequences, shifted, shifted_back
from ._core.softmax import Row, exp_below, exp_sum, gap_to_max, probabilities
from ._core.special import expm1, sigmoids
from ._core.types import Reduction


class _Lattice(NamedTuple):
    sequences: Sequences
    labels: Array  # [..., n + 1], and a blank after the last one
    after: Array | None  # [..., n + 1], whether so many labels may be out
    nodes: Array | None  # [..., frames, n + 1], of those in frames that are there
    fastemit: Array | None


def _lattice(
    name: str,
    x: Array | jax.ShapeDtypeStruct,
    nan: Array,
    blank_id: int,
    labels: ArrayLike | None,
    paddings: tuple[ArrayLike | None, ArrayLike | None],
    lengths: tuple[ArrayLike | None, ArrayLike | None],
    fastemit_lambda: ArrayLike,
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> _Lattice:
    *batch, _, nodes_a_frame, classes = x.shape
    dtype = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    sequences = prepare_sequences(
        name, x.shape[:-2], classes, labels, paddings, lengths, blank_id, where, weights, dtype, nan
    )
    hint = f"; n + 1 is {nodes_a_frame} in logits of shape {x.shape}"
    arguments.same_shape(name, "labels", sequences.labels, (*batch, nodes_a_frame - 1), hint)
    fastemit = arguments.option(name, "fastemit_lambda", fastemit_lambda, 0.0, tuple(batch), dtype)
    y = _filled(sequences.labels, 1, sequences.blank)
    after = None
    if sequences.label_mask is not None:
        after = lax.broadcasted_iota(np.int32, y.shape, y.ndim - 1) <= sequences.counts[..., None]
        after = after if sequences.mask.examples is None else after & sequences.mask.examples[..., None]
    nodes = None if sequences.frames is None else jnp.broadcast_to(sequences.frames[..., None], x.shape[:-1])
    if after is not None:
        nodes = jnp.broadcast_to(after[..., None, :], x.shape[:-1]) if nodes is None else nodes & after[..., None, :]
    return _Lattice(sequences, y, after, nodes, fastemit)


def _in_chunks(
    joint: Callable[[Array, Array], Array], encoded: Array, predicted: Array, lattice: _Lattice, chunk_size: int
) -> tuple[Array, Array, Array]:
    """What `_log_probabilities` returns, [..., frames, n + 1]."""
    frames = encoded.shape[-2]
    chunks = -(-frames // chunk_size)
    size = -(-frames // max(1, chunks))
    encoded = Mask(lattice.sequences.frames).fill(encoded)
    predicted = Mask(lattice.after).fill(predicted)

    def in_chunks(x: Array) -> Array:
        """[..., frames, k] as [chunks, ..., size, k]. The last chunk is filled with the last frame, again."""
        filler = jnp.broadcast_to(x[..., -1:, :], (*x.shape[:-2], chunks * size - frames, x.shape[-1]))
        x = jnp.concatenate([x, filler], -2)
        return jnp.moveaxis(x.reshape(*x.shape[:-2], chunks, size, x.shape[-1]), -3, 0)

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, -3)
        return x.reshape(*x.shape[:-3], chunks * size, x.shape[-1])[..., :frames, :]

    @partial(jax.checkpoint, prevent_cse=False)
    def log_probs_of_chunk(chunk: tuple[Array, Array | None]) -> tuple[Array, Array, Array]:
        encoded, nodes = chunk
        return _log_probabilities(joint(encoded, predicted), lattice.labels, nodes, lattice.sequences.blank)

    nodes = None if lattice.nodes is None else in_chunks(lattice.nodes)
    _, (blank, label, rejected) = lax.scan(
        lambda carry, chunk: (carry, log_probs_of_chunk(chunk)), None, (in_chunks(encoded), nodes)
    )
    return joined(blank), joined(label), joined(rejected)


@partial(jax.jit, static_argnums=(2, 3))
def _finish(emitted: tuple[Array, Array, Array], lattice: _Lattice, zero_infinity: bool, reduction: Reduction) -> Array:
    blank, label, rejected = emitted
    has_label = lax.broadcasted_iota(np.int32, label.shape, label.ndim - 1) < lattice.sequences.counts[..., None, None]
    if lattice.nodes is not None:
        blank, rejected = (jnp.where(lattice.nodes, a, 0) for a in (blank, rejected))
        has_label &= lattice.nodes
    label = jnp.where(has_label, label, -jnp.inf)
    arcs = _by_diagonals(blank, 0), _by_diagonals(label, -jnp.inf), _by_diagonals(rejected, 0)
    losses: Array = _negative_log_probability(*arcs, lattice.sequences.counts, lattice.fastemit)
    losses = nan_unless(lattice.sequences.valid, losses.dtype) * losses
    if zero_infinity:
        losses = jnp.where(losses == jnp.inf, 0, losses)
    return lattice.sequences.mask.reduce(losses, reduction)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
def _log_probabilities(x: Array, y: Array, nodes: Array | None, blank: int) -> tuple[Array, Array, Array]:
    """log p of the blank and of the labels, and the sum of p of all other classes, which no arc has.

    Of logits [..., frames, n + 1, classes]; elsewhere than at nodes, of 0.
    """
    return _row_by_row(x, y, nodes, blank)[:3]


def _other_classes(x: Array, y: Array, blank: int) -> Array:
    """Which classes are neither the blank nor the next label, [..., 1, n + 1, classes]."""
    shape = *y.shape[:-1], 1, y.shape[-1], x.shape[-1]
    classes = lax.broadcasted_iota(y.dtype, shape, len(shape) - 1)
    return (classes != blank) & (classes != y[..., None, :, None])


def _row_by_row(x: Array, y: Array, nodes: Array | None, blank: int) -> tuple[Array, Array, Array, Row]:
    """The same, and what else there is to know of the rows.

    The sum beside the maximum comes from that of the other classes. Only if one of these is the maximum is 1 subtracted
    from it, and then both logarithms are those of probabilities below 1/2, or nearly.
    """
    (x,) = cpu_fusion_barrier(x)
    x = Mask(nodes).fill(x)
    top = class_max(x, None).astype(np.promote_types(x.dtype, np.float32))
    label = take_label(x, jnp.broadcast_to(y[..., None, :], x.shape[:-1]))
    blank_logit, label_logit = (z.astype(top.dtype) for z in (x[..., blank], label))
    exp_blank, exp_label = exp_below(blank_logit, top), exp_below(label_logit, top)
    exp_label = jnp.where(y[..., None, :] == blank, 0, exp_label)
    exp_others = exp_sum(x, top, _other_classes(x, y, blank).astype(top.dtype))
    total = exp_blank + exp_label + exp_others
    tail = jnp.where(label_logit == top, exp_blank + exp_others, exp_blank + exp_label + (exp_others - 1))
    tail = jnp.where(blank_logit == top, exp_label + exp_others, tail)
    tail = exactly(jnp.where(top == -jnp.inf, exp_others, tail), total)
    row = Row(top, tail, jnp.log1p(tail))
    log_p = (-(gap_to_max(z, top) + row.log_total) for z in (blank_logit, label_logit))
    blank_logit, label_logit = (jnp.where(row.empty, -jnp.inf, e) for e in log_p)
    return blank_logit, label_logit, exp_others / (1 + tail), row


@_log_probabilities.defjvp
def _(blank: int, primals: tuple[Array, Array, Array | None], tangents: tuple[Array, Any, Any]) -> Any:
    # The derivative of log p_c by the logit c is 1 - p_c, exact as -expm1(log p_c), and by another one j it is -p_j.
    # That of the sum r of the others by one of them is p_j (1 - r), 1 - r being a sum, too, and by the two -p_j r.
    x, y, nodes = primals
    emitted = _log_probabilities(x, y, nodes, blank)  # of which a derivative meets this rule again
    saved = emitted, _row_by_row(x, y, nodes, blank)[3]

    def linear(x: Array, y: Array, nodes: Array | None, saved: Any, t: Array) -> tuple[Array, Array, Array]:
        (log_blank, log_label, rejected), row = saved
        p, _ = probabilities(Mask(nodes).fill(x), row)
        t = Mask(nodes).fill(t).astype(p.dtype)
        classes = lax.broadcasted_iota(y.dtype, x.shape, x.ndim - 1)
        is_blank, is_label = classes == blank, classes == y[..., None, :, None]
        t_blank, t_label = (jnp.where(is_class, t, 0).sum(-1) for is_class in (is_blank, is_label))
        p_blank, p_label = jnp.exp(log_blank), jnp.where(y[..., None, :] == blank, 0, jnp.exp(log_label))
        other_dot = jnp.where(is_blank | is_label, 0, p * t).sum(-1)
        blank_dot = -expm1(log_blank) * t_blank - p_label * t_label - other_dot
        label_dot = jnp.where(y[..., None, :] == blank, 1, -expm1(log_label)) * t_label - p_blank * t_blank - other_dot
        arcs_dot = p_blank * t_blank + p_label * t_label
        return blank_dot, label_dot, (p_blank + p_label) * other_dot - rejected * arcs_dot

    return emitted, jax.checkpoint(linear, prevent_cse=False)(x, y, nodes, saved, tangents[0])


def _filled(x: Array, count: int, fill: float) -> Array:
    """x with so many more entries on its last axis."""
    return lax.pad(x, jnp.asarray(fill, x.dtype), [*[(0, 0, 0)] * (x.ndim - 1), (0, count, 0)])


def _by_diagonals(x: Array, fill: float) -> Array:
    """[..., frames, n + 1] as [..., n + 1, frames + n]: each column starts one later than the one before it.

    Before and behind what is there a column has ``fill``, or what another one has, which is for nodes out of reach.
    """
    *batch, frames, n = x.shape
    x = _filled(jnp.moveaxis(x, -1, -2), n, fill)
    shifted = x.reshape(*batch, n * (frames + n))[..., : n * (frames + n - 1)]
    return shifted.reshape(*batch, n, frames + n - 1)


def _forward(blank: Array, label: Array, rejected: Array, counts: Array, fastemit: Array | None) -> tuple[Array, Any]:
    log_zeros = jnp.full_like(blank.sum(-1), -jnp.inf)
    first = lax.broadcasted_iota(np.int32, log_zeros.shape, log_zeros.ndim - 1) == 0
    start = match_varying_axes((blank, label), jnp.where(first, 0, log_zeros))

    def step(alpha: Array, arcs: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        blank, label = (alpha + arc for arc in arcs)
        alpha, difference, _ = log_add(blank, shifted(label, -jnp.inf))
        top = lax.stop_gradient(alpha).max(-1)
        top = jnp.where(top == -jnp.inf, 0, top)
        return alpha - top[..., None], (top, difference)

    alpha, (offsets, differences) = lax.scan(step, start, (jnp.moveaxis(blank, -1, 0), jnp.moveaxis(label, -1, 0)))
    log_p = offsets.sum(0) + jnp.where(one_hot_mask(counts, alpha), alpha, 0).sum(-1)
    loss = lax.stop_gradient(jnp.maximum(log_p, 0)) - log_p  # rounding alone makes it positive
    confident = (loss < LOG_2) & (blank < 0).any((-1, -2))  # without a frame it is 0 as it stands
    arcs = jnp.exp(blank), jnp.exp(label), rejected, counts
    loss = confident_sequences.transducer_loss(loss, confident, *arcs)
    largest = jnp.finfo(differences.dtype).max
    return loss, (jnp.clip(differences, -largest, largest), arcs, fastemit, log_p == -jnp.inf, confident)


def _backward(saved: Any, g: Array) -> tuple[Array, Array, Array, None, None]:
    differences, (*arcs, counts), fastemit, impossible, confident = saved
    last = one_hot_mask(counts, jnp.zeros_like(differences, shape=differences.shape[1:]))

    def step(posterior: Array, shares: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        blank, label = (share * posterior for share in shares)
        label = shifted_back(label)
        return blank + label, (blank, label)

    end = last.astype(differences.dtype) * jnp.where(impossible, 0, 1)[..., None]
    _, posteriors = lax.scan(step, end, sigmoids(differences), reverse=True)
    blank, label = (-jnp.moveaxis(posterior, 0, -1) for posterior in posteriors)
    cotangents = blank, label, jnp.zeros_like(blank)
    ct_blank, ct_label, ct_rejected = confident_sequences.transducer_cotangents(cotangents, confident, *arcs, counts)
    if fastemit is not None:
        ct_label += fastemit[..., None, None] * label
    g = g[..., None, None]
    return g * ct_blank, g * ct_label, g * ct_rejected, None, None


_negative_log_probability = custom_derivative(_forward, _backward, loop=True)


@compiled(fastemit_lambda=arguments.NOT_NEGATIVE)
def rnnt_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    label_paddings: ArrayLike | None = None,
    *,
    blank_id: int,
    logit_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    fastemit_lambda: ArrayLike = 0.0,
    zero_infinity: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Transducer (RNN-T) loss: minus the log-probability of labels, summed over all alignments to frames.

    .. math::
        \ell = -\log \sum_{\pi} \prod_{(t, u, c) \in \pi} p_{tuc}, \quad p_{tu} = \mathrm{softmax}(x_{tu}), \qquad
        \frac{\partial \ell}{\partial x_{tuc}} = p_{tuc} (b_{tu} + l_{tu}) - [c = \text{blank}] \, b_{tu}
        - [c = y_{u+1}] \, l_{tu}

    over the paths of T blanks and U labels, each blank a step to the next frame, and the last step a blank; b and l are
    the posterior probabilities that a path takes the blank, or the next label, at (t, u). Log-probabilities are logits,
    too.

    The loss of a confident sequence and its gradient are exact, however small they are, as in :func:`ctc_loss`.

    Frames and labels that are not there are named by paddings or by lengths, as in :func:`ctc_loss`::

        rnnt_loss(logits, logit_paddings, labels, label_paddings, blank_id=0)
        rnnt_loss(logits, labels=labels, blank_id=0, logit_lengths=frames, label_lengths=counts)

    :func:`rnnt_loss_with_joint` is this loss without an array of all logits.

    Args:
      logits: floating array (..., frames, n + 1, classes), at [t, u] those of frame t once u labels are out. What is
        padded, in frames or after the labels, may contain anything.
      logit_paddings: shape (..., frames), of any dtype: 0 or False for a frame, else it is skipped.
      labels: integers of shape (..., n), in [0, classes) without ``blank_id``. Another one among those that are not
        padded gives NaN.
      label_paddings: shape (..., n): 0 or False for a label, else padding. A label after padding gives NaN.
      blank_id: the class of blanks. A negative one counts from the end: -1 is the last class.
      logit_lengths: integers of exactly the shape (...), in [0, frames], instead of paddings. Others give NaN.
      label_lengths: integers of exactly the shape (...), in [0, n], likewise.
      fastemit_lambda: real, broadcast to the shape of the loss. FastEmit makes labels come early: in the derivative
        l is 1 + ``fastemit_lambda`` times as large. The value stays the loss above, so its derivative is another one.
      zero_infinity: a sequence that no alignment gives, such as labels without a frame, has the loss ``inf`` and
        gradient 0; with True it has the loss 0, and counts in a mean.
      where: boolean mask, broadcast to the shape of the loss, (...), see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"`` over sequences, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, never negative, of shape (...), or a scalar; float64 if ``logits`` is, else float32. No labels
      is a sequence, too, that of blanks alone; without any frame it has the loss 0.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` or lengths are not integers, ``where`` is not boolean.
      ValueError: shapes do not agree, ``blank_id`` is no class, both paddings and lengths are given.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits = jnp.log(jnp.array([[[0.4, 0.6], [0.5, 0.5]], [[0.7, 0.3], [0.8, 0.2]]]))
      >>> loss = jaxloss.rnnt_loss(logits, labels=jnp.array([1]), blank_id=0)
      >>> print(loss.round(4))  # -log(0.6 0.5 0.8 + 0.4 0.3 0.8)
      1.0906

    torchaudio and warp-transducer have the arguments (logits, targets, logit lengths, target lengths), and torchaudio's
    blank is the last class. With FastEmit NeMo returns 1 + lambda times the loss.

    References:
      Graves, Sequence transduction with recurrent neural networks, https://arxiv.org/abs/1211.3711.
      Yu et al., FastEmit, https://arxiv.org/abs/2010.11148.
    """
    name = "rnnt_loss"
    x = arguments.floating(name, "logits", logits)
    if x.ndim < 3 or 0 in x.shape[-2:]:
        raise ValueError(f"{name}: expected `logits` of shape (..., frames, n + 1, classes), got {x.shape}.")
    paddings, lengths = (logit_paddings, label_paddings), (logit_lengths, label_lengths)
    nan = jnp.isnan(x).any((-2, -1))
    lattice = _lattice(name, x, nan, blank_id, labels, paddings, lengths, fastemit_lambda, where, weights)
    arguments.choice(name, "reduction", reduction)
    emitted = _log_probabilities(x, lattice.labels, lattice.nodes, lattice.sequences.blank)
    losses: Array = _finish(emitted, lattice, zero_infinity, reduction)
    return losses


def rnnt_loss_with_joint(
    joint: Callable[[Array, Array], Array],
    encoded: ArrayLike,
    predicted: ArrayLike,
    labels: ArrayLike,
    *,
    blank_id: int,
    chunk_size: int | None = None,
    logit_paddings: ArrayLike | None = None,
    label_paddings: ArrayLike | None = None,
    logit_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    fastemit_lambda: ArrayLike = 0.0,
    zero_infinity: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Transducer (RNN-T) loss of the logits that a joint network gives, some frames at a time.

    .. math::
        \ell = \mathrm{rnnt\_loss}(\mathrm{joint}(h, g), y)

    An array of all logits exists neither in this pass nor in that of the derivatives: of a chunk of frames only the
    log-probabilities of the blank and of the next label stay, two numbers a node, and derivatives run ``joint`` again.
    They include those by the arrays that ``joint`` closes over, such as its parameters. Call it under ``jax.jit``: an
    eager call compiles ``joint`` each time.

    Args:
      joint: a pure function of (encoded, predicted), arrays (..., t, features) and (..., n + 1, features) as below but
        for t, which is any number of frames, all of them when its shape is asked for. It returns logits (..., t, n + 1,
        classes), each frame's independent of the other frames: no batch norm.
      encoded: floating array (..., frames, features). Padded frames may contain anything: ``joint`` gets zeros.
      predicted: floating array (..., n + 1, features), at u once u labels are out. What follows the labels, likewise.
      labels: integers of shape (..., n). This and all that follows is as in :func:`rnnt_loss`.
      blank_id: the class of blanks, -1 for the last.
      chunk_size: how many frames of each sequence ``joint`` gets at once, for all sequences; by default as many as have
        about two million logits, one at least. Under ``vmap`` the other sequences come on top. The number of frames
        has to be known, also where a program is exported.
      logit_paddings: shape (..., frames).
      label_paddings: shape (..., n).
      logit_lengths: integers of shape (...), instead of paddings.
      label_lengths: integers of shape (...), instead of paddings.
      fastemit_lambda: real, broadcast to the shape of the loss.
      zero_infinity: whether a sequence that no alignment gives has the loss 0.
      where: boolean mask, broadcast to the shape of the loss, (...), see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"`` over sequences.

    Returns:
      The loss in nats, of shape (...), or a scalar; float64 if the logits are, else float32.

    Raises:
      TypeError: as :func:`rnnt_loss`; ``encoded``, ``predicted`` or the logits are not floating.
      ValueError: as :func:`rnnt_loss`; ``chunk_size`` is not positive.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> encoded, predicted, labels = jnp.ones((2, 8, 4)), jnp.ones((2, 3, 4)), jnp.array([[1, 2], [2, 2]])
      >>> def loss(weight):
      ...     def joint(encoded, predicted):
      ...         return jnp.tanh(encoded[..., :, None, :] + predicted[..., None, :, :]) @ weight
      ...     return jaxloss.rnnt_loss_with_joint(joint, encoded, predicted, labels, blank_id=0, reduction="mean")
      >>> print(jax.grad(loss)(jnp.zeros((4, 3))).round(2))
      [[-4.5   2.73  1.77]
       [-4.5   2.73  1.77]
       [-4.5   2.73  1.77]
       [-4.5   2.73  1.77]]

    References:
      Graves, Sequence transduction with recurrent neural networks, https://arxiv.org/abs/1211.3711.
    """
    name = "rnnt_loss_with_joint"
    h, g = arguments.floating(name, "encoded", encoded), arguments.floating(name, "predicted", predicted)
    if h.ndim < 2:
        raise ValueError(f"{name}: expected `encoded` of shape (..., frames, features), got {h.shape}.")
    *batch, frames, _ = h.shape
    if g.shape[:-2] != tuple(batch) or g.ndim < 2 or g.shape[-2] == 0:
        expected = "".join(f"{size}, " for size in batch)
        raise ValueError(f"{name}: expected `predicted` of shape ({expected}n + 1, features), got {g.shape}.")
    x = jax.eval_shape(joint, h, g)
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, np.floating):
        raise TypeError(f"{name}: expected `joint` to return logits of a floating dtype, got {x}.")
    if x.shape[:-1] != (*batch, frames, g.shape[-2]) or x.shape[-1] == 0:
        expected = "".join(f"{size}, " for size in (*batch, frames, g.shape[-2]))
        raise ValueError(f"{name}: expected `joint` to return logits of shape ({expected}classes), got {x.shape}.")
    if not isinstance(frames, int):
        raise ValueError(f"{name}: expected `encoded` with a known number of frames, got {h.shape}.")
    if chunk_size is None:
        known = (size for size in (*batch, *x.shape[-2:]) if isinstance(size, int))
        chunk_size = max(1, 2**21 // max(1, math.prod(known)))
    chunk_size = arguments.positive_integer(name, "chunk_size", chunk_size)
    paddings, lengths = (logit_paddings, label_paddings), (logit_lengths, label_lengths)
    nan = jnp.isnan(h).any(-1)
    lattice = _lattice(name, x, nan, blank_id, labels, paddings, lengths, fastemit_lambda, where, weights)
    arguments.choice(name, "reduction", reduction)
    losses: Array = _finish(_in_chunks(joint, h, g, lattice, chunk_size), lattice, zero_infinity, reduction)
    return losses
