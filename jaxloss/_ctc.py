"""Connectionist temporal classification: the probability of a sequence of labels, over all its alignments to frames.

With N labels there are N + 1 blank states b_0 .. b_N and a label state l_n before each of b_1 .. b_N; l_0 does not
exist, and stays at log 0. Of a frame that emits blank with log-probability e_0 and the n-th label with e_n,

    z_n  =  log(exp b_n + exp l_n)
    b_n <-  e_0 + z_n
    l_n <-  e_n + log(exp l_n + exp (z_{n-1}, or b_{n-1} if the labels n-1 and n are equal))

from b_0 = 0 and all else at log 0. The sequence's probability is exp z_N after the last frame. A logarithm near 0 is
computed again by `_core/confident_sequences`. So a frame takes two
exponentials and two short series for each label, and what it keeps for the derivative are the lesser shares of the two
sums. With them the posterior of each state goes back from the last frame to the first by products and sums alone:
nothing in it is large, and nothing rounds but the shares.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments, confident_sequences
from ._core.classes import nan_unless, one_hot_mask, take_label
from ._core.compiler import compiled, match_varying_axes
from ._core.confident_sequences import LOG_2
from ._core.derivatives import custom_derivative
from ._core.sequences import (
    Sequences,
    log_add,
    pick_several,
    prepare_sequences,
    repeated_labels,
    select_step,
    shard_like_logits,
    shifted,
    shifted_back,
    spread,
)
from ._core.softmax import Row, gap_to_max, label_probability, probabilities, summary
from ._core.types import Reduction


def prepare_ctc(
    name: str,
    logits: ArrayLike,
    logit_paddings: ArrayLike | None,
    labels: ArrayLike | None,
    label_paddings: ArrayLike | None,
    logit_lengths: ArrayLike | None,
    label_lengths: ArrayLike | None,
    blank_id: int,
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[Array, Sequences]:
    """The logits; and the labels, with the blank before the first one."""
    x = arguments.floating(name, "logits", logits)
    if x.ndim < 2 or x.shape[-1] == 0:
        raise ValueError(f"{name}: expected `logits` of shape (..., frames, classes), got {x.shape}.")
    paddings, lengths = (logit_paddings, label_paddings), (logit_lengths, label_lengths)
    options = blank_id, where, weights, arguments.compute_dtype(x)
    nan = jnp.isnan(x).any(-1)
    sequences = shard_like_logits(
        x, prepare_sequences(name, x.shape[:-1], x.shape[-1], labels, paddings, lengths, *options, nan)
    )
    y = jnp.pad(sequences.labels, [(0, 0)] * (x.ndim - 2) + [(1, 0)], constant_values=sequences.blank)
    return x, sequences._replace(labels=y)


def _losses(x: Array, sequences: Sequences) -> Array:
    losses = _negative_log_probability(x, sequences.labels, sequences.frames, sequences.counts)
    return nan_unless(sequences.valid, losses.dtype) * losses


def emitted_log_probs(x: Array, y: Array, frames: Array | None) -> tuple[Array, Row]:
    """The log-probabilities of the blank and of the labels, [frames, ..., 1 + n]."""
    x = x if frames is None else jnp.where(frames[..., None], x, 0)
    row = summary(x)
    e = -(gap_to_max(pick_several(x, y), row.top[..., None]) + row.log_total[..., None])
    return jnp.moveaxis(jnp.where(row.empty[..., None], -jnp.inf, e), -2, 0), row


def log_add_with_share(a: Array, b: Array) -> tuple[Array, Array]:
    """log(exp a + exp b), and the lesser one's share, which is negative if that is exp b."""
    total, d, ratio = log_add(a, b)
    lesser = ratio / (1 + ratio)
    return total, jnp.where(d < 0, lesser, -lesser)


def _shares(lesser: Array) -> tuple[Array, Array]:
    """Of exp a and exp b, from what `_add` returns: neither is the rounded difference of the other."""
    size = jnp.abs(lesser)
    b_is_lesser = jnp.signbit(lesser)
    return jnp.where(b_is_lesser, 1 - size, size), jnp.where(b_is_lesser, size, 1 - size)


def _frame_by_frame(
    emitted: Array, y: Array, frames: Array | None
) -> tuple[tuple[Array, Array], tuple[tuple[Array, Array], Array, tuple[Array, Array]]]:
    """The last states; and of each frame the states, what was subtracted from them, and the shares of both sums.

    The largest state is at 0 after each frame, so that none is large where it matters.
    """
    log_zeros = jnp.full_like(y, -jnp.inf, emitted.dtype)
    first = lax.broadcasted_iota(np.int32, y.shape, y.ndim - 1) == 0
    start = match_varying_axes((emitted, y, frames), (jnp.where(first, 0, log_zeros), log_zeros))
    repeated = repeated_labels(y)

    def step(states: tuple[Array, Array], frame: tuple[Array, Array | None]) -> Any:
        (blank, label), (e, present) = states, frame
        either, blank_share = log_add_with_share(blank, label)
        entered, label_share = log_add_with_share(label, shifted(jnp.where(repeated, blank, either), -jnp.inf))
        blank, label = either + e[..., :1], entered + e
        top = lax.stop_gradient(jnp.maximum(blank, label).max(-1))
        top = jnp.where(top == -jnp.inf, 0, top)
        new = select_step(present, (blank - top[..., None], label - top[..., None]), states)
        return new, (new, top if present is None else jnp.where(present, top, 0), (blank_share, label_share))

    present = None if frames is None else jnp.moveaxis(frames, -1, 0)
    return lax.scan(step, start, (emitted, present))


def _forward(x: Array, y: Array, frames: Array | None, counts: Array) -> tuple[Array, Any]:
    emitted, row = emitted_log_probs(x, y, frames)
    states, (_, offsets, shares) = _frame_by_frame(emitted, y, frames)
    last = one_hot_mask(counts, y)
    total, share = log_add_with_share(*(jnp.where(last, state, 0).sum(-1) for state in states))
    log_p = offsets.sum(0) + total
    loss = lax.stop_gradient(jnp.maximum(log_p, 0)) - log_p  # rounding alone makes it positive
    confident = loss < LOG_2
    if frames is not None:
        confident &= frames.any(-1)  # without a frame it is 0 as it stands
    loss = confident_sequences.ctc_loss(loss, confident, x, y, frames, counts, row)
    likely = jnp.where(jnp.moveaxis(emitted, 0, -2) > -LOG_2, y[..., None, :], -1).max(-1)  # one class at most
    return loss, (x, y, frames, counts, row, shares, share, total == -jnp.inf, confident, likely)


def _backward(saved: Any, g: Array) -> tuple[Array, None, None, None]:
    x, y, frames, counts, row, shares, share, impossible, confident, likely = saved
    repeated = repeated_labels(y)
    last = one_hot_mask(counts, y).astype(share.dtype) * jnp.where(impossible, 0, 1)[..., None]
    blank, label = _shares(share[..., None])
    end = last * blank, last * label
    first = lax.broadcasted_iota(np.int32, y.shape, y.ndim - 1) == 0

    def step(posteriors: tuple[Array, Array], frame: Any) -> Any:
        (blank, label), (either_share, entered_share, present) = posteriors, frame
        (blank_share, label_share), (staying, entering) = _shares(either_share), _shares(entered_share)
        entering = shifted_back(entering * label)
        either = jnp.where(repeated, blank, blank + entering)
        old = blank_share * either + jnp.where(repeated, entering, 0), label_share * either + staying * label
        emitted = jnp.where(first, blank.sum(-1, keepdims=True), label)
        return select_step(present, old, posteriors), emitted if present is None else jnp.where(
            present[..., None], emitted, 0
        )

    present = None if frames is None else jnp.moveaxis(frames, -1, 0)
    _, emitted = lax.scan(step, end, (*shares, present), reverse=True)
    present = ~impossible[..., None] if frames is None else frames & ~impossible[..., None]
    likely = jnp.where(present, likely, -1)
    x = x if frames is None else jnp.where(frames[..., None], x, 0)
    posteriors = jnp.moveaxis(emitted, 0, -2)
    # Of the class that has most of a frame, p and the posterior are near 1: what they lack is the sum of the others.
    other_posteriors = jnp.where(y[..., None, :] == likely[..., None], 0, posteriors).sum(-1)
    _, minus_complement = label_probability(take_label(x, jnp.maximum(likely, 0)), jnp.maximum(likely, 0), x, row)
    every_class = jnp.broadcast_to(jnp.ones_like(confident, row.top.dtype)[..., None], (*confident.shape, x.shape[-1]))
    entries = confident_sequences.Entries(posteriors, other_posteriors + minus_complement, every_class)
    entries = confident_sequences.ctc_entries(entries, confident, likely, x, y, frames, counts, row)
    p, _ = probabilities(x, row)
    p = jnp.where(present[..., None], entries.p_factor[..., None, :] * p, 0)
    gradient = p - spread(entries.subtracted, y, x.shape[-1])
    gradient = jnp.where(one_hot_mask(likely, p), entries.at_likely[..., None], gradient)
    return g[..., None, None] * gradient, None, None, None


_negative_log_probability = custom_derivative(_forward, _backward, loop=True)


@compiled()
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    label_paddings: ArrayLike | None = None,
    *,
    logit_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    blank_id: int = 0,
    log_epsilon: ArrayLike | None = None,
    zero_infinity: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Connectionist temporal classification: minus the log-probability of labels, summed over all alignments.

    .. math::
        \ell = -\log \sum_{\pi \in B^{-1}(y)} \prod_t p_{t, \pi_t}, \quad p_t = \mathrm{softmax}(x_t), \qquad
        \frac{\partial \ell}{\partial x_{tc}} = p_{tc} - \Pr(\pi_t = c \mid y)

    where :math:`B` merges what is repeated, and then takes blanks out. Log-probabilities are logits, too: their softmax
    is what they are the logarithm of.

    The loss of a confident sequence is exact, however small it is: a sum of the probabilities of what is not an
    alignment, where a logarithm would round to 0. So is its gradient, up to the frame's share in that sum. Under
    ``vmap`` this costs as much as the rest, else only batches with a sequence of :math:`\ell < \log 2` pay for it.

    Frames and labels that are not there are named by paddings, as in optax, or by lengths: of each, one of the two, or
    none if all are there::

        ctc_loss(logits, logit_paddings, labels, label_paddings)
        ctc_loss(logits, labels=labels, logit_lengths=frames, label_lengths=counts)

    Args:
      logits: floating array (..., frames, classes). Padded frames may contain anything.
      logit_paddings: shape (..., frames), of any dtype: 0 or False for a frame, else it is skipped.
      labels: integers of shape (..., n), in [0, classes) without ``blank_id``. Another one among those that are not
        padded gives NaN.
      label_paddings: shape (..., n): 0 or False for a label, else padding. A label after padding gives NaN.
      logit_lengths: integers of exactly the shape (...), in [0, frames], instead of paddings. Others give NaN.
      label_lengths: integers of exactly the shape (...), in [0, n], likewise.
      blank_id: the class of blanks, from the end if it is negative.
      log_epsilon: accepted for optax, and not used: the logarithm of 0 is ``-inf`` here.
      zero_infinity: a sequence that no alignment gives, such as one of more labels than frames, has the loss ``inf``
        and gradient 0; with True it has the loss 0, and counts in a mean.
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
      >>> logits = jnp.log(jnp.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]))
      >>> loss = jaxloss.ctc_loss(logits, labels=jnp.array([1]))
      >>> print(f"{jnp.exp(-loss):.4f}")  # 0.7 0.6 + 0.7 0.3 + 0.1 0.3
      0.6600

    Keras has the arguments (target, output, target_length, output_length, mask_index=0). PyTorch takes
    log-probabilities of shape (frames, batch, classes); its mean is ``reduction="sum"`` with
    ``weights=1 / (batch * jnp.maximum(label_lengths, 1))``.

    References:
      Graves et al., Connectionist Temporal Classification, https://doi.org/10.1145/1143844.1143891.
    """
    name = "ctc_loss"
    inputs = logits, logit_paddings, labels, label_paddings, logit_lengths, label_lengths
    x, sequences = prepare_ctc(name, *inputs, blank_id, where, weights)
    arguments.choice(name, "reduction", reduction)
    losses = _losses(x, sequences)
    if zero_infinity:
        losses = jnp.where(losses == jnp.inf, 0, losses)
    return sequences.mask.reduce(losses, reduction)


@compiled()
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    label_paddings: ArrayLike | None = None,
    *,
    logit_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    blank_id: int = 0,
    log_epsilon: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    r"""What :func:`ctc_loss` returns, and the log-probabilities of all that may have been emitted up to each frame.

    Args:
      logits: floating array (..., frames, classes). This and all that follows is as in :func:`ctc_loss`.
      logit_paddings: shape (..., frames).
      labels: integers of shape (..., n).
      label_paddings: shape (..., n).
      logit_lengths: integers of shape (...), instead of paddings.
      label_lengths: integers of shape (...), instead of paddings.
      blank_id: the class of blanks, from the end if it is negative.
      log_epsilon: accepted for optax, and not used: the logarithm of 0 is ``-inf`` here.

    Returns:
      The losses of shape (...), and two arrays of shape (frames, ..., n + 1) and (frames, ..., n): the logarithm of the
      probability that the first n labels are emitted up to a frame and the frame is blank, or emits the n-th. As in
      optax, the first of them has the sum of both in the last frame, and a frame that is skipped repeats the one before
      it; what is impossible is ``-inf``, where optax has about ``log_epsilon``.

    Raises:
      TypeError: as :func:`ctc_loss`.
      ValueError: as :func:`ctc_loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits = jnp.log(jnp.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1]]))
      >>> loss, blank, label = jaxloss.ctc_loss_with_forward_probs(logits, labels=jnp.array([1]))
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jnp.exp(label).T)  # 0.7, and 0.7 0.3 + 0.1 0.3
      [[0.7  0.24]]

    References:
      Graves et al., Connectionist Temporal Classification, https://doi.org/10.1145/1143844.1143891.
    """
    inputs = logits, logit_paddings, labels, label_paddings, logit_lengths, label_lengths
    x, sequences = prepare_ctc("ctc_loss_with_forward_probs", *inputs, blank_id, None, None)
    emitted, _ = emitted_log_probs(x, sequences.labels, sequences.frames)
    last, (states, offsets, _) = _frame_by_frame(emitted, sequences.labels, sequences.frames)
    offsets = jnp.cumsum(offsets, 0)[..., None]
    factor = nan_unless(sequences.valid, emitted.dtype)[None, ..., None]
    blank, label = (factor * (state + offsets) for state in states)
    if len(blank):
        blank = jnp.concatenate([blank[:-1], log_add_with_share(*last)[0][None] + offsets[-1:]])
    return _losses(x, sequences), blank, label[..., 1:]
