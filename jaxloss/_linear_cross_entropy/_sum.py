"""The weighted sum of the losses. Its gradients are computed while the logits are there: three products in all."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from .._core.chunks import each_chunk, into_chunks, over_chunks
from .._core.compiler import recompute_barrier
from .._core.derivatives import drop_symbolic_zeros
from .._core.masks import Mask, finite_where_unweighted, weigh
from ._each import loss_of_each
from ._head import (
    Head,
    Plan,
    Tokens,
    at_least_float32,
    compute_logits,
    dot,
    filled_hidden,
    join_heads,
    split_heads,
    zero_tangents,
)
from ._mesh import Split, add_up, head_specs, on_devices, shard_tokens, split, token_specs, whole_features


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_of_all(
    plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None, weight: Array
) -> tuple[Array, Any]:
    """The sum of weight * loss over the tokens, and the auxiliary arrays."""
    (losses,), aux = loss_of_each(plan, heads, tokens, examples)
    return weigh(weight, losses).sum(), aux


def _rule(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    moved, examples = drop_symbolic_zeros(tangents), primals[2]
    total, aux, gradients = _sum_with_gradients(plan, jax.tree.map(lambda _: True, moved), *primals)

    def linear(gradients: tuple[Any, ...], moved: tuple[Any, ...], examples: Array | None) -> Array:
        hidden_dot, outputs_dot = split_heads(moved[0])
        hidden_dot = tuple(None if h is None else Mask(examples).fill(h) for h in hidden_dot)
        heads_dot = join_heads(hidden_dot, outputs_dot)
        heads, tokens, *others = jax.tree.map(_product, gradients, [heads_dot, *moved[1:]])
        hidden, outputs = split_heads(heads)
        of_classes = [product for i, product in enumerate(tokens) if i in plan.rows.class_tokens]
        of_tokens = [product for i, product in enumerate(tokens) if i not in plan.rows.class_tokens]
        split_over_classes = jax.tree.leaves((outputs, of_classes))
        if plan.class_axis_name is not None:
            split_over_classes = [lax.psum(product, plan.class_axis_name) for product in split_over_classes]
        return sum(split_over_classes + jax.tree.leaves((hidden, of_tokens, others)), jnp.zeros_like(total))

    tangent = jax.checkpoint(linear, prevent_cse=False)(gradients, moved, examples)
    return (total, aux), (tangent, zero_tangents(aux))


sum_of_all.defjvp(_rule, symbolic_zeros=True)


def _product(gradient: Array, tangent: Array) -> Array:
    return (at_least_float32(gradient) * at_least_float32(tangent)).sum()


def _sum_with_gradients(
    plan: Plan, moves: Any, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None, weight: Array
) -> tuple[Array, Any, list[Any]]:
    """The sum, the auxiliary arrays, and the gradients by the arguments that move: those that are True in ``moves``."""
    arrays = tokens, examples, weight
    if (parts := split(plan, heads, arrays)) is None:
        total, aux, *gradients = _on_device(moves, None, plan, whole_features(heads, plan.class_axes), *arrays)
        gradients[0] = whole_features(gradients[0], plan.class_axes)
        return total, aux, gradients
    specs = jax.tree.map(lambda moves, x: x if moves else None, moves[0], head_specs(parts), is_leaf=_is_none)
    out_specs = P(), parts.token, specs, token_specs(plan, parts, tokens), parts.token, parts.token
    local = partial(_on_device, moves, parts)
    total, aux, *gradients = on_devices(plan, parts, local, heads, arrays, out_specs)

    mesh = parts.mesh

    def resharded(gradient: Array | None, x: Array) -> Array | None:
        return None if gradient is None else reshard(gradient, NamedSharding(mesh, jax.typeof(x).sharding.spec))

    gradients = jax.tree.map(resharded, gradients, [heads, *arrays], is_leaf=_is_none)
    return total, shard_tokens(aux, heads), gradients


def _is_none(x: Any) -> bool:
    return x is None


def _on_device(
    moves: Any,
    parts: Split | None,
    plan: Plan,
    heads: tuple[Head, ...],
    tokens: Tokens,
    examples: Array | None,
    weight: Array,
) -> tuple[Any, ...]:
    """The same on one device, with its part of the arrays."""
    heads_move, tokens_move, _, weight_moves = moves
    hidden, outputs = split_heads(heads)

    def gradients(part: Any) -> tuple[Any, Any]:
        hidden, tokens, examples, weight = part
        heads = join_heads(hidden, outputs)
        (losses,), aux, saved = plan.rows.forward(
            compute_logits(plan, heads, examples), tokens, examples, plan.class_axis_name
        )
        ct_logits: Any
        ct_logits, ct_tokens = plan.rows.backward(recompute_barrier(saved, rows=True), (weight,), plan.class_axis_name)
        ct_tokens = tuple(g if moves else None for g, moves in zip(ct_tokens, tokens_move, strict=True))
        ct_bias = tuple(
            g.sum(tuple(range(g.ndim - 1))) if moves.bias else None
            for g, moves in zip(ct_logits, heads_move, strict=True)
        )
        ct_logits = tuple(g.astype(r.weight.dtype) for g, r in zip(ct_logits, outputs, strict=True))
        return ct_bias, (losses, aux, ct_logits, ct_tokens)

    def step(part: Any) -> tuple[Any, Any]:
        part, join = into_chunks(_tokens_with_logits(plan, outputs), plan.strided, part)
        hidden, _, examples, _ = part
        ct_biases, (losses, aux, ct_logits, ct_tokens) = each_chunk(gradients, part, tuple(x.bias for x in summed))
        per_head = ct_logits, join_heads(hidden, outputs), plan.class_axes, heads_move, ct_biases
        ct_heads = tuple(
            _head_cotangents(plan, gradient, head, examples, class_axis, moves)._replace(bias=ct_bias)
            for gradient, head, class_axis, moves, ct_bias in zip(*per_head, strict=True)
        )
        ct_hidden, ct_outputs = split_heads(ct_heads)
        return ct_outputs, join((losses, aux, ct_hidden, ct_tokens))

    _, outputs_move = split_heads(heads_move)
    summed = jax.tree.map(lambda moves, x: x if moves else None, outputs_move, outputs, is_leaf=_is_none)
    # Without a checkpoint of its own, JAX takes what is the same in all chunks out of the loop, when it differentiates:
    # zeros and the indices of classes, each an array of the size of a chunk's logits.
    loop = jax.checkpoint(
        partial(over_chunks, plan.chunk, plan.strided, step, dtype=plan.accumulation_dtype), prevent_cse=False
    )
    ct_outputs, (losses, aux, ct_hidden, ct_tokens) = loop((hidden, tokens, examples, weight), summed)
    ct_outputs = jax.tree.map(lambda g, x: g.astype(x.dtype), ct_outputs, summed)
    total = weigh(weight, losses).sum()
    token_axes = () if parts is None else parts.token_axes
    ct_heads = add_up(plan, parts, join_heads(ct_hidden, ct_outputs))
    ct_weight = finite_where_unweighted(weight, losses) if weight_moves else None
    return lax.psum(total, token_axes) if token_axes else total, aux, ct_heads, ct_tokens, None, ct_weight


def _tokens_with_logits(plan: Plan, outputs: tuple[Head, ...]) -> int:
    """How many tokens of a chunk have their logits in float32 at a time.

    Their gradient has the dtype of the weight, in which it is multiplied. Where that is bfloat16, a chunk of it is
    kept, and the logits that it is made of, twice as large, are there for a quarter of the chunk.
    """
    narrow = all(head.weight.dtype == jnp.bfloat16 for head in outputs)
    return min(plan.chunk, max(256, plan.chunk // 4)) if narrow else plan.chunk


def _head_cotangents(
    plan: Plan, ct_logits: Array, head: Head, examples: Array | None, class_axis: int, moves: Head
) -> Head:
    """A chunk's part of the gradients by hidden and weight, of those that move, from the device's classes."""
    hidden, tokens = filled_hidden(head, examples), tuple(range(head.hidden.ndim - 1))
    ct_hidden = ct_weight = None
    if moves.hidden:
        # On an automatic mesh devices exchange what the product gives; a CPU is faster with float32 (JAX 0.10).
        dtype = hidden.dtype if plan.strided else None
        ct_hidden = dot(ct_logits, head.weight, ((hidden.ndim - 1,), (class_axis,)), dtype).astype(hidden.dtype)
    if moves.weight:
        first, second = (hidden, ct_logits) if class_axis == 1 else (ct_logits, hidden)
        ct_weight = dot(first, second, (tokens, tokens), plan.accumulation_dtype)
    return Head(ct_hidden, ct_weight, None)  # type: ignore[arg-type]
