"""Losses of an error: regression, of a mean, a median or a quantile."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, cpu_sum_barrier
from ._core.elementwise import OPTIONAL, elementwise, of_error, prepare_elementwise, prepare_summed
from ._core.special import log_ratio, multiply_no_nan, subtract_no_nan
from ._core.types import Axis, Reduction

_squared = of_error(jnp.square)


@compiled()
def squared_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Squared error, for each element.

    .. math::
        \ell = (x - t)^2, \qquad \frac{\partial \ell}{\partial x} = 2 (x - t)

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in the squared unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is,
      else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> predictions, targets = jnp.array([1.0, 2.5, -3.0]), jnp.array([1.0, 2.0, 0.0])
      >>> print(jaxloss.squared_error(predictions, targets))
      [0.   0.25 9.  ]

    Keras: ``mean_squared_error``, (targets, predictions), the mean over the last axis. PyTorch: ``mse_loss``, whose
    default is the mean. :func:`l2_loss` is half of it.

    References:
      Bishop, Pattern Recognition and Machine Learning, 2006, section 1.5.5.
    """
    arrays, mask = prepare_elementwise(
        "squared_error", {"predictions": predictions, "targets": targets}, {}, where, weights, reduction, OPTIONAL
    )
    return mask.reduce(_squared(*arrays, unweighted=mask.unweighted), reduction)


_half_squared = of_error(  # in this order, it overflows no sooner than the result
    lambda error: 0.5 * error * error, lambda error: (error,)
)


@compiled()
def l2_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Half the squared error, for each element, so that the gradient is the error.

    .. math::
        \ell = \tfrac{1}{2} (x - t)^2, \qquad \frac{\partial \ell}{\partial x} = x - t

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in the squared unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is,
      else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.l2_loss(jnp.array([1.0, 2.5, -3.0]), jnp.array([1.0, 2.0, 0.0])))
      [0.    0.125 4.5  ]

    References:
      Bishop, Pattern Recognition and Machine Learning, 2006, section 1.1. Its sum over an axis is
      :func:`sum_of_squares_error`.
    """
    arrays, mask = prepare_elementwise(
        "l2_loss", {"predictions": predictions, "targets": targets}, {}, where, weights, reduction, OPTIONAL
    )
    return mask.reduce(_half_squared(*arrays, unweighted=mask.unweighted), reduction)


@compiled()
def sum_of_squares_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Half the sum of squared errors over an axis: the error of one example with several outputs.

    .. math::
        \ell = \tfrac{1}{2} \sum_k (x_k - t_k)^2, \qquad \frac{\partial \ell}{\partial x_k} = x_k - t_k

    Args:
      predictions: :math:`x`, floating, the outputs along ``axis``.
      targets: :math:`t`, real, of the shape of ``predictions``.
      axis: the axis of the outputs, or several, or None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``predictions`` it masks single outputs; with a
        lower rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in the squared unit of the targets, of the shape of ``predictions`` without ``axis``, or a scalar;
      float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, ``axis`` is empty, a mask does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> targets, predictions = jnp.array([0.0, 1.0, 0.0, 0.0]), jnp.array([0.1, 0.05, 0.05, 0.8])
      >>> print(f"{jaxloss.sum_of_squares_error(predictions, targets):.4f}")
      0.7775

    References:
      Bishop, Pattern Recognition and Machine Learning, 2006, equation 5.11.
    """
    arrays, terms, mask = prepare_summed(
        "sum_of_squares_error",
        {"predictions": predictions, "targets": targets},
        {},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_half_squared(*arrays, unweighted=terms.unweighted)), reduction)


_absolute = of_error(jnp.abs, lambda error: (jnp.sign(error),))


@compiled()
def absolute_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Absolute error, for each element.

    .. math::
        \ell = |x - t|, \qquad \frac{\partial \ell}{\partial x} = \mathrm{sign}(x - t)

    At an exact hit the gradient is 0.

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``; None is 0.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in the unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.absolute_error(jnp.array([1.0, 2.5, -3.0]), jnp.array([1.0, 2.0, 0.0])))
      [0.  0.5 3. ]

    Keras: ``mean_absolute_error``, (targets, predictions), the mean over the last axis; its gradient at an exact hit is
    -1. PyTorch: ``l1_loss``, whose default is the mean.

    References:
      Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, section 10.6.
    """
    arrays, mask = prepare_elementwise(
        "absolute_error", {"predictions": predictions, "targets": targets}, {}, where, weights, reduction, OPTIONAL
    )
    return mask.reduce(_absolute(*arrays, unweighted=mask.unweighted), reduction)


def _relative_element(p: Array, t: Array, unit: Array) -> Array:
    # The divisor is |t|, but not 0 at an exact hit. The other quotient is never less, and finite where p - t is not.
    error, finfo = jnp.abs(p - t), jnp.finfo(p.dtype)
    divisor = jnp.maximum(jnp.abs(t), finfo.tiny - finfo.max * error)
    return cpu_sum_barrier(unit * jnp.minimum(error / divisor, jnp.abs(p) / divisor + 1))


def _relative_slopes(p: Array, t: Array, unit: Array) -> tuple[Array | None, ...]:
    hit = p == t
    slope = jnp.where(hit, 0, jnp.sign(p - t) * (unit / jnp.abs(t)))
    return slope, -slope * jnp.where(hit, 0, p / t), None  # |p / t - 1| has the derivative -sign p / (t |t|) by t


_relative = elementwise(_relative_element, _relative_slopes)


@compiled()
def absolute_percentage_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Absolute error in percent of the target, for each element.

    .. math::
        \ell = 100 \left| \frac{x - t}{t} \right|, \qquad
        \frac{\partial \ell}{\partial x} = 100\, \frac{\mathrm{sign}(x - t)}{|t|}

    A target of 0 costs infinity, with an infinite gradient, unless it is hit exactly: then 0. Exclude such targets with
    ``where=targets != 0``; nothing is clipped here.

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in percent (1 for an error of one hundredth of the target), of the shape of ``predictions``, or a scalar;
      float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> predictions, targets = jnp.array([11.0, 1.0, 3.0]), jnp.array([10.0, -1.0, 0.0])
      >>> print(jaxloss.absolute_percentage_error(predictions, targets))
      [ 10. 200.  inf]

    Keras: ``mean_absolute_percentage_error``, (targets, predictions), the mean over the last axis; it divides by at
    least 1e-7, so that a target of 0 costs up to billions. scikit-learn's is the same without the factor 100.

    References:
      Hyndman and Koehler, Another look at measures of forecast accuracy, 2006, section 2.2.
    """
    arrays, mask = prepare_elementwise(
        "absolute_percentage_error", {"predictions": predictions, "targets": targets}, {}, where, weights, reduction
    )
    return mask.reduce(_relative(*arrays, jnp.float32(100), unweighted=mask.unweighted), reduction)


def _log_ratio(p: Array, t: Array) -> Array:
    return log_ratio(1 + p, 1 + t, p - t)  # 1 + p rounds


def _squared_logarithmic_slopes(p: Array, t: Array) -> tuple[Array, Array]:
    log = _log_ratio(p, t)

    def over_one_plus(x: Array) -> Array:  # 0 at infinity, where log(x) is infinite, too
        infinite = x == jnp.inf
        return jnp.where(infinite, 0, 2 * log / (1 + jnp.where(infinite, 0, x)))

    return over_one_plus(p), -over_one_plus(t)


_squared_logarithmic = elementwise(lambda p, t: jnp.square(_log_ratio(p, t)), _squared_logarithmic_slopes)


@compiled()
def squared_logarithmic_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Squared difference of logarithms, for each element: for quantities that span orders of magnitude.

    .. math::
        \ell = (\log(1 + x) - \log(1 + t))^2, \qquad
        \frac{\partial \ell}{\partial x} = \frac{2}{1 + x} \log \frac{1 + x}{1 + t}

    Args:
      predictions: :math:`x > -1`, floating, of any shape. -1 costs infinity, less gives NaN; nothing is clipped.
      targets: :math:`t > -1`, real, of the shape of ``predictions``.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss, without a unit, of the shape of ``predictions``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> predictions, targets = jnp.array([99.0, 1e-8]), jnp.array([9.0, 3e-8])
      >>> print(jaxloss.squared_logarithmic_error(predictions, targets))
      [5.3019e+00 4.0000e-16]

    Keras: ``mean_squared_logarithmic_error``, (targets, predictions), the mean over the last axis; it raises all inputs
    to at least 1e-7, which hides a negative prediction, and rounds small ones to 0.

    References:
      scikit-learn user guide, mean squared logarithmic error.
    """
    arrays, mask = prepare_elementwise(
        "squared_logarithmic_error", {"predictions": predictions, "targets": targets}, {}, where, weights, reduction
    )
    return mask.reduce(_squared_logarithmic(*arrays, unweighted=mask.unweighted), reduction)


def _quantile_slope(p: Array, t: Array, quantile: Array) -> Array:
    error = p - t
    valid = (quantile >= 0) & (quantile <= 1)
    slope = (error > 0).astype(p.dtype) - quantile * (error != 0).astype(p.dtype)
    return slope + jnp.where(valid, 0, jnp.nan)


def _quantile_element(p: Array, t: Array, quantile: Array) -> Array:
    return 2 * multiply_no_nan(_quantile_slope(p, t, quantile), p / 2 - t / 2)  # of halves, whose difference is finite


def _quantile_slopes(p: Array, t: Array, quantile: Array) -> tuple[Array, Array, Array]:
    slope = _quantile_slope(p, t, quantile)
    return slope, -slope, subtract_no_nan(t, p)


_quantile = elementwise(_quantile_element, _quantile_slopes, infinite=(2,))


@compiled(quantile=arguments.UNIT)
def quantile_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    quantile: ArrayLike,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Quantile (pinball) loss, for each element: what the quantile of the targets minimises.

    .. math::
        \ell = \tau \max(t - x, 0) + (1 - \tau) \max(x - t, 0)

    At an exact hit the gradient is 0. Half of the absolute error at :math:`\tau = 1/2`.

    Args:
      predictions: :math:`x`, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``.
      quantile: :math:`\tau` in [0, 1]: 0.9 costs a prediction that is too low nine times one that is too high. Outside,
        the loss is NaN.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    ``quantile`` may be traced, and may differ between elements, as in the example, where each output of a network is a
    quantile of its own.

    Returns:
      The loss in the unit of the targets, of the shape of ``predictions``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> predictions = jnp.array([[1.0, 1.0, 3.0], [0.0, 2.0, 4.0]])  # [batch, quantiles]
      >>> targets = jnp.broadcast_to(jnp.array([1.0, 3.0])[:, None], predictions.shape)
      >>> print(jaxloss.quantile_loss(predictions, targets, quantile=jnp.array([0.25, 0.5, 0.75])))
      [[0.   0.   0.5 ]
       [0.75 0.5  0.25]]

    scikit-learn: ``mean_pinball_loss(alpha=quantile)``.

    References:
      Koenker and Bassett, Regression Quantiles, 1978.
    """
    arrays, mask = prepare_elementwise(
        "quantile_loss",
        {"predictions": predictions, "targets": targets},
        {"quantile": quantile},
        where,
        weights,
        reduction,
    )
    return mask.reduce(_quantile(*arrays, unweighted=mask.unweighted), reduction)
