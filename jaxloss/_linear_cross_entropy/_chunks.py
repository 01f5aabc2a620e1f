"""Losses of logits that are a product, hidden @ weight + bias, for some tokens at a time: all of them never exist.

Two forms. `weighted_sum` computes the gradients while it has the logits: three products in all. `each` returns the loss
of each token, whose cotangents are not known yet. Its gradients recompute the logits, and weight each token's row
before the sum over tokens. Both have every derivative, and accumulate in float32 at least.

Neither uses `custom_derivative`. That takes the tangent of a loss from its own row, and a weight belongs to all tokens.
And its forward pass saves residuals before it is known which arguments move, where `weighted_sum` has to know: it
computes their gradients, and no product for the others.
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
    """The static arguments."""

    rows: Rows
    chunk: int  # tokens
    class_axes: tuple[int, ...]  # of each head's weight, 0 or 1
    class_axis_name: AxisName | None  # the mapped axis over which the classes are split


def _dot(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    dtype = np.promote_types(a.dtype, np.float32)
    return lax.dot_general(a, b, (axes, ((), ())), preferred_element_type=dtype)


def _dot_of_tangents(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """The same with tangents in float32, multiplied in bfloat16 if one factor is.

    Its transpose multiplies in bfloat16 too, and yet gives, and so accumulates, float32.
    """
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if jnp.bfloat16 in (a.dtype, b.dtype) else None
    a, b = _at_least_float32(a), _at_least_float32(b)
    return lax.dot_general(a, b, (axes, ((), ())), precision, preferred_element_type=a.dtype)


def _hidden(head: Head, examples: Array | None) -> Array:
    """The hidden states with zeros in masked tokens: 0 NaN would be NaN in sums over tokens."""
    return Mask(examples).fill(head.hidden)


def _logits(plan: Plan, heads: tuple[Head, ...], examples: Array | None) -> tuple[Array, ...]:
    def logits_of_head(head: Head, class_axis: int) -> Array:
        z = _dot(_hidden(head, examples), head.weight, ((head.hidden.ndim - 1,), (1 - class_axis,)))
        return z if head.bias is None else z + jnp.broadcast_to(head.bias.astype(z.dtype), z.shape)

    return tuple(map(logits_of_head, heads, plan.class_axes))


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
    inner_shape, parts = x.shape[len(shape) :], _parts(shape, lengths)
    if not _is_cut_evenly(shape, lengths):
        fill = [(0, part * length - size) for size, part, length in zip(shape, parts, lengths, strict=True)]
        x = jnp.pad(x, fill + [(0, 0)] * len(inner_shape))
    lengths = tuple(min(n, size) if isinstance(size, int) else n for n, size in zip(lengths, shape, strict=True))
    x = x.reshape(*(n for pair in zip(lengths, parts, strict=True) for n in pair), *inner_shape)
    x = jnp.moveaxis(x, range(1, 2 * len(shape), 2), range(len(shape)))
    return x.reshape(math.prod(parts), *lengths, *inner_shape)


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
        arrays = *arrays[:2], jnp.ones(shape, bool), *arrays[3:]  # the filler of the last chunk is masked
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
    zeros = match_varying_axes((arrays, sums), jax.tree.map(lambda s: jnp.zeros_like(_at_least_float32(s)), sums))

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


def _split_heads(heads: tuple[Head, ...]) -> tuple[tuple[Array, ...], tuple[Head, ...]]:
    """The hidden states, and the output matrices and biases."""
    return tuple(h.hidden for h in heads), tuple(h._replace(hidden=None) for h in heads)


def _join_heads(hidden: tuple[Array | None, ...], outputs: tuple[Head, ...]) -> tuple[Head, ...]:
    return tuple(r._replace(hidden=h) for h, r in zip(hidden, outputs, strict=True))


def _is_none(x: Any) -> bool:
    return x is None


def _at_least_float32(x: Array) -> Array:
    return x.astype(np.promote_types(x.dtype, np.float32))


def _product(gradient: Array, tangent: Array) -> Array:
    return (_at_least_float32(gradient) * _at_least_float32(tangent)).sum()


def _zero_tangents(aux: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, aux)


# The loss of each token.


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def each(plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None) -> tuple[tuple[Array, ...], Any]:
    """The losses, and the auxiliary arrays."""
    hidden, outputs = _split_heads(heads)

    def step(part: Any) -> tuple[Any, Any]:
        hidden, tokens, examples = part
        losses, aux, _ = plan.rows.forward(
            _logits(plan, _join_heads(hidden, outputs), examples), tokens, examples, plan.class_axis_name
        )
        return (), (losses, aux)

    found: tuple[tuple[Array, ...], Any] = _over_chunks(plan, step, (hidden, tokens, examples), ())[1]
    return found


def _each_rule(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    losses, aux = each(plan, *primals)

    def linear(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, ...]:
        (heads, tokens, examples), (heads_dot, tokens_dot, _) = primals, tangents
        hidden, outputs = _split_heads(heads)
        hidden_dot, outputs_dot = _split_heads(heads_dot)
        outputs_dot = jax.tree.map(_at_least_float32, outputs_dot)  # and so their cotangents, which are sums
        outputs_dot = match_varying_axes(primals, outputs_dot)

        def step(part: Any) -> tuple[Any, Any]:
            hidden, tokens, examples, hidden_dot, tokens_dot = part
            heads = _join_heads(hidden, outputs)
            logits_dot = _logit_tangents(plan, heads, _join_heads(hidden_dot, outputs_dot), examples)
            losses, _, saved = plan.rows.forward(_logits(plan, heads, examples), tokens, examples, plan.class_axis_name)
            found = []
            ct_logits: Any
            for i, loss in enumerate(losses):
                cotangents = tuple(jnp.ones_like(loss) if i == j else None for j in range(len(losses)))
                ct_logits, ct_tokens = plan.rows.backward(
                    recompute_barrier(saved, rows=True), cotangents, plan.class_axis_name
                )
                tangent: Array = jnp.zeros_like(loss)
                for gradient, z in zip(ct_logits, logits_dot, strict=True):
                    if z is not None:
                        tangent += class_sum(gradient * z, plan.class_axis_name)
                for ct_token, t in zip(ct_tokens, tokens_dot, strict=True):
                    if ct_token is not None and t is not None:
                        tangent += ct_token * t
                found.append(tangent)
            return (), tuple(found)

        arrays = hidden, tokens, examples, hidden_dot, tokens_dot
        found: tuple[Array, ...] = _over_chunks(plan, step, arrays, ())[1]
        return found

    tangent = jax.checkpoint(linear, prevent_cse=False)(primals, drop_symbolic_zeros(tangents))
    return (losses, aux), (tangent, _zero_tangents(aux))


each.defjvp(_each_rule, symbolic_zeros=True)


def _logit_tangents(
    plan: Plan, heads: tuple[Head, ...], heads_dot: tuple[Head, ...], examples: Array | None
) -> list[Array | None]:
    """The tangents of the logits."""
    found: list[Array | None] = []
    for head, t, class_axis in zip(heads, heads_dot, plan.class_axes, strict=True):
        axes = (head.hidden.ndim - 1,), (1 - class_axis,)
        terms = []
        if t.hidden is not None:
            terms.append(_dot_of_tangents(_at_least_float32(_hidden(t, examples)), head.weight, axes))
        if t.weight is not None:
            terms.append(_dot_of_tangents(_hidden(head, examples), t.weight, axes))
        if t.bias is not None:
            terms.append(jnp.broadcast_to(t.bias, (*head.hidden.shape[:-1], *t.bias.shape)))
        found.append(sum(terms[1:], terms[0]) if terms else None)
    return found


# The weighted sum of the losses.


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(
    plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None, weight: Array
) -> tuple[Array, Any]:
    """The sum of weight * loss over the tokens, and the auxiliary arrays."""
    (losses,), aux = each(plan, heads, tokens, examples)
    return weigh(weight, losses).sum(), aux


def _weighted_sum_rule(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    moved, examples = drop_symbolic_zeros(tangents), primals[2]
    total, aux, gradients = _sum_with_gradients(plan, primals, moved)

    def linear(gradients: tuple[Any, ...], moved: tuple[Any, ...], examples: Array | None) -> Array:
        (ct_heads, *ct_others), (heads_dot, *others_dot) = gradients, moved
        ct_hidden, ct_outputs = _split_heads(ct_heads)
        hidden_dot, outputs_dot = _split_heads(heads_dot)
        sharded = jax.tree.leaves(jax.tree.map(_product, ct_outputs, outputs_dot))
        if plan.class_axis_name is not None:
            sharded = [lax.psum(s, plan.class_axis_name) for s in sharded]
        hidden_dot = tuple(None if h is None else Mask(examples).fill(h) for h in hidden_dot)
        replicated = jax.tree.leaves(jax.tree.map(_product, (ct_hidden, ct_others), (hidden_dot, others_dot)))
        return sum(sharded + replicated, jnp.zeros_like(total))

    tangent = jax.checkpoint(linear, prevent_cse=False)(gradients, moved, examples)
    return (total, aux), (tangent, _zero_tangents(aux))


weighted_sum.defjvp(_weighted_sum_rule, symbolic_zeros=True)


def _sum_with_gradients(
    plan: Plan, primals: tuple[Any, ...], moved: tuple[Any, ...]
) -> tuple[Array, Any, tuple[Any, ...]]:
    """The sum, the auxiliary arrays, and the gradients by the arguments that move."""
    heads, tokens, examples, weight = primals
    heads_dot, tokens_dot, _, weight_dot = moved
    hidden, outputs = _split_heads(heads)

    def gradients(part: Any) -> tuple[Any, Any]:
        hidden, tokens, examples, weight = part
        heads = _join_heads(hidden, outputs)
        (losses,), aux, saved = plan.rows.forward(
            _logits(plan, heads, examples), tokens, examples, plan.class_axis_name
        )
        ct_logits: Any
        ct_logits, ct_tokens = plan.rows.backward(recompute_barrier(saved, rows=True), (weight,), plan.class_axis_name)
        ct_tokens = tuple(None if dot is None else g for g, dot in zip(ct_tokens, tokens_dot, strict=True))
        ct_bias = tuple(
            None if head_dot.bias is None else g.sum(tuple(range(g.ndim - 1)))
            for g, head_dot in zip(ct_logits, heads_dot, strict=True)
        )
        ct_logits = tuple(g.astype(r.weight.dtype) for g, r in zip(ct_logits, outputs, strict=True))
        return ct_bias, (losses, aux, ct_logits, ct_tokens)

    def step(part: Any) -> tuple[Any, Any]:
        part, join = _parted(_tokens_with_logits(plan, outputs), part)
        hidden, _, examples, _ = part
        biases = tuple(
            None if head_dot.bias is None else r.bias for r, head_dot in zip(outputs, heads_dot, strict=True)
        )
        ct_biases, (losses, aux, ct_logits, ct_tokens) = _each_chunk(gradients, part, biases)
        per_head = ct_logits, _join_heads(hidden, outputs), plan.class_axes, heads_dot, ct_biases
        ct_heads = tuple(
            _head_cotangents(plan, gradient, head, examples, class_axis, head_dot)._replace(bias=ct_bias)
            for gradient, head, class_axis, head_dot, ct_bias in zip(*per_head, strict=True)
        )
        ct_hidden, ct_outputs = _split_heads(ct_heads)
        return ct_outputs, join((losses, aux, ct_hidden, ct_tokens))

    arrays = hidden, tokens, examples, weight
    summed = jax.tree.map(
        lambda dot, x: None if dot is None else x, _split_heads(heads_dot)[1], outputs, is_leaf=_is_none
    )
    # Without a checkpoint of its own, JAX takes what is the same in all chunks out of the loop, when it differentiates:
    # zeros and the indices of classes, each an array of the size of a chunk's logits.
    over_chunks = jax.checkpoint(partial(_over_chunks, plan, step), prevent_cse=False)
    ct_outputs, (losses, aux, ct_hidden, ct_tokens) = over_chunks(arrays, summed)
    ct_outputs = jax.tree.map(lambda g, x: g.astype(x.dtype), ct_outputs, summed)
    ct_weight = None if weight_dot is None else finite_where_unweighted(weight, losses)
    return weigh(weight, losses).sum(), aux, (_join_heads(ct_hidden, ct_outputs), ct_tokens, None, ct_weight)


def _tokens_with_logits(plan: Plan, outputs: tuple[Head, ...]) -> int:
    """How many tokens of a chunk have their logits in float32 at a time.

    Their gradient has the dtype of the weight, in which it is multiplied. Where that is bfloat16, a chunk of it is
    kept, and the logits that it is made of, twice as large, are there for a quarter of the chunk.
    """
    narrow = all(head.weight.dtype == jnp.bfloat16 for head in outputs)
    return min(plan.chunk, max(256, plan.chunk // 4)) if narrow else plan.chunk


def _head_cotangents(
    plan: Plan, ct_logits: Array, head: Head, examples: Array | None, class_axis: int, head_dot: Head
) -> Head:
    """A chunk's part of the gradients by hidden and weight, of those that move."""
    hidden, tokens = _hidden(head, examples), tuple(range(head.hidden.ndim - 1))
    ct_hidden = ct_weight = None
    if head_dot.hidden is not None:
        ct_hidden = _dot(ct_logits, head.weight, ((hidden.ndim - 1,), (class_axis,)))
        ct_hidden = ct_hidden if plan.class_axis_name is None else lax.psum(ct_hidden, plan.class_axis_name)
        ct_hidden = ct_hidden.astype(head.hidden.dtype)
    if head_dot.weight is not None:
        first, second = (hidden, ct_logits) if class_axis == 1 else (ct_logits, hidden)
        ct_weight = _dot(first, second, (tokens, tokens))
    return Head(ct_hidden, ct_weight, None)
