"""The loss of each token. Its cotangent is not known yet, so the gradients compute the logits again."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from .._core.chunks import over_chunks
from .._core.classes import class_sum
from .._core.compiler import match_varying_axes, recompute_barrier
from .._core.derivatives import drop_symbolic_zeros
from ._head import (
    Head,
    Plan,
    Tokens,
    compute_logits,
    join_heads,
    logit_tangents,
    split_heads,
    sum_dtype,
    zero_tangents,
)
from ._mesh import on_devices, shard_tokens, split, whole_features


def loss_of_each(
    plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None
) -> tuple[tuple[Array, ...], Any]:
    """The losses, several where a token has several, and the auxiliary arrays."""
    if (parts := split(plan, heads, (tokens, examples))) is None:
        return _each(plan, whole_features(heads, plan.class_axes), tokens, examples)

    found = on_devices(plan, parts, _each, heads, (tokens, examples), parts.token)
    sharded: tuple[tuple[Array, ...], Any] = shard_tokens(found, heads)
    return sharded


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _each(plan: Plan, heads: tuple[Head, ...], tokens: Tokens, examples: Array | None) -> tuple[tuple[Array, ...], Any]:
    """The losses, and the auxiliary arrays."""
    hidden, outputs = split_heads(heads)

    def step(part: Any) -> tuple[Any, Any]:
        hidden, tokens, examples = part
        losses, aux, _ = plan.rows.forward(
            compute_logits(plan, join_heads(hidden, outputs), examples), tokens, examples, plan.class_axis_name
        )
        return (), (losses, aux)

    found: tuple[tuple[Array, ...], Any] = over_chunks(plan.chunk, plan.strided, step, (hidden, tokens, examples))[1]
    return found


def _each_rule(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    losses, aux = _each(plan, *primals)

    def linear(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, ...]:
        (heads, tokens, examples), (heads_dot, tokens_dot, _) = primals, tangents
        hidden, outputs = split_heads(heads)
        hidden_dot, outputs_dot = split_heads(heads_dot)
        # Their cotangents are sums over tokens.
        outputs_dot = jax.tree.map(lambda t: t.astype(sum_dtype(plan, t)), outputs_dot)
        outputs_dot = match_varying_axes(primals, outputs_dot)

        def step(part: Any) -> tuple[Any, Any]:
            hidden, tokens, examples, hidden_dot, tokens_dot = part
            heads = join_heads(hidden, outputs)
            logits_dot = logit_tangents(plan, heads, join_heads(hidden_dot, outputs_dot), examples)
            losses, _, saved = plan.rows.forward(
                compute_logits(plan, heads, examples), tokens, examples, plan.class_axis_name
            )
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
                for k, (ct_token, t) in enumerate(zip(ct_tokens, tokens_dot, strict=True)):
                    if ct_token is not None and t is not None:
                        axis_name = plan.class_axis_name if k in plan.rows.class_tokens else None
                        rows = (ct_token * t).reshape(*loss.shape, -1)
                        tangent += class_sum(rows, axis_name)
                found.append(tangent)
            return (), tuple(found)

        arrays = hidden, tokens, examples, hidden_dot, tokens_dot
        found: tuple[Array, ...] = over_chunks(plan.chunk, plan.strided, step, arrays)[1]
        return found

    tangent = jax.checkpoint(linear, prevent_cse=False)(primals, drop_symbolic_zeros(tangents))
    return (losses, aux), (tangent, zero_tangents(aux))


_each.defjvp(_each_rule, symbolic_zeros=True)
