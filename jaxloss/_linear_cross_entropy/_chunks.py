"""Losses of logits that are a product, hidden @ weight + bias, for some tokens at a time: all of them never exist.

Two forms. `weighted_sum` computes the gradients while it has the logits: three products in all. `each` gives the loss
of each token, whose cotangents are not known yet: it computes the logits again for the gradients, and weighs each
token's row before tokens are summed over. Both have every derivative, and accumulate in float32 at least.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._core.classes import class_sum
from .._core.compiler import match_varying_axes, recompute_barrier
from .._core.derivatives import drop_symbolic_zeros
from .._core.masks import Mask, finite_where_unweighted, weigh
from .._core.types import AxisName


class Head(NamedTuple):
    hidden: Any  # an array [..., features]
    weight: Array  # [features, classes] or, if the plan says so, the transpose
    bias: Array | None  # [classes]


Tokens = tuple[Array | None, ...]
"""Arrays [...] beside the logits that a loss depends on."""


class Rows(NamedTuple):
    """The mathematics of rows of logits, an array [..., classes] for each head, written by hand in both directions."""

    # (logits, tokens, kept, class_axis_name) -> losses, floating auxiliary arrays without derivative, saved. Losses are
    # several where a token has several.
    forward: Callable[..., tuple[tuple[Array, ...], Any, Any]]
    # (saved, cotangents of the losses or None, class_axis_name) -> cotangents of the logits and of the tokens
    backward: Callable[..., tuple[Tokens, Tokens]]


class Plan(NamedTuple):
    """What is not traced."""

    rows: Rows
    chunk: int  # tokens
    class_axes: tuple[int, ...]  # of each head's weight, 0 or 1
    class_axis_name: AxisName | None  # the mapped axis over which the classes are split


def _dot(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    wide = np.promote_types(a.dtype, np.float32)
    return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=wide)


def _dot_of_tangents(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """The same with tangents in float32, multiplied in bfloat16 if one factor is.

    Its transpose multiplies in bfloat16 too, and yet gives, and so accumulates, float32.
    """
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if jnp.bfloat16 in (a.dtype, b.dtype) else None
    a, b = _wide(a), _wide(b)
    return lax.dot_general(a, b, (axes, ((), ())), precision, preferred_element_type=a.dtype)


def _hidden(head: Head, kept: Array | None) -> Array:
    """Zeros where a mask excludes: 0 NaN is NaN, in sums over tokens too."""
    return Mask(kept).fill(head.hidden)


def _logits(plan: Plan, heads: tuple[Head, ...], kept: Array | None) -> tuple[Array, ...]:
    def of(head: Head, class_axis: int) -> Array:
        z = _dot(_hidden(head, kept), head.weight, ((head.hidden.ndim - 1,), (1 - class_axis,)))
        return z if head.bias is None else z + jnp.broadcast_to(head.bias.astype(z.dtype), z.shape)

    return tuple(map(of, heads, plan.class_axes))


# A chunk has a part of each axis of tokens, of the last one first, taken in strides, [..., size / parts, parts]: so a
# mesh that splits an axis into blocks splits each chunk alike, and no device waits for another's chunk.


def _lengths(shape: tuple[Any, ...], chunk: int) -> tuple[int, ...]:
    """How long a chunk of that many tokens at most is along each axis, in chunks as equal as can be.

    Of axes whose size is a symbol, as in `jax.export`, the last one fills the chunk and the others have one token each.
    """
    known = [size for size in shape if isinstance(size, int)]
    chunks, lengths = _ceil(math.prod(known), chunk), []
    for size in reversed(known):
        lengths.append(max(1, _ceil(size, min(size, chunks)) if chunks > 1 and size else size))
        chunks = _ceil(chunks, _ceil(size, lengths[-1]) or 1)
    room = max(1, chunk // math.prod(lengths))
    found = []
    for size in reversed(shape):
        if isinstance(size, int):
            found.append(lengths.pop(0))
        else:
            found.append(room)
            room = 1
    return tuple(reversed(found))


def _ceil(a: Any, b: Any) -> Any:
    """a / b, rounded up."""
    return -(-a // b)


def _parts(shape: tuple[Any, ...], lengths: tuple[int, ...]) -> list[Any]:
    """Into how many parts each axis is cut; one part of an empty one."""
    return [1 if isinstance(size, int) and not size else _ceil(size, n) for size, n in zip(shape, lengths, strict=True)]


def _is_cut_evenly(shape: tuple[Any, ...], lengths: tuple[int, ...]) -> bool:
    return all(isinstance(size, int) and size % length == 0 for size, length in zip(shape, lengths, strict=True))


def _cut(x: Array, shape: tuple[Any, ...], lengths: tuple[int, ...]) -> Array:
    """[tokens, rest] as [chunks, tokens of a chunk, rest]."""
    rest, parts = x.shape[len(shape) :], _parts(shape, lengths)
    if not _is_cut_evenly(shape, lengths):
        fill = [(0, part * length - size) for size, part, length in zip(shape, parts, lengths, strict=True)]
        x = jnp.pad(x, fill + [(0, 0)] * len(rest))
    lengths = tuple(min(n, size) if isinstance(size, int) else n for n, size in zip(lengths, shape, strict=True))
    x = x.reshape(*(n for pair in zip(lengths, parts, strict=True) for n in pair), *rest)
    x = jnp.moveaxis(x, range(1, 2 * len(shape), 2), range(len(shape)))
    return x.reshape(math.prod(parts), *lengths, *rest)


def _join(x: Array, shape: tuple[Any, ...], lengths: tuple[int, ...]) -> Array:
    """The inverse of `_cut`."""
    parts = _parts(shape, lengths)
    x = x.reshape(*parts, *x.shape[1:])
    x = jnp.moveaxis(x, range(len(shape)), range(1, 2 * len(shape), 2))
    x = x.reshape(*(x.shape[2 * i] * part for i, part in enumerate(parts)), *x.shape[2 * len(shape) :])
    return x[tuple(slice(size) for size in shape)]


def _parted(chunk: int, arrays: tuple[Any, ...]) -> tuple[tuple[Any, ...], Callable[[Any], Any]]:
    """Hidden, tokens, kept and whatever else is of tokens, in chunks, and what joins such arrays."""
    shape = arrays[0][0].shape[:-1]
    lengths = _lengths(shape, chunk)
    if arrays[2] is None and not _is_cut_evenly(shape, lengths):
        arrays = *arrays[:2], jnp.ones(shape, bool), *arrays[3:]  # what fills the last chunk is excluded
    return (
        jax.tree.map(lambda a: _cut(a, shape, lengths), arrays),
        lambda found: jax.tree.map(lambda a: _join(a, shape, lengths), found),
    )


def _each_chunk(step: Callable[[Any], tuple[Any, Any]], arrays: tuple[Any, ...], sums: Any) -> tuple[Any, Any]:
    """The sum of what ``step`` gives first, of the structure and the shapes of ``sums``, and all that it gives second.

    ``step`` keeps nothing for a derivative but its part of the arrays: what it makes of them, of all chunks together,
    is what must not be.
    """
    step = jax.checkpoint(step, prevent_cse=False)
    if jax.tree.leaves(arrays)[0].shape[0] == 1:
        added, found = step(jax.tree.map(lambda a: a[0], arrays))
        return added, jax.tree.map(lambda a: a[None], found)
    zeros = match_varying_axes((arrays, sums), jax.tree.map(lambda s: jnp.zeros_like(_wide(s)), sums))

    def body(carry: Any, part: Any) -> tuple[Any, Any]:
        added, found = step(part)
        return jax.tree.map(jnp.add, carry, added), found

    summed_and_found: tuple[Any, Any] = lax.scan(body, zeros, arrays)
    return summed_and_found


def _over_chunks(
    plan: Plan, step: Callable[[Any], tuple[Any, Any]], arrays: tuple[Any, ...], sums: Any
) -> tuple[Any, Any]:
    """`_each_chunk` of arrays that are not in chunks."""
    parted, join = _parted(plan.chunk, arrays)
    added, found = _each_chunk(step, parted, sums)
    return added, join(found)


def _split(heads: tuple[Head, ...]) -> tuple[tuple[Array, ...], tuple[Head, ...]]:
    """What is of tokens, and what is not."""
    return tuple(h.hidden for h in heads), tuple(h._replace(hidden=None) for h in heads)


def _joined(hidden: tuple[Array | None, ...], rest: tuple[Head, ...]) -> tuple[Head, ...]:
    return tuple(r._replace(hidden=h) for h, r in zip(hidden, rest, strict=True))


def _is_none(x: Any) -> bool:
    return x is None


def _wide(x: Array) -> Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _product(gradient: Array, tangent: Array) -> Array:
    return (_wide(gradient) * _wide(tangent)).sum()


def _without_derivative(aux: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, aux)


# The loss of each token.


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def each(plan: Plan, heads: tuple[Head, ...], tokens: Tokens, kept: Array | None) -> tuple[tuple[Array, ...], Any]:
    """The losses, and the auxiliary arrays."""
    hidden, rest = _split(heads)

    def step(part: Any) -> tuple[Any, Any]:
        hidden, tokens, kept = part
        losses, aux, _ = plan.rows.forward(
            _logits(plan, _joined(hidden, rest), kept), tokens, kept, plan.class_axis_name
        )
        return (), (losses, aux)

    found: tuple[tuple[Array, ...], Any] = _over_chunks(plan, step, (hidden, tokens, kept), ())[1]
    return found


def _each_rule(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    losses, aux = each(plan, *primals)

    def linear(primals: tuple[Any, ...], moving: tuple[Any, ...]) -> tuple[Array, ...]:
        (heads, tokens, kept), (moving_heads, moving_tokens, _) = primals, moving
        hidden, rest = _split(heads)
        moving_hidden, moving_rest = _split(moving_heads)
        moving_rest = jax.tree.map(_wide, moving_rest)  # and so their cotangents, which are sums
        moving_rest = match_varying_axes(primals, moving_rest)

        def step(part: Any) -> tuple[Any, Any]:
            hidden, tokens, kept, moving_hidden, moving_tokens = part
            heads = _joined(hidden, rest)
            moving_logits = _moving_logits(plan, heads, _joined(moving_hidden, moving_rest), kept)
            losses, _, saved = plan.rows.forward(_logits(plan, heads, kept), tokens, kept, plan.class_axis_name)
            found = []
            of_logits: Any
            for i, loss in enumerate(losses):
                one = tuple(jnp.ones_like(loss) if i == j else None for j in range(len(losses)))
                of_logits, of_tokens = plan.rows.backward(
                    recompute_barrier(saved, rows=True), one, plan.class_axis_name
                )
                tangent: Array = jnp.zeros_like(loss)
                for gradient, z in zip(of_logits, moving_logits, strict=True):
                    if z is not None:
                        tangent += class_sum(gradient * z, plan.class_axis_name)
                for of_token, t in zip(of_tokens, moving_tokens, strict=True):
                    if of_token is not None and t is not None:
                        tangent += of_token * t
                found.append(tangent)
            return (), tuple(found)

        arrays = hidden, tokens, kept, moving_hidden, moving_tokens
        found: tuple[Array, ...] = _over_chunks(plan, step, arrays, ())[1]
        return found

    moved = jax.checkpoint(linear, prevent_cse=False)(primals, drop_symbolic_zeros(tangents))
    return (losses, aux), (moved, _without_derivative(aux))


each.defjvp(_each_rule, symbolic_zeros=True)


def _moving_logits(
    plan: Plan, heads: tuple[Head, ...], moving: tuple[Head, ...], kept: Array | None
) -> list[Array | None]:
    """The tangents of the logits."""
    found: list[Array | None] = []
    for head, t, class_axis in zip(heads, moving, plan.class_axes, strict=True):
        axes = (head.hidden.ndim - 1,), (1 - class_axis,)
        terms = []
        if t.hidden is not None:
            terms.append(_dot_of_tangents(_wide(_hidden(t, kept)), head.weight, axes))
        if t.weight is not None:
            terms.append(_dot_of_tangents(_hidden(head, kept), t.weight, axes))
        if t.bias is not None:
            terms.append(jnp.broadcast_to(t.bias, (*head.hidden.shape[:-1], *t.bias.shape)))
        found.append(sum(terms[1:], terms[0]) if terms else None)
    return found


# The weighted sum of the losses.


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(
    plan: Plan, heads: tuple[Head, ...], tokens: Tokens, kept: Array | None, weight: Array
) -> tuple[Array, Any]:
    """The sum of weight * loss over the tokens, and the auxiliary arrays."""
    (losses,), aux = each(plan, heads, tokens, kept)
    return weigh(weight, losses).sum(), aux


def _weighted_sum_rule(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    moving, kept = drop_symbolic_zeros(tangents), primals[2]
    total, aux, gradients = _with_gradients(plan, primals, moving)

    def linear(gradients: tuple[Any, ...], moving: tuple[Any, ...], kept: Array | None) -> Array:
        (of_heads, *of_others), (heads, *others) = gradients, moving
        of_hidden, of_rest = _split(of_heads)
        hidden, rest = _split(heads)
        split = jax.tree.leaves(jax.tree.map(_product, of_rest, rest))
        if plan.class_axis_name is not None:
            split = [lax.psum(s, plan.class_axis_name) for s in split]
        hidden = tuple(None if h is None else Mask(kept).fill(h) for h in hidden)
        whole = jax.tree.leaves(jax.tree.map(_product, (of_hidden, of_others), (hidden, others)))
        return sum(split + whole, jnp.zeros_like(total))

    tangent = jax.checkpoint(linear, prevent_cse=False)(gradients, moving, kept)
    return (total, aux), (tangent, _without_derivative(aux))


weighted_sum.defjvp(_weighted_sum_rule, symbolic_zeros=True)


def _with_gradients(
    plan: Plan, primals: tuple[Any, ...], moving: tuple[Any, ...]
) -> tuple[Array, Any, tuple[Any, ...]]:
    """The sum, the auxiliary arrays, and the gradient by all that moves."""
    heads, tokens, kept, weight = primals
    moving_heads, moving_tokens, _, moving_weight = moving
    hidden, rest = _split(heads)

    def gradients(part: Any) -> tuple[Any, Any]:
        hidden, tokens, kept, weight = part
        heads = _joined(hidden, rest)
        (losses,), aux, saved = plan.rows.forward(_logits(plan, heads, kept), tokens, kept, plan.class_axis_name)
        of_logits: Any
        of_logits, of_tokens = plan.rows.backward(recompute_barrier(saved, rows=True), (weight,), plan.class_axis_name)
        of_tokens = tuple(None if t is None else g for g, t in zip(of_tokens, moving_tokens, strict=True))
        of_bias = tuple(
            None if t.bias is None else g.sum(tuple(range(g.ndim - 1)))
            for g, t in zip(of_logits, moving_heads, strict=True)
        )
        of_logits = tuple(g.astype(r.weight.dtype) for g, r in zip(of_logits, rest, strict=True))
        return of_bias, (losses, aux, of_logits, of_tokens)

    def step(part: Any) -> tuple[Any, Any]:
        part, join = _parted(_few(plan, rest), part)
        hidden, _, kept, _ = part
        biases = tuple(None if t.bias is None else r.bias for r, t in zip(rest, moving_heads, strict=True))
        of_biases, (losses, aux, of_logits, of_tokens) = _each_chunk(gradients, part, biases)
        given = of_logits, _joined(hidden, rest), plan.class_axes, moving_heads, of_biases
        of_heads = tuple(
            _of_head(plan, gradient, head, kept, class_axis, t)._replace(bias=of_bias)
            for gradient, head, class_axis, t, of_bias in zip(*given, strict=True)
        )
        of_hidden, of_rest = _split(of_heads)
        return of_rest, join((losses, aux, of_hidden, of_tokens))

    arrays = hidden, tokens, kept, weight
    moved = jax.tree.map(lambda t, x: None if t is None else x, _split(moving_heads)[1], rest, is_leaf=_is_none)
    # Without a checkpoint of its own, JAX takes what is the same in all chunks out of the loop, when it differentiates:
    # zeros and the indices of classes, each an array of the size of a chunk's logits.
    over_chunks = jax.checkpoint(partial(_over_chunks, plan, step), prevent_cse=False)
    of_rest, (losses, aux, of_hidden, of_tokens) = over_chunks(arrays, moved)
    of_rest = jax.tree.map(lambda g, x: g.astype(x.dtype), of_rest, moved)
    of_weight = None if moving_weight is None else finite_where_unweighted(weight, losses)
    return weigh(weight, losses).sum(), aux, (_joined(of_hidden, of_rest), of_tokens, None, of_weight)


def _few(plan: Plan, rest: tuple[Head, ...]) -> int:
    """How many tokens of a chunk have their logits in float32 at a time.

    Their gradient has the dtype of the weight, in which it is multiplied. Where that is bfloat16, a chunk of it is
    kept, and the logits that it is made of, twice as large, are there for a quarter of the chunk.
    """
    narrow = all(head.weight.dtype == jnp.bfloat16 for head in rest)
    return min(plan.chunk, max(256, plan.chunk // 4)) if narrow else plan.chunk


def _of_head(plan: Plan, of_logits: Array, head: Head, kept: Array | None, class_axis: int, t: Head) -> Head:
    """The part of the gradient of hidden and of the weight that a chunk gives, of what moves."""
    hidden, tokens = _hidden(head, kept), tuple(range(head.hidden.ndim - 1))
    of_hidden = of_weight = None
    if t.hidden is not None:
        of_hidden = _dot(of_logits, head.weight, ((hidden.ndim - 1,), (class_axis,)))
        of_hidden = of_hidden if plan.class_axis_name is None else lax.psum(of_hidden, plan.class_axis_name)
        of_hidden = of_hidden.astype(head.hidden.dtype)
    if t.weight is not None:
        first, second = (hidden, of_logits) if class_axis == 1 else (of_logits, hidden)
        of_weight = _dot(first, second, (tokens, tokens))
    return Head(of_hidden, of_weight, None)
