"""Cross entropy of a sigmoid, from logits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, cpu_sum_barrier
from ._core.derivatives import custom_derivative, recompute_in_backward
from ._core.elementwise import prepare_elementwise
from ._core.special import log1p_of_ratio, multiply_no_nan
from ._core.special import soft_cap as _soft_cap
from ._core.types import Reduction


def _formula_with_options(
    x: Array,
    t: Array,
    label_smoothing: Array | None,
    pos_weight: Array | None,
    soft_cap: Array | None,
    logit_scale: Array | None,
) -> Array:
    dtype = arguments.compute_dtype(x, t)
    if label_smoothing is not None:
        t = (1 - label_smoothing) * t.astype(dtype) + label_smoothing / 2
    if logit_scale is not None:
        x = logit_scale * x.astype(dtype)
    if soft_cap is not None:
        x = _soft_cap(x.astype(dtype), soft_cap)
    return sigmoid_elements(x.astype(dtype) if dtype == np.float64 else x, t, pos_weight)


# JAX differentiates the smoothing, the scale and the cap through the rules of `soft_cap` and of `sigmoid_elements`.
# Everything is elementwise, so XLA fuses it into one pass.
_with_options = recompute_in_backward(_formula_with_options)


# With q = exp(-|x|), -log sigmoid(x) = max(-x, 0) + log1p(q) and -log sigmoid(-x) = max(x, 0) + log1p(q). So with
# (a, b) the parts of (no, yes) where x >= 0 and of (yes, no) elsewhere, the loss a |x| + (a + b) log1p(q) is a sum of
# non-negative terms. Its slope by |x| is (a - b q) / (1 + q), as sigmoid(|x|) = 1 / (1 + q).


def _parts(x: Array, t: Array, pos_weight: Array | None) -> tuple[Array, Array]:
    no, yes = 1 - t, t if pos_weight is None else pos_weight * t
    return jnp.where(x >= 0, no, yes), jnp.where(x >= 0, yes, no)


def _forward(x: Array, t: Array, pos_weight: Array | None) -> tuple[Array, tuple[Array, Array, Array | None]]:
    dtype = np.promote_types(x.dtype, np.float32)
    size = jnp.abs(x.astype(dtype))
    a, b = _parts(x, t.astype(dtype), pos_weight)
    tail = log1p_of_ratio(jnp.exp(-size))
    loss = multiply_no_nan(a, size) + (tail if pos_weight is None else (a + b) * tail)
    return cpu_sum_barrier(loss), (x, t, pos_weight)


def _backward(saved: tuple[Array, Array, Array | None], g: Array) -> tuple[Array | None, ...]:
    x, t, pos_weight = saved
    t = t.astype(g.dtype)
    size = jnp.abs(x.astype(g.dtype))
    q = jnp.exp(-size)
    a, b = _parts(x, t, pos_weight)
    excess = a - b * q
    slope = jnp.where(x >= 0, excess, -excess) / (1 + q)
    tail = log1p_of_ratio(q)
    surprisal_yes, surprisal_no = jnp.where(x >= 0, 0, size) + tail, jnp.where(x >= 0, size, 0) + tail
    d_t = (surprisal_yes if pos_weight is None else multiply_no_nan(pos_weight, surprisal_yes)) - surprisal_no
    return g * slope, g * d_t, g * multiply_no_nan(t, surprisal_yes)


sigmoid_elements = custom_derivative(_forward, _backward)


@compiled(label_smoothing=arguments.UNIT, pos_weight=arguments.NOT_NEGATIVE, soft_cap=arguments.POSITIVE)
def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: ArrayLike = 0.0,
    pos_weight: ArrayLike | None = None,
    soft_cap: ArrayLike | None = None,
    logit_scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cross entropy of a sigmoid with the probability of yes, for each element.

    .. math::
        \ell = -w\, t \log \sigma(x) - (1 - t) \log \sigma(-x), \qquad
        \frac{\partial \ell}{\partial x} = (1 - t)\, \sigma(x) - w\, t\, \sigma(-x)

    Args:
      logits: floating array of any shape. ``-inf`` and ``inf`` are the probabilities 0 and 1.
      labels: target probabilities :math:`t` in [0, 1], real, of the shape of ``logits``: 0 and 1, not -1 and 1.
      label_smoothing: :math:`\alpha` in [0, 1]: labels become :math:`(1 - \alpha) t + \alpha / 2`.
      pos_weight: :math:`w`, the weight of the positive part.
      soft_cap: :math:`s > 0`: logits become :math:`s \tanh(x / s)`.
      logit_scale: an inverse temperature that multiplies the logits, before ``soft_cap``.
      where: boolean mask, broadcast to the shape of ``logits``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``logits``. An entry of weight 0 is masked. Weights of shape
        (classes,) weight the classes of a multi-label problem.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    The numbers among the options may be traced, and may differ between elements: they broadcast to the loss.

    Returns:
      The loss in nats, of the shape of ``logits``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jaxloss.sigmoid_binary_cross_entropy(jnp.array([2.0, -1.0]), jnp.array([1.0, 0.0])))
      [0.1269 0.3133]

    Keras: ``BinaryCrossentropy(from_logits=True)``, (labels, logits), which averages over the last axis. PyTorch:
    ``binary_cross_entropy_with_logits``.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 6.2.2.2.
    """
    options_and_neutrals = {
        "label_smoothing": (label_smoothing, 0),
        "pos_weight": (pos_weight, 1),
        "soft_cap": (soft_cap, np.inf),
        "logit_scale": (logit_scale, 1),
    }
    numbers = {
        k: v
        for k, (v, neutral) in options_and_neutrals.items()
        if v is not None and not arguments.is_number(v, neutral)
    }
    (x, t, *options), mask = prepare_elementwise(
        "sigmoid_binary_cross_entropy", {"logits": logits, "labels": labels}, numbers, where, weights, reduction
    )
    named: dict[str, Array | None] = dict.fromkeys(options_and_neutrals) | dict(zip(numbers, options, strict=True))
    return mask.reduce(_with_options(x, t, *named.values(), unweighted=mask.unweighted), reduction)
