"""Auxiliary losses of routers, which send tokens to experts."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import in_range, nan_unless
from ._core.compiler import compiled, shard_like
from ._core.cross_entropy import Options, transform_logits, transform_logits_backward
from ._core.derivatives import custom_derivative
from ._core.masks import Mask, prepare_mask
from ._core.reduction import reduce
from ._core.rows import defer_upcast, prepare_logits
from ._core.softmax import Row, finite_logsumexp, logsumexp, probabilities, summary
from ._core.types import Axis, AxisName, Reduction


@compiled()
def load_balancing_loss(
    logits: ArrayLike,
    experts: ArrayLike,
    *,
    token_axis: Axis = None,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    r"""Load balancing loss of a mixture of experts (Switch, GShard), of the tokens of a batch.

    .. math::
        \ell = E \sum_{e=1}^{E} f_e P_e, \qquad
        f_e = \frac{\text{tokens sent to } e}{N K}, \qquad
        P_e = \frac{1}{N} \sum_{n=1}^{N} p_{ne}, \qquad p = \mathrm{softmax}(x)

    N tokens are sent to K of E experts each. Perfect balance gives 1. The gradient is that of :math:`P`, as counts have
    none: the loss moves probability away from experts that receive more than their share. It sees only averages. Where
    all probabilities are equal it is 1, wherever the tokens go.

    Hugging Face and MaxText do not divide the counts by K: their loss is K times this one. Megatron and OLMoE do. Over
    layers: stack them as a leading axis, for the average load of all layers, as Hugging Face does, or name the other
    axes by ``token_axis``, for the loss of each.

    Args:
      logits: :math:`x`, floating, (..., experts): the router's scores before any softmax. For normalised sigmoid scores
        (DeepSeek-V3) pass ``jax.nn.log_sigmoid(logits)``, whose softmax they are.
      experts: integers in [0, experts), (..., K): where each token goes, as ``jax.lax.top_k(logits, K)[1]``. Any other
        integer gives NaN.
      token_axis: the axis or axes of the tokens that are to be balanced together; None for all but the last. Of logits
        (batch, length, experts), 1 balances each sequence by itself, and ``.mean()`` of it is the loss of MaxText and
        the sequence-wise one of DeepSeek.
      where: boolean mask, broadcast to the shape of ``logits`` without the experts: False masks a token, such as
        padding. It affects neither the counts nor the probabilities, and may contain anything.
      axis_name: a mapped axis, or several, over whose devices the tokens are balanced together. The mean of the losses
        of devices is another number.

    Returns:
      An array of the shape of ``logits`` without ``token_axis`` and experts, by default a scalar; float64 if ``logits``
      is, else float32. 0 without tokens.

    Raises:
      TypeError: ``logits`` is not floating, ``experts`` is not integer, ``where`` is not boolean.
      ValueError: ``experts`` is not of shape (..., K), ``where`` does not broadcast, ``token_axis`` names no axis of
        tokens, ``axis_name`` is not mapped.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits = jnp.array([[2.0, 0.0, 1.0, 0.0], [2.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 3.0]])
      >>> experts = jax.lax.top_k(logits, 2)[1]
      >>> print(f"{jaxloss.load_balancing_loss(logits, experts):.4f}")
      1.2579
      >>> where = jnp.array([True, True, False])
      >>> print(f"{jaxloss.load_balancing_loss(logits, experts, where=where):.4f}")
      1.5277

    References:
      Fedus, Zoph and Shazeer, Switch Transformers, https://arxiv.org/abs/2101.03961. By sequence: DeepSeek-V3,
      https://arxiv.org/abs/2412.19437. Over devices: Qiu et al., https://arxiv.org/abs/2501.11873.
    """
    name = "load_balancing_loss"
    x = arguments.floating(name, "logits", logits)
    if x.ndim < 2 or not x.shape[-1]:
        raise ValueError(f"{name}: expected `logits` of shape (..., tokens, experts), got {x.shape}.")
    chosen = arguments.integer(name, "experts", experts)
    arguments.chosen(name, "experts", chosen, x.shape[:-1])
    arguments.mapped(name, "axis_name", axis_name)
    axes = arguments.axes(name, token_axis, x.shape[:-1], "token_axis")
    dtype = arguments.compute_dtype(x)
    mask, chosen = shard_like(x, (prepare_mask(name, where, None, x.shape[:-1], dtype), chosen))
    z = transform_logits(x.astype(dtype), mask, Options())
    p, _ = probabilities(z, summary(z))
    number, k = x.shape[-1], chosen.shape[-1]
    each = lax.broadcasted_iota(chosen.dtype, (*chosen.shape, number), chosen.ndim)
    count = (chosen[..., None] == each).sum(-2, dtype=p.dtype)
    share = count / k * nan_unless(in_range(chosen, number).all(-1), p.dtype)[..., None]
    tokens = None if mask.examples is None else mask.examples[..., None]
    f, mean_p = (reduce(a, axis=axes, where=tokens, axis_name=axis_name) for a in (share, p))
    return number * (f * mean_p).sum(-1)


def _squared_logsumexp_forward(x: Array, mask: Mask) -> tuple[Array, tuple[Array, Mask, Row]]:
    row = summary(transform_logits(x, mask, Options()))
    return jnp.square(logsumexp(row)), (x, mask, row)


def _squared_logsumexp_backward(saved: tuple[Array, Mask, Row], g: Array) -> tuple[Array, None]:
    x, mask, row = saved
    g = mask.fill_options(jnp.where(row.empty, 0, g), 0)
    p, _ = probabilities(transform_logits(x.astype(g.dtype), mask, Options()), row)
    gradient = (2 * g * finite_logsumexp(row))[..., None] * p
    return transform_logits_backward(gradient, x, mask, Options())[0], None


_squared_logsumexp = custom_derivative(_squared_logsumexp_forward, _squared_logsumexp_backward)


@compiled()
def router_z_loss(
    logits: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Squared logsumexp of a router's logits, for each token: keeps them small.

    .. math::
        \ell = \Bigl(\log \sum_c e^{x_c}\Bigr)^2, \qquad
        \frac{\partial \ell}{\partial x_c} = 2 \log\Bigl(\sum_k e^{x_k}\Bigr)\, p_c

    Multiply the mean by 0.001. In cross entropies the same term is their option ``z_loss``.

    Args:
      logits: :math:`x`, floating, the experts along ``axis``.
      axis: the axis or axes of the experts (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks experts; with a lower rank,
        tokens, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``logits`` without ``axis``, or a scalar; float64 if ``logits`` is, else float32. A row
      of ``-inf`` alone costs infinity, with gradient 0.

    Raises:
      TypeError: ``logits`` is not floating, ``where`` is not boolean.
      ValueError: there is no expert, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.router_z_loss(jnp.array([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])).round(4))
      [5.7966 1.2069]

    References:
      Zoph et al., ST-MoE: Designing Stable and Transferable Sparse Expert Models, https://arxiv.org/abs/2202.08906.
    """
    name = "router_z_loss"
    arguments.choice(name, "reduction", reduction)
    x, classes, where, _ = prepare_logits(name, "logits", logits, axis, where)
    dtype = arguments.compute_dtype(x)
    mask = prepare_mask(name, where, weights, x.shape[:-1], dtype)._replace(classes=classes)
    mask = shard_like(x, mask.without_empty_rows().exclude())
    losses = _squared_logsumexp(defer_upcast(x, dtype), mask.without_weight(), unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)
