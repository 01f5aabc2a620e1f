"""Losses of an error that large errors do not dominate."""

from __future__ import annotations

import math
from itertools import count

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, cpu_sum_barrier
from ._core.elementwise import OPTIONAL, of_error, prepare_elementwise
from ._core.special import horner, log1p_of_ratio, quotient, sine_and_cosine, tanh
from ._core.types import Reduction


def _huber_of_error(error: Array, delta: Array) -> Array:
    size = jnp.abs(error)
    quadratic = jnp.minimum(size, delta)
    return cpu_sum_barrier(quadratic * (size - 0.5 * quadratic))  # holds at delta = inf as well


def _huber_slopes(error: Array, delta: Array) -> tuple[Array, Array]:
    return jnp.clip(error, -delta, delta), jnp.maximum(jnp.abs(error) - delta, 0)


_huber = of_error(_huber_of_error, _huber_slopes)


@compiled(delta=arguments.NOT_NEGATIVE)
def huber_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Huber loss, for each element: quadratic up to an error of ``delta``, linear beyond.

    .. math::
        \ell = \begin{cases} \tfrac{1}{2} e^2 & |e| \le \delta \\ \delta (|e| - \tfrac{1}{2} \delta) & \text{else}
        \end{cases}, \quad e = x - t, \qquad
        \frac{\partial \ell}{\partial x} = \mathrm{clip}(e, -\delta, \delta)

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      delta: :math:`\delta \ge 0`, in the unit of the targets. At infinity this is :func:`l2_loss`.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    ``delta`` may be traced, and may differ between elements: it broadcasts to the loss.

    Returns:
      The loss in the squared unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is,
      else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.huber_loss(jnp.array([1.0, 2.5, -3.0]), jnp.array([1.0, 2.0, 0.0])))
      [0.    0.125 2.5  ]

    Keras: ``huber``, (targets, predictions), the mean over the last axis. PyTorch: ``huber_loss``. ``delta`` times
    :func:`smooth_l1_loss` with ``beta=delta``.

    References:
      Huber, Robust Estimation of a Location Parameter, 1964.
    """
    arrays, mask = prepare_elementwise(
        "huber_loss",
        {"predictions": predictions, "targets": targets},
        {"delta": delta},
        where,
        weights,
        reduction,
        OPTIONAL,
    )
    return mask.reduce(_huber(*arrays, unweighted=mask.unweighted), reduction)


def _smooth_l1_of_error(error: Array, beta: Array) -> Array:
    size, beta = jnp.abs(error), jnp.maximum(beta, jnp.finfo(error.dtype).tiny)
    quadratic = jnp.minimum(size, beta)
    return cpu_sum_barrier(quotient(quadratic, beta) * (size - 0.5 * quadratic))


def _smooth_l1_slopes(error: Array, beta: Array) -> tuple[Array, Array]:
    inside = jnp.abs(error) < beta
    part = error / jnp.where(inside, beta, 1)
    return jnp.where(inside, part, jnp.sign(error)), -0.5 * jnp.where(inside, jnp.square(part), 1)


_smooth_l1 = of_error(_smooth_l1_of_error, _smooth_l1_slopes)


@compiled(beta=arguments.NOT_NEGATIVE)
def smooth_l1_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    beta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Smooth L1 loss, for each element: the absolute error, rounded off up to an error of ``beta``.

    .. math::
        \ell = \begin{cases} \tfrac{1}{2} e^2 / \beta & |e| < \beta \\ |e| - \tfrac{1}{2} \beta & \text{else}
        \end{cases}, \quad e = x - t, \qquad
        \frac{\partial \ell}{\partial x} = \mathrm{clip}(e / \beta, -1, 1)

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      beta: :math:`\beta \ge 0`, in the unit of the targets. At 0 this is :func:`absolute_error`.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    ``beta`` may be traced, and may differ between elements: it broadcasts to the loss.

    Returns:
      The loss in the unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> predictions, targets = jnp.array([1.0, 2.5, -3.0]), jnp.array([1.0, 2.0, 0.0])
      >>> print(jaxloss.smooth_l1_loss(predictions, targets, beta=2.0))
      [0.     0.0625 2.    ]

    PyTorch: ``smooth_l1_loss``. :func:`huber_loss` with ``delta=beta`` is ``beta`` times this.

    References:
      Girshick, Fast R-CNN, https://arxiv.org/abs/1504.08083, section 2.3.
    """
    arrays, mask = prepare_elementwise(
        "smooth_l1_loss",
        {"predictions": predictions, "targets": targets},
        {"beta": beta},
        where,
        weights,
        reduction,
        OPTIONAL,
    )
    return mask.reduce(_smooth_l1(*arrays, unweighted=mask.unweighted), reduction)


def _charbonnier_of_error(error: Array, epsilon: Array) -> Array:
    # sqrt(e^2 + eps^2) - eps = e^2 / (sqrt(e^2 + eps^2) + eps), where nothing cancels and, by sines, nothing overflows.
    sine, cosine = sine_and_cosine(error, epsilon)
    return cpu_sum_barrier(error * (sine / (1 + cosine)))


def _charbonnier_slopes(error: Array, epsilon: Array) -> tuple[Array, Array]:
    sine, cosine = sine_and_cosine(error, epsilon)
    return sine, -jnp.square(sine) / (1 + cosine)  # cosine - 1


_charbonnier = of_error(_charbonnier_of_error, _charbonnier_slopes)


@compiled(epsilon=arguments.NOT_NEGATIVE)
def charbonnier_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-3,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Charbonnier loss, for each element: the absolute error, with a smooth minimum.

    .. math::
        \ell = \sqrt{e^2 + \epsilon^2} - \epsilon, \quad e = x - t, \qquad
        \frac{\partial \ell}{\partial x} = \frac{e}{\sqrt{e^2 + \epsilon^2}}

    It is 0 where the prediction hits. All derivatives are continuous for :math:`\epsilon > 0`.

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      epsilon: :math:`\epsilon \ge 0`, in the unit of the targets. At 0 this is :func:`absolute_error`.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    ``epsilon`` may be traced, and may differ between elements: it broadcasts to the loss.

    Returns:
      The loss in the unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=3)
      >>> print(jaxloss.charbonnier_loss(jnp.array([0.0, 1e-4, 3.0, 1e30]), epsilon=4.0))
      [0.00e+00 1.25e-09 1.00e+00 1.00e+30]

    The formula as it stands gives 0 for the second error, and infinity for the last one. Image restoration often leaves
    out the constant :math:`-\epsilon`, which no gradient sees. With ``epsilon=delta``, ``delta`` times this loss is the
    pseudo-Huber loss.

    References:
      Charbonnier et al., Two deterministic half-quadratic regularization algorithms for computed imaging, 1994.
      Barron, https://arxiv.org/abs/1701.03077.
    """
    arrays, mask = prepare_elementwise(
        "charbonnier_loss",
        {"predictions": predictions, "targets": targets},
        {"epsilon": epsilon},
        where,
        weights,
        reduction,
        OPTIONAL,
    )
    return mask.reduce(_charbonnier(*arrays, unweighted=mask.unweighted), reduction)


def _log_cosh_of_error(error: Array) -> Array:
    # With |e| = a + r, a up to 1 and r beyond, A = cosh(a) - 1 by its series and c = (1 - tanh(1)) / 2,
    # cosh(e) = (1 + A) exp(r) (1 - c (1 - exp(-2r))). No branch: XLA fuses it into the sum of the losses.
    size = jnp.abs(error)
    inner = jnp.minimum(size, 1)
    outer, square = size - inner, jnp.square(inner)
    a = 0.5 * square * horner(square, (1 / (2 * k * (2 * k - 1)) for k in count(2)))
    c = (1 - math.tanh(1)) / 2
    return cpu_sum_barrier(log1p_of_ratio(a - c * (1 - jnp.exp(-2 * outer)) * (1 + a)) + outer)


_log_cosh = of_error(_log_cosh_of_error, lambda error: (tanh(error),))


@compiled()
def log_cosh(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Logarithm of the hyperbolic cosine of the error, for each element: a Huber loss with all derivatives.

    .. math::
        \ell = \log \cosh(x - t), \qquad \frac{\partial \ell}{\partial x} = \tanh(x - t)

    It is :math:`e^2 / 2` near 0 and :math:`|e| - \log 2` far away, exact to the last digits at both ends.

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``predictions``, or a scalar; float64 if an input is, else float32. The error has no
      unit: divide both arguments by a scale first, where there is one.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> print(jaxloss.log_cosh(jnp.array([0.0, 1e-4, 1.0, 1e30])))
      [0.0000e+00 5.0000e-09 4.3378e-01 1.0000e+30]

    Keras: ``log_cosh``, (targets, predictions), the mean over the last axis. There and in optax an error of 1e-4 costs
    0, and one of 3e-5 less than 0.

    References:
      Chen et al., Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder, 2019.
    """
    arrays, mask = prepare_elementwise(
        "log_cosh", {"predictions": predictions, "targets": targets}, {}, where, weights, reduction, OPTIONAL
    )
    return mask.reduce(_log_cosh(*arrays, unweighted=mask.unweighted), reduction)
