"""CTC and transducer losses of confident sequences: 1 - P(labels) as a sum of non-negative terms.

A sequence of symbols follows one path of states, until a state rejects a symbol or the path ends in a state that is not
final. With alpha_t(s) the probability of state s after t steps, of which `step` below gives the next one,

    1 - P  =  sum_{t, s} alpha_{t-1}(s) Pr(state s rejects the symbol of step t)  +  sum_{s not final} alpha_T(s)

is a polynomial in probabilities, all of whose coefficients are non-negative, and so are its derivatives. Nothing in it
cancels, in reverse mode neither. The loss is -log1p(-(1 - P)), where logarithms of states round what is less than eps
to 0. The rejected probabilities are sums, too: one minus the others would round.

The probabilities are not logarithms here, and what underflows is less than the smallest number. That is for sequences
of P > 1/2: others have a logarithm that is not small.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .classes import one_hot_mask
from .compiler import match_varying_axes
from .sequences import pick_several, repeated_labels, select_step, shifted
from .softmax import Row, exp_below, exp_sum, probabilities
from .special import log1p

LOG_2 = float(np.log(2))


def exactly(value: Array, formula: Array) -> Array:
    """The value, with the derivative of a formula that rounds more.

    The difference of the formula to itself is 0 only where it has been rounded: a compiler may fuse a product into it.
    """
    formula = lax.optimization_barrier(formula)
    return lax.stop_gradient(value) + (formula - lax.stop_gradient(formula))


def _where(confident: Array, value: Array, formula: Array) -> Array:
    """The same, for confident sequences only."""
    confident = confident.reshape(*confident.shape, *[1] * (formula.ndim - confident.ndim))
    return jnp.where(confident, exactly(value, jnp.where(confident, formula, 0)), formula)


def _as_it_is(computed: Any, *_: Any) -> Any:
    return computed


def _loss(rejection: Array, confident: Array, loss: Array) -> Array:
    return _where(confident, -log1p(-jnp.where(confident, rejection, 0)), loss)


def _partials(rejection_fn: Any, *terms: Array) -> tuple[Array, tuple[Array, ...]]:
    """1 - P, and its partial derivatives."""
    rejection, pull = jax.vjp(rejection_fn, *terms)
    return rejection, pull(jnp.ones_like(rejection))


# CTC. Blank state b_n and label state l_n, as in `_ctc`, allow blanks and the next label, which after l_n has to differ
# from the n-th; and l_n allows the n-th label.


def _sum(x: Array, pairs: Array) -> Array:
    """x [frames, ..., j] summed over the pairs [..., i, j] that are true: [frames, ..., i]."""
    return jnp.einsum("t...j,...ij->t...i", x, pairs.astype(x.dtype), precision=lax.Precision.HIGHEST)


def _same_labels(y: Array) -> Array:
    return y[..., :, None] == y[..., None, :]


def _first(y: Array) -> Array:
    """Whether no label before it is the same: one entry for each class."""
    same = _same_labels(y)
    before = lax.broadcasted_iota(np.int32, same.shape, y.ndim) < lax.broadcasted_iota(np.int32, same.shape, y.ndim - 1)
    return ~(same & before).any(-1)


def _other_classes(y: Array, classes: int, dtype: Any) -> Array:
    """1 for the classes that are neither the blank nor a label of the sequence, else 0: [..., classes]."""
    found = lax.broadcasted_iota(y.dtype, (*y.shape, classes), y.ndim) == y[..., None]
    return (~found.any(-2)).astype(dtype)


def _ctc_rejection(p: Array, p_other: Array, y: Array, counts: Array, frames: Array | None) -> Array:
    """1 - P, of the probabilities of the blank and the labels, [frames, ..., 1 + n], and of all other classes."""
    n = lax.broadcasted_iota(np.int32, y.shape, y.ndim - 1)
    more = n < counts[..., None]
    equal = _same_labels(y)
    following = jnp.concatenate([equal[..., 1:, :], jnp.zeros_like(equal[..., :1, :])], -2) & more[..., None]
    rejects = (_first(y) & (n > 0))[..., None, :] & ~following  # [..., state, label]
    dtype = p.dtype
    blank_rejects, label_rejects = p_other[..., None] + _sum(p, rejects), p_other[..., None] + _sum(p, rejects & ~equal)
    enters, from_label = more.astype(dtype), (more & ~repeated_labels(y)).astype(dtype)
    zeros = jnp.full_like(y, 0, dtype)
    start = match_varying_axes((p, p_other, y, counts, frames), (jnp.where(n == 0, 1, zeros), zeros, zeros.sum(-1)))

    @partial(jax.checkpoint, prevent_cse=False)  # of the states in all frames, nothing else is kept
    def step(carry: Any, frame: Any) -> Any:
        (blank, label, rejection), (p, blank_rejects, label_rejects, present) = carry, frame
        new = p[..., :1] * (blank + label), p * (label + shifted(enters * blank + from_label * label, 0))
        more = (blank * blank_rejects + label * label_rejects).sum(-1)
        more = more if present is None else jnp.where(present, more, 0)
        return (*select_step(present, new, (blank, label)), rejection + more), None

    present = None if frames is None else jnp.moveaxis(frames, -1, 0)
    (blank, label, rejection), _ = lax.scan(step, start, (p, blank_rejects, label_rejects, present))
    missed: Array = rejection + jnp.where(one_hot_mask(counts, y), 0, blank + label).sum(-1)
    return missed


@jax.custom_jvp
def _several(x: Array, y: Array, row: Row) -> Array:
    """The probabilities of several classes in each frame, with the derivative that `probabilities` has."""
    return exp_below(pick_several(x, y), row.top[..., None]) / (1 + row.tail)[..., None]


@_several.defjvp
def _(primals: tuple[Array, Array, Row], tangents: tuple[Array, Any, Row]) -> tuple[Array, Array]:
    x, y, row = primals
    _, (tangent, _) = jax.jvp(probabilities, (x, row), (tangents[0], tangents[2]))
    return _several(*primals), pick_several(tangent, y)


def _ctc_terms(x: Array, y: Array, frames: Array | None, row: Row) -> tuple[Array, Array, Array]:
    """The probabilities of the blank and the labels, and of all other classes; and which classes those are."""
    x = x if frames is None else jnp.where(frames[..., None], x, 0)
    other_classes = _other_classes(y, x.shape[-1], row.top.dtype)
    p_other = exp_sum(x, row.top, other_classes[..., None, :]) / (1 + row.tail)
    return jnp.moveaxis(_several(x, y, row), -2, 0), jnp.moveaxis(p_other, -1, 0), other_classes


def _ctc_loss(
    loss: Array, confident: Array, x: Array, y: Array, frames: Array | None, counts: Array, row: Row
) -> Array:
    p, p_other, _ = _ctc_terms(x, y, frames, row)
    return _loss(_ctc_rejection(p, p_other, y, counts, frames), confident, loss)


def ctc_loss(loss: Array, confident: Array, *inputs: Any) -> Array:
    """The losses, replaced by exact ones for confident sequences."""
    replaced: Array = lax.cond(confident.any(), _ctc_loss, _as_it_is, loss, confident, *lax.stop_gradient(inputs))
    return replaced


class Entries(NamedTuple):
    """The parts of the gradient of CTC: p_factor_c p_c - sum_{n: y_n = c} subtracted_n for the class c in a frame."""

    subtracted: Array  # [..., frames, 1 + n]
    at_likely: Array  # [..., frames], the entry of the class with p > 1/2
    p_factor: Array  # [..., classes]


def _ctc_entries(
    entries: Entries,
    confident: Array,
    likely: Array,
    x: Array,
    y: Array,
    frames: Array | None,
    counts: Array,
    row: Row,
) -> Entries:
    """p_c (A_c - sum_k p_k A_k) / P, A_c being the derivative of 1 - P by p_c, equal for all classes without a label.

    For these it is p_c. That of the most probable class is minus the sum of the others.
    """
    p, p_other, other_classes = _ctc_terms(*lax.stop_gradient((x, y, frames, row)))
    rejection, (d_p, d_other) = _partials(partial(_ctc_rejection, y=y, counts=counts, frames=frames), p, p_other)
    first = _first(y)
    d_p = _sum(d_p, _same_labels(y) & first[..., None])
    p, d_p = (jnp.moveaxis(a, 0, -2) for a in (p, d_p))
    p_other, d_other = (jnp.moveaxis(a, 0, -1) for a in (p_other, d_other))
    mean = (p * d_p).sum(-1) + p_other * d_other
    probability = 1 - jnp.where(confident, rejection, 0)
    first = jnp.broadcast_to(first[..., None, :], p.shape)
    exact = jnp.where(first, p * (d_p - mean[..., None]), 0) / probability[..., None, None]
    at_likely = -p_other - jnp.where(y[..., None, :] == likely[..., None], 0, exact).sum(-1)
    x = x if frames is None else jnp.where(frames[..., None], x, 0)
    subtracted = entries.subtracted - jnp.where(first, _several(x, y, row), 0)
    subtracted = jnp.where(confident[..., None, None], subtracted, entries.subtracted)
    return Entries(
        _where(confident, -exact, subtracted),
        _where(confident, at_likely, entries.at_likely),
        jnp.where(confident[..., None], other_classes, entries.p_factor),
    )


def ctc_entries(entries: Entries, confident: Array, *inputs: Any) -> Entries:
    """The entries, replaced by exact ones for confident sequences."""
    replaced: Entries = lax.cond(confident.any(), _ctc_entries, _as_it_is, entries, confident, *inputs)
    return replaced


# The transducer. A node allows the blank and, but for the last of a frame, the next label.


def _transducer_rejection(blank: Array, label: Array, rejected: Array, counts: Array) -> Array:
    """1 - P, of the probabilities of the arcs and of all other classes, by diagonals."""
    zeros = jnp.zeros_like(blank.sum(-1))
    first = lax.broadcasted_iota(np.int32, zeros.shape, zeros.ndim - 1) == 0
    start = match_varying_axes((blank, label, rejected, counts), (jnp.where(first, 1, zeros), zeros.sum(-1)))

    def step(carry: Any, arcs: Any) -> Any:
        (alpha, rejection), (blank, label, rejected) = carry, arcs
        return (alpha * blank + shifted(alpha * label, 0), rejection + (alpha * rejected).sum(-1)), None

    (alpha, rejection), _ = lax.scan(step, start, tuple(jnp.moveaxis(a, -1, 0) for a in (blank, label, rejected)))
    missed: Array = rejection + jnp.where(one_hot_mask(counts, alpha), 0, alpha).sum(-1)
    return missed


def _transducer_loss(
    loss: Array, confident: Array, blank: Array, label: Array, rejected: Array, counts: Array
) -> Array:
    return _loss(_transducer_rejection(blank, label, rejected, counts), confident, loss)


def transducer_loss(loss: Array, confident: Array, *inputs: Array) -> Array:
    """The losses, replaced by exact ones for confident sequences."""
    inputs = lax.stop_gradient(inputs)
    replaced: Array = lax.cond(confident.any(), _transducer_loss, _as_it_is, loss, confident, *inputs)
    return replaced


def _transducer_cotangents(
    cotangents: tuple[Array, Array, Array], confident: Array, blank: Array, label: Array, rejected: Array, counts: Array
) -> tuple[Array, Array, Array]:
    ct_blank, ct_label, ct_rejected = cotangents
    p_blank, p_label = lax.stop_gradient((blank, label))
    rejection_fn = partial(_transducer_rejection, counts=counts)
    rejection, partials = _partials(rejection_fn, p_blank, p_label, lax.stop_gradient(rejected))
    slope = jnp.where(confident, 1 / (1 - jnp.where(confident, rejection, 0)), 0)[..., None, None]
    d_blank, d_label, alpha = (slope * derivative for derivative in partials)
    return (
        _where(confident, p_blank * d_blank, ct_blank + alpha * blank),
        _where(confident, p_label * d_label, ct_label + alpha * label),
        jnp.where(confident[..., None, None], alpha, ct_rejected),
    )


def transducer_cotangents(
    cotangents: tuple[Array, Array, Array], confident: Array, *inputs: Array
) -> tuple[Array, Array, Array]:
    """The cotangents of the logarithms of blanks and labels, and of the rejected probabilities.

    At a node of confident sequences they are the posteriors' (-P(blank), -P(label), 0) plus a multiple of (p_blank,
    p_label, 1), which by the softmax is nothing, since all its probabilities sum to 1. With the multiple alpha / P,
    alpha the probability of the node, posteriors near 1 are replaced by what they lack.
    """
    replaced: tuple[Array, Array, Array] = lax.cond(
        confident.any(), _transducer_cotangents, _as_it_is, cotangents, confident, *inputs
    )
    return replaced
