"""The focal loss of a sigmoid, which weights elements by how hard they are."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, gpu_recompute_barrier
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.special import divide_no_nan, expm1, log1p_of_ratio, multiply_no_nan
from ._core.types import Reduction

# With e = exp(-|x|) and (a, b) the shares of (no, yes) where x >= 0 and of (yes, no) elsewhere, the cross entropy is
# c = a |x| + log1p(e), and 1 - p_t = q = r / (1 + e) with r = a + b e. By |x| they have the slopes (a - b e) / (1 + e)
# and q e (a - b) / (r (1 + e)), of the same sign unless the label lies between p and 1/2. By b, where a + b = 1, they
# have -|x| and q (e - 1) / r. Where e is too small for a number, c / r is |x|, or 1 if a is 0: then log(r) is -|x|.


class _Element(NamedTuple):
    size: Array  # |x|
    e: Array
    a: Array
    b: Array
    entropy: Array  # c
    ratio: Array  # c / r
    q: Array  # 1 - p_t
    log_q: Array

    def focus(self, gamma: Array | None) -> Array:
        """q^gamma. None is 2, and takes no logarithm."""
        return jnp.square(self.q) if gamma is None else jnp.exp(gamma * self.log_q)


def _element(x: Array, t: Array) -> _Element:
    size = jnp.abs(x)
    e = jnp.exp(-size)
    a, b = jnp.where(x >= 0, 1 - t, t), jnp.where(x >= 0, t, 1 - t)
    r, tail = a + b * e, log1p_of_ratio(e)
    entropy = multiply_no_nan(a, size) + tail
    r_is_zero, e_is_zero = r == 0, e == 0
    safe_r = jnp.where(r_is_zero, 1, r)
    log_q = jnp.where(r_is_zero, -jnp.minimum(size, jnp.finfo(size.dtype).max), jnp.log(safe_r)) - tail
    ratio = jnp.where(r_is_zero, 1, jnp.where(e_is_zero, size, divide_no_nan(jnp.where(e_is_zero, 0, entropy), safe_r)))
    return _Element(size, e, a, b, entropy, ratio, r / (1 + e), log_q)


def _alpha_of_label(t: Array, alpha: Array | None) -> Array | float:
    return 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)


def _losses(x: Array, t: Array, gamma: Array | None, alpha: Array | None = None) -> Array:
    element = _element(x, t)
    return _alpha_of_label(t, alpha) * multiply_no_nan(element.focus(gamma), element.entropy)


def _slopes(x: Array, t: Array, gamma: Array | None, alpha: Array | None = None) -> tuple[Array, ...]:
    x, t = gpu_recompute_barrier(x, t)  # else it keeps the losses
    element, power = _element(x, t), 2 if gamma is None else gamma
    size, e, a, b, entropy, ratio, _, log_q = element
    share, focus = _alpha_of_label(t, alpha), element.focus(gamma)
    d_size = (a - b * e + power * e * (a - b) * jnp.where(e == 0, 0, ratio)) / (1 + e)
    d_b = multiply_no_nan(focus, power * expm1(-size) * ratio - size)
    d_t = share * jnp.where(x >= 0, d_b, -d_b)
    loss = multiply_no_nan(focus, entropy)
    slopes = share * focus * d_size
    slopes = jnp.where(x >= 0, slopes, -slopes)
    d_gamma = () if gamma is None else (share * jnp.where(loss == 0, 0, multiply_no_nan(log_q, loss)),)
    if alpha is None:
        return slopes, d_t, *d_gamma
    return slopes, d_t + (2 * alpha - 1) * loss, *d_gamma, (2 * t - 1) * loss


_with_gamma = elementwise(_losses, _slopes)

_with_square = elementwise(
    lambda x, t, *alpha: _losses(x, t, None, *alpha), lambda x, t, *alpha: _slopes(x, t, None, *alpha)
)


@compiled(alpha=arguments.UNIT, gamma=arguments.NOT_NEGATIVE)
def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Focal loss of a sigmoid, for each element: a cross entropy that forgets what is already right.

    .. math::
        \ell = a\, (1 - p_t)^\gamma \left(-t \log \sigma(x) - (1 - t) \log \sigma(-x)\right), \qquad
        1 - p_t = t\, \sigma(-x) + (1 - t)\, \sigma(x), \quad a = \alpha t + (1 - \alpha)(1 - t)

    Args:
      logits: :math:`x`, floating, of any shape. ``-inf`` and ``inf`` are the probabilities 0 and 1.
      labels: target probabilities :math:`t` in [0, 1], real, of the shape of ``logits``: 0 and 1, not -1 and 1.
      alpha: :math:`\alpha` in [0, 1], the weight of yes beside :math:`1 - \alpha` of no. None, the default, weighs both
        by 1.
      gamma: :math:`\gamma \ge 0`, 0 for the cross entropy.
      where: boolean mask, broadcast to the shape of ``logits``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``logits``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    ``alpha`` and ``gamma`` may be traced, and may differ between elements: they broadcast to the loss.

    Returns:
      The loss in nats, of the shape of ``logits``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jaxloss.sigmoid_focal_loss(jnp.array([2.0, -1.0]), jnp.array([1.0, 1.0])))
      [0.0018 0.7019]

    optax has another gradient by hard labels: -0.0248 of logit 2 and label 1, instead of -0.0515. Keras:
    ``binary_focal_crossentropy``, (labels, predictions), which clips probabilities also if it is given logits: at a
    logit of -20 and label 1 its gradient is -7e-8 instead of -1. torchvision: ``alpha=0.25`` is its default.

    References:
      Lin et al., https://arxiv.org/abs/1708.02002, equation 5.
    """
    is_square = arguments.is_number(gamma, 2)
    numbers = ({} if is_square else {"gamma": gamma}) | ({} if alpha is None else {"alpha": alpha})
    arrays, mask = prepare_elementwise(
        "sigmoid_focal_loss", {"logits": logits, "labels": labels}, numbers, where, weights, reduction
    )
    losses = (_with_square if is_square else _with_gamma)(*arrays, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)
