"""Connectionist temporal classification: which labels are probable, and which frames emitted given ones."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import nan_unless, one_hot_mask, take_label
from ._core.compiler import compiled, match_varying_axes
from ._core.sequences import Sequences, repeated_labels, select_step, shifted
from ._core.softmax import gap_to_max, summary
from ._ctc import emitted_log_probs, log_add_with_share, prepare_ctc


class CTCDecoded(NamedTuple):
    """Decoded labels, left-aligned and padded with -1, their number, and their log-probability in nats."""

    labels: Array
    lengths: Array
    log_prob: Array


class CTCAlignment(NamedTuple):
    """The index of the label that each frame emits, or -1; of each label the frames; the log-probability, in nats."""

    frame_labels: Array
    starts: Array
    ends: Array
    log_prob: Array


def _frames(
    name: str, logits: ArrayLike, paddings: ArrayLike | None, lengths: ArrayLike | None, blank_id: int
) -> tuple[Array, Array | None, int, Array]:
    """The logits, 0 in frames that are not there; which are; the blank; NaN for an impossible length, else 1."""
    x = arguments.floating(name, "logits", logits)
    no_labels = jnp.zeros((*x.shape[:-2], 0), np.int32)
    x, sequences = prepare_ctc(name, x, paddings, no_labels, None, lengths, None, blank_id, None, None)
    frames = sequences.frames
    x = x if frames is None else jnp.where(frames[..., None], x, 0)
    return x, frames, sequences.blank, nan_unless(sequences.valid, arguments.compute_dtype(x))


def _left(x: Array, present: Array, fill: int) -> Array:
    """What is there of each row, in its order, and then the filling."""
    _, x = lax.sort(((~present).astype(np.int32), jnp.where(present, x, fill)), is_stable=True, num_keys=1)
    return x


def _take(x: Array, indices: Array, axis: int = -1) -> Array:
    return jnp.take_along_axis(x, indices, axis, mode="promise_in_bounds")


class _Beam(NamedTuple):
    labels: Array  # [..., beam, frames], -1 after the last
    lengths: Array  # [..., beam]
    last: Array  # [..., beam], -1 of no labels
    blank: Array  # [..., beam], log-probabilities of what ends in a blank
    label: Array  # [..., beam], and in the last label, both less an offset
    begins: Array  # [..., beam, beam], whether the first prefix begins the second, or is it


def _first_beam(x: Array, size: int) -> _Beam:
    """The empty prefix, and places for others."""
    start = lax.stop_gradient(x)[..., :0, :0].sum((-1, -2))[..., None]  # zeros, sharded as the logits are
    number = jnp.cumsum(jnp.repeat(start, size, -1).astype(np.int32) + 1, -1)
    log_zeros = jnp.full_like(number, -jnp.inf, arguments.compute_dtype(x))
    labels = jnp.repeat(jnp.full_like(number, -1)[..., None], x.shape[-2], -1)
    blank = jnp.where(number == 1, 0, log_zeros)
    begins = number[..., None] == number[..., None, :]
    return _Beam(labels, 0 * number, jnp.full_like(number, -1), blank, log_zeros, begins)


def _next_beam(blank_id: int, beam: _Beam, frame: tuple[Array, Array | None]) -> tuple[_Beam, Array]:
    (x, present), size = frame, beam.last.shape[-1]
    row = summary(x)
    log_p = jnp.where(row.empty[..., None], -jnp.inf, -(gap_to_max(x, row.top[..., None]) + row.log_total[..., None]))

    # What stays as it is: by a blank, by the last label again, or entered from the prefix without it.
    either, _ = log_add_with_share(beam.blank, beam.label)
    parent_last, child_last = beam.last[..., :, None], beam.last[..., None, :]
    child = beam.begins & (beam.lengths[..., :, None] + 1 == beam.lengths[..., None, :])
    entering = jnp.where(parent_last == child_last, beam.blank[..., :, None], either[..., :, None])
    entering = jnp.where(child, entering, -jnp.inf).max(-2)
    blank = either + log_p[..., blank_id, None]
    label = log_add_with_share(beam.label, entering)[0] + _take(log_p, jnp.maximum(beam.last, 0))

    # What is new: of one prefix at most beam_size - 1 are in the beam already, and one comes from the blank alone.
    num_classes = min(2 * size, x.shape[-1] - 1)
    class_log_p, best = lax.top_k(jnp.delete(log_p, blank_id, -1), num_classes)
    best = jnp.where(best >= blank_id, best + 1, best)[..., None, :]
    new = jnp.where(parent_last == best, beam.blank[..., None], either[..., None]) + class_log_p[..., None, :]
    ends = (beam.last[..., None] == best).astype(new.dtype)
    known = jnp.einsum("...kj,...jm->...km", child.astype(new.dtype), ends) > 0
    new = jnp.where(known, -jnp.inf, new)

    flat = (*new.shape[:-2], size * num_classes)
    scores = jnp.concatenate([log_add_with_share(blank, label)[0], new.reshape(flat)], -1)
    score, chosen = lax.top_k(scores, size)
    if present is not None:
        chosen = jnp.where(
            present[..., None], chosen, lax.broadcasted_iota(chosen.dtype, chosen.shape, chosen.ndim - 1)
        )
    stays = chosen < size
    source = jnp.where(stays, chosen, (chosen - size) // max(num_classes, 1))
    best = jnp.broadcast_to(best, new.shape).reshape(flat)
    added = _take(jnp.concatenate([jnp.full_like(beam.last, -1), best], -1), chosen)

    top = lax.stop_gradient(score).max(-1, keepdims=True)  # the first, but of a slice XLA would sort all scores
    top = jnp.where(top == -jnp.inf, 0, top)
    blank = jnp.where(stays, _take(blank, source), -jnp.inf) - top
    label = jnp.where(stays, _take(label, source), score) - top
    blank, label = select_step(present, (blank, label), (beam.blank, beam.label))
    top = top if present is None else jnp.where(present[..., None], top, 0)

    lengths = _take(beam.lengths, source)  # without what is added
    labels = _take(beam.labels, source[..., None], -2)
    labels = jnp.where(one_hot_mask(lengths, labels) & ~stays[..., None], added[..., None], labels)
    follows = _take(labels, jnp.broadcast_to(lengths[..., None, :], beam.begins.shape))
    begins = _take(_take(beam.begins, source[..., None], -2), source[..., None, :])
    begins &= stays[..., None] | (jnp.matrix_transpose(follows) == added[..., None])
    last = jnp.where(stays, _take(beam.last, source), added)
    return _Beam(labels, jnp.where(stays, lengths, lengths + 1), last, blank, label, begins), top


def _best_path(emitted: Array, sequences: Sequences) -> tuple[Array, Array]:
    """Of each frame the label's number from 1 on, 0 for a blank, -1 if it is not there; and the best last state."""
    y, repeated = sequences.labels, repeated_labels(sequences.labels)
    present = None if sequences.frames is None else jnp.moveaxis(sequences.frames, -1, 0)

    def forward_step(states: tuple[Array, Array], frame: tuple[Array, Array | None]) -> Any:
        (blank, label), (e, present) = states, frame
        blank_stays, either = blank >= label, jnp.maximum(blank, label)
        entering = shifted(jnp.where(repeated, blank, either), -jnp.inf)
        label_stays, entered = label >= entering, jnp.maximum(label, entering)
        blank, label = either + e[..., :1], entered + e
        top = jnp.maximum(blank, label).max(-1, keepdims=True)
        top = jnp.where(top == -jnp.inf, 0, top)
        return select_step(present, (blank - top, label - top), states), (blank_stays, label_stays)

    def backward_step(state: tuple[Array, Array], frame: tuple[Array, Array, Array | None]) -> Any:
        (n, is_label), (blank_stays, label_stays, present) = state, frame
        emits = jnp.where(is_label, n, 0)
        enters = is_label & ~_take(label_stays, n[..., None])[..., 0]
        previous = jnp.maximum(n - enters.astype(np.int32), 0)  # NaN may lead anywhere
        from_blank = _take(blank_stays | (repeated & enters[..., None]), previous[..., None])[..., 0]
        previous_state = previous, jnp.where(is_label & ~enters, is_label, ~from_blank)
        if present is None:
            return previous_state, emits
        return (jnp.where(present, previous_state[0], n), jnp.where(present, previous_state[1], is_label)), jnp.where(
            present, emits, -1
        )

    log_zeros = jnp.full_like(y, -jnp.inf, emitted.dtype)
    first = lax.broadcasted_iota(np.int32, y.shape, y.ndim - 1) == 0
    start = match_varying_axes((emitted, y, sequences.frames), (jnp.where(first, 0, log_zeros), log_zeros))
    states, choices = lax.scan(forward_step, start, (emitted, present))
    blank, label = (jnp.where(one_hot_mask(sequences.counts, y), state, 0).sum(-1) for state in states)
    end = match_varying_axes((emitted, y), (sequences.counts, label > blank))
    _, emits = lax.scan(backward_step, end, (*choices, present), reverse=True)
    return emits, jnp.maximum(blank, label)


@compiled()
def ctc_greedy_decode(
    logits: ArrayLike,
    logit_paddings: ArrayLike | None = None,
    *,
    logit_lengths: ArrayLike | None = None,
    blank_id: int = 0,
) -> CTCDecoded:
    r"""The labels of the most probable path: of each frame the best class, repeats merged, then blanks removed.

    .. math::
        y = B(\pi), \quad \pi_t = \mathrm{argmax}_c \, x_{tc}, \qquad
        \log p = \sum_t \log p_{t, \pi_t}, \quad p_t = \mathrm{softmax}(x_t)

    where :math:`B` merges what is repeated, and then takes blanks out. Other labels may be more probable, as the sum
    over all their paths: see :func:`ctc_beam_decode`.

    Args:
      logits: floating array (..., frames, classes); log-probabilities are logits, too. A ``-inf`` is a class of
        probability 0. Padded frames may contain anything.
      logit_paddings: shape (..., frames): 0 for a frame, 1 for one that is skipped, as if it did not exist.
      logit_lengths: integers of shape (...) in [0, frames], instead of paddings.
      blank_id: the class of blanks, from the end if it is negative.

    Of equal logits the first class is taken. NaN among the logits or a length out of range gives the log-probability
    NaN, a frame of ``-inf`` alone ``-inf``, and both give no labels.

    Returns:
      :class:`CTCDecoded`: labels, int32 of shape (..., frames), lengths, int32 of shape (...), and the log-probability
      of the path, of shape (...), float64 if ``logits`` is, else float32. It may be differentiated.

    Raises:
      TypeError: ``logits`` is not floating, lengths are not integers.
      ValueError: shapes do not agree, ``blank_id`` is no class, both paddings and lengths are given.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> probabilities = jnp.array([[0.1, 0.7, 0.2], [0.2, 0.6, 0.2], [0.8, 0.1, 0.1], [0.3, 0.4, 0.3]])
      >>> labels, lengths, log_prob = jaxloss.ctc_greedy_decode(jnp.log(probabilities))
      >>> print(labels, lengths, jnp.exp(log_prob).round(4))  # 0.7 0.6 0.8 0.4
      [ 1  1 -1 -1] 2 0.1344

    References:
      Graves et al., Connectionist Temporal Classification, https://doi.org/10.1145/1143844.1143891, section 3.2.
    """
    x, frames, blank, factor = _frames("ctc_greedy_decode", logits, logit_paddings, logit_lengths, blank_id)
    index = lax.broadcasted_iota(np.int32, x.shape, x.ndim - 1)
    path = jnp.where(x == x.max(-1, keepdims=True), index, x.shape[-1]).min(-1)  # on a CPU, faster than argmax
    row = summary(x)
    log_p = jnp.where(row.empty, -jnp.inf, -(gap_to_max(take_label(x, path), row.top) + row.log_total))
    if frames is not None:
        log_p = jnp.where(frames, log_p, 0)
        path = _left(path, frames, blank)
    log_prob = factor * log_p.sum(-1)
    new = (path != shifted(path, blank)) & (path != blank) & (log_prob > -jnp.inf)[..., None]
    return CTCDecoded(_left(path, new, -1), new.sum(-1, dtype=np.int32), log_prob)


@compiled()
def ctc_beam_decode(
    logits: ArrayLike,
    logit_paddings: ArrayLike | None = None,
    *,
    logit_lengths: ArrayLike | None = None,
    blank_id: int = 0,
    beam_size: int = 16,
) -> CTCDecoded:
    r"""The most probable labels, by prefix beam search: the sum over their alignments, not the best one alone.

    Of each prefix :math:`y` in the beam the probabilities :math:`b` and :math:`l` of all alignments that so far end in
    a blank and in its last label are kept apart. Of a frame with the log-probabilities :math:`e`

    .. math::
        b'(y) &= e_\varnothing + \log(\exp b(y) + \exp l(y)) \\
        l'(y) &= e_{y_n} + \log(\exp l(y) + \exp a(y)) \\
        l'(y c) &= e_c + (b(y) \text{ if } c = y_n \text{ else } \log(\exp b(y) + \exp l(y)))

    where :math:`a(y)` is what comes from ``y`` without its last label, if that is in the beam: what becomes the same is
    one prefix, exactly. Then the most probable prefixes are kept. A beam that holds all possible ones gives
    :math:`-`:func:`ctc_loss` of each; a smaller one at most that, since alignments are lost with prefixes.

    Args:
      logits: floating array (..., frames, classes), as in :func:`ctc_greedy_decode`, and all that follows.
      logit_paddings: shape (..., frames).
      logit_lengths: integers of shape (...), instead of paddings.
      blank_id: the class of blanks, from the end if it is negative.
      beam_size: how many prefixes are kept.

    Of equally probable prefixes those that are in the beam already come first, then those that extend a better one. A
    beam for which there is no prefix has the log-probability ``-inf``, and with NaN among the logits or a length out of
    range all have NaN; both have no labels.

    Returns:
      :class:`CTCDecoded`, best first: labels, int32 of shape (..., beam_size, frames), lengths, int32 of shape (...,
      beam_size), and log-probabilities of shape (..., beam_size), float64 if ``logits`` is, else float32. They may be
      differentiated, with the prefixes as they are.

    Raises:
      TypeError: as :func:`ctc_greedy_decode`.
      ValueError: as :func:`ctc_greedy_decode`, or ``beam_size`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> logits = jnp.log(jnp.array([[0.6, 0.4], [0.6, 0.4]]))
      >>> labels, lengths, log_prob = jaxloss.ctc_beam_decode(logits, beam_size=3)
      >>> print(labels.tolist(), lengths, jnp.exp(log_prob))  # though the best path is all blank
      [[1, -1], [-1, -1], [-1, -1]] [1 0 0] [0.64 0.36 0.  ]

    References:
      Graves et al., Connectionist Temporal Classification, https://doi.org/10.1145/1143844.1143891, section 3.2.
      Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs,
      https://arxiv.org/abs/1408.2873, algorithm 1, without a language model.
    """
    name = "ctc_beam_decode"
    size = arguments.positive_integer(name, "beam_size", beam_size)
    x, frames, blank, factor = _frames(name, logits, logit_paddings, logit_lengths, blank_id)
    start = match_varying_axes((x, frames), _first_beam(x, size))
    present = None if frames is None else jnp.moveaxis(frames, -1, 0)
    beam, offsets = lax.scan(partial(_next_beam, blank), start, (jnp.moveaxis(x, -2, 0), present))
    either, _ = log_add_with_share(beam.blank, beam.label)
    log_p = jnp.where(either == -jnp.inf, -jnp.inf, offsets.sum(0) + either)
    log_prob = factor[..., None] * jnp.minimum(log_p, 0)  # rounding alone makes it positive
    used = log_prob > -jnp.inf
    labels = jnp.where(used[..., None], beam.labels, -1)
    return CTCDecoded(labels, jnp.where(used, beam.lengths, 0), log_prob)


@compiled()
def ctc_align(
    logits: ArrayLike,
    logit_paddings: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    label_paddings: ArrayLike | None = None,
    *,
    logit_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    blank_id: int = 0,
) -> CTCAlignment:
    r"""The most probable alignment of given labels to frames, as Viterbi's algorithm finds it (forced alignment).

    .. math::
        \pi = \mathrm{argmax}_{\pi \in B^{-1}(y)} \log p(\pi), \quad \log p(\pi) = \sum_t \log p_{t, \pi_t}, \quad
        p_t = \mathrm{softmax}(x_t), \qquad
        \frac{\partial \log p(\pi)}{\partial x_{tc}} = [c = \pi_t] - p_{tc}

    where :math:`B` merges what is repeated, and then takes blanks out. :func:`ctc_loss` sums over what this maximizes.

    Args:
      logits: floating array (..., frames, classes). This and all that follows is as in :func:`ctc_loss`.
      logit_paddings: shape (..., frames).
      labels: integers of shape (..., n).
      label_paddings: shape (..., n).
      logit_lengths: integers of shape (...), instead of paddings.
      label_lengths: integers of shape (...), instead of paddings.
      blank_id: the class of blanks, from the end if it is negative.

    Of equally probable alignments it is the one that, going back from the last frame, prefers to stay in a blank or a
    label, and a blank to a label: labels come early. What gives NaN, as NaN among the logits does, has no alignment.

    Returns:
      :class:`CTCAlignment`: for each frame the index in [0, n) of the label that it emits, int32 of shape (...,
      frames), -1 for a blank and a padded frame; for each label its first frame and the one after its last, int32 of
      shape (..., n), -1 for padded labels; and the log-probability, of shape (...), float64 if ``logits`` is, else
      float32, which may be differentiated. Without any alignment it is ``-inf``, and all indices are -1.

    Raises:
      TypeError: as :func:`ctc_loss`.
      ValueError: as :func:`ctc_loss`.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> probabilities = jnp.array([[0.1, 0.7, 0.2], [0.2, 0.6, 0.2], [0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])
      >>> alignment = jaxloss.ctc_align(jnp.log(probabilities), labels=jnp.array([1, 2]))
      >>> print(alignment.frame_labels, alignment.starts, alignment.ends)
      [ 0  0 -1  1] [0 3] [2 4]
      >>> print(jnp.exp(alignment.log_prob).round(4))  # 0.7 0.6 0.8 0.4
      0.1344

    References:
      Graves et al., Connectionist Temporal Classification, https://doi.org/10.1145/1143844.1143891.
    """
    inputs = logits, logit_paddings, labels, label_paddings, logit_lengths, label_lengths
    x, sequences = prepare_ctc("ctc_align", *inputs, blank_id, None, None)
    emitted, _ = emitted_log_probs(x, sequences.labels, sequences.frames)
    states, best = _best_path(lax.stop_gradient(emitted), sequences)
    log_p = take_label(emitted, jnp.maximum(states, 0))
    total = jnp.where(states < 0, 0, log_p).sum(0)
    log_prob = nan_unless(sequences.valid, total.dtype) * jnp.where(best > -jnp.inf, total, best)
    frame_labels = jnp.maximum(jnp.moveaxis(states, 0, -1) - 1, -1)
    frame_labels = jnp.where((log_prob > -jnp.inf)[..., None], frame_labels, -1)
    shape = (*frame_labels.shape, sequences.labels.shape[-1] - 1)
    emits = lax.broadcasted_iota(np.int32, shape, len(shape) - 1) == frame_labels[..., None]
    frame = lax.broadcasted_iota(np.int32, shape, len(shape) - 2)
    starts = jnp.where(emits, frame, shape[-2]).min(-2, initial=shape[-2])
    ends = jnp.where(emits, frame + 1, -1).max(-2, initial=-1)
    return CTCAlignment(frame_labels, jnp.where(ends < 0, -1, starts), ends, log_prob)
