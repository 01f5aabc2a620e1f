"""Negative log-likelihoods of counts and of real numbers."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.special import divide_no_nan, kl_term, log_ratio, multiply_no_nan, stirling, stirling_slope
from ._core.types import Reduction


def _rate_slope(r: Array, t: Array) -> Array:
    near = jnp.abs(r - t) < r / 2
    return jnp.where(near, divide_no_nan(r - t, jnp.where(near, r, 1)), 1 - divide_no_nan(t, r))


def _or_infinite(r: Array, loss: Array) -> Array:
    """The loss, of which an infinite rate is the greatest term."""
    return jnp.where(r == jnp.inf, r, loss)


# With u = log(r / t), r - t log r + log t! = t (exp(u) - 1 - u) + (log t! - t log t + t): the first is 0 at r = t and
# positive elsewhere, the second Stirling's remainder. Nothing cancels, while r and log t! are large.


def _log_of_ratio(r: Array, t: Array) -> Array:
    """Of a count of 0, log(r)."""
    t = jnp.where(t == 0, 1, t)
    return log_ratio(r, t, r - t)


def _poisson_full_element(r: Array, t: Array) -> Array:
    return _or_infinite(r, kl_term(t, r, _log_of_ratio(r, t)) + stirling(t))


def _poisson_full_slopes(r: Array, t: Array) -> tuple[Array, Array]:
    return _rate_slope(r, t), stirling_slope(t) - _log_of_ratio(r, t)


_poisson = elementwise(
    lambda r, t: _or_infinite(r, r - multiply_no_nan(t, jnp.log(r))),
    lambda r, t: (_rate_slope(r, t), -jnp.log(r)),
    infinite=(0, 1),
)

_poisson_full = elementwise(_poisson_full_element, _poisson_full_slopes, infinite=(0, 1))


@compiled()
def poisson_nll_loss(
    rates: ArrayLike,
    targets: ArrayLike,
    *,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Negative log-likelihood of counts under a Poisson distribution, from its rate, for each element.

    .. math::
        \ell = \lambda - t \log \lambda \;[+ \log t!], \qquad
        \frac{\partial \ell}{\partial \lambda} = 1 - \frac{t}{\lambda}

    A rate of 0 costs nothing where the count is 0, and infinity elsewhere. A model's free output is a log-rate: give it
    to :func:`poisson_nll_loss_with_log_rates`.

    Args:
      rates: :math:`\lambda \ge 0`, the expected counts, floating, of any shape. Less than 0 gives NaN.
      targets: :math:`t \ge 0`, the counts, real, of the shape of ``rates``.
      full: whether to add :math:`\log t!`, the term that Stirling's formula approximates, and which is exact here for
        counts. The loss is then a likelihood and not below 0, also where the rate is near a large count.
      where: boolean mask, broadcast to the shape of ``rates``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``rates``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``rates``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``rates`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``rates``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> rates, counts = jnp.array([2.0, 2.0, 0.0]), jnp.array([2, 0, 0])
      >>> print(jaxloss.poisson_nll_loss(rates, counts))
      [0.6137 2.     0.    ]
      >>> print(jaxloss.poisson_nll_loss(rates, counts, full=True))
      [1.3069 2.     0.    ]

    Keras: ``poisson``, (targets, predictions), the mean over the last axis, which adds 1e-7 to the rate. PyTorch:
    ``poisson_nll_loss(log_input=False)``, which adds 1e-8 to it; its ``full`` is Stirling's formula, for t > 1 only.

    References:
      McCullagh and Nelder, Generalized Linear Models, 1989, chapter 6.
    """
    arrays, mask = prepare_elementwise(
        "poisson_nll_loss", {"rates": rates, "targets": targets}, {}, where, weights, reduction
    )
    return mask.reduce((_poisson_full if full else _poisson)(*arrays, unweighted=mask.unweighted), reduction)


def _full_of_log_rate(x: Array, t: Array) -> Array:
    r = jnp.exp(x)
    return _or_infinite(r, kl_term(t, r, x - jnp.log(jnp.where(t == 0, 1, t))) + stirling(t))


def _full_slopes_of_log_rate(x: Array, t: Array) -> tuple[Array, Array]:
    return jnp.exp(x) - t, stirling_slope(t) - (x - jnp.log(jnp.where(t == 0, 1, t)))


_poisson_log = elementwise(
    lambda x, t: _or_infinite(jnp.exp(x), jnp.exp(x) - multiply_no_nan(t, x)), lambda x, t: (jnp.exp(x) - t, -x)
)

_poisson_log_full = elementwise(_full_of_log_rate, _full_slopes_of_log_rate)


@compiled()
def poisson_nll_loss_with_log_rates(
    log_rates: ArrayLike,
    targets: ArrayLike,
    *,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Negative log-likelihood of counts under a Poisson distribution, from the logarithm of its rate.

    .. math::
        \ell = e^x - t x \;[+ \log t!], \qquad \frac{\partial \ell}{\partial x} = e^x - t

    Args:
      log_rates: :math:`x = \log \lambda`, floating, of any shape. ``-inf`` is a rate of 0: free where the count is 0.
      targets: :math:`t \ge 0`, the counts, real, of the shape of ``log_rates``.
      full: whether to add :math:`\log t!`, the term that Stirling's formula approximates, and which is exact here for
        counts.
      where: boolean mask, broadcast to the shape of ``log_rates``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_rates``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``log_rates``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``log_rates`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``log_rates``, or a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jaxloss.poisson_nll_loss_with_log_rates(jnp.array([0.0, 1.0]), jnp.array([2, 3])))
      [ 1.     -0.2817]

    PyTorch: ``poisson_nll_loss``; its ``full`` is Stirling's formula, for t > 1 only.

    References:
      McCullagh and Nelder, Generalized Linear Models, 1989, chapter 6.
    """
    arrays, mask = prepare_elementwise(
        "poisson_nll_loss_with_log_rates",
        {"log_rates": log_rates, "targets": targets},
        {},
        where,
        weights,
        reduction,
    )
    losses = (_poisson_log_full if full else _poisson_log)(*arrays, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)


def _gaussian_slopes(x: Array, t: Array, v: Array) -> tuple[Array, Array, Array]:
    z = divide_no_nan(x - t, v)
    return z, -z, divide_no_nan(0.5 * (1 - z * (x - t)), v)


_gaussian = elementwise(lambda x, t, v: 0.5 * (jnp.log(v) + (x - t) / v * (x - t)), _gaussian_slopes)


@compiled(variance=arguments.POSITIVE)
def gaussian_nll_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    variance: ArrayLike,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Negative log-likelihood under a Gaussian, from its mean and variance, for each element.

    .. math::
        \ell = \tfrac{1}{2} \left( \log v + \frac{(x - t)^2}{v} \right) \;[+ \tfrac{1}{2} \log 2\pi], \qquad
        \frac{\partial \ell}{\partial x} = \frac{x - t}{v}, \qquad
        \frac{\partial \ell}{\partial v} = \frac{1}{2v} \left( 1 - \frac{(x - t)^2}{v} \right)

    Args:
      predictions: :math:`x`, the means, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``.
      variance: :math:`v > 0`, the square of the standard deviation; 0 and less give NaN, nothing is clipped. One
        number, or broadcast to the shape of ``predictions``. A model's free output is a log-variance: give it to
        :func:`gaussian_nll_loss_with_log_variance`.
      full: whether to add the constant :math:`\tfrac{1}{2} \log 2\pi`.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``predictions``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> predictions, targets = jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])
      >>> print(jaxloss.gaussian_nll_loss(predictions, targets, variance=4.0))
      [0.6931 1.1931]

    PyTorch: ``gaussian_nll_loss(input, target, var)``, which raises the variance to at least 1e-6.

    References:
      Nix and Weigend, Estimating the mean and variance of the target probability distribution, 1994.
    """
    arrays, mask = prepare_elementwise(
        "gaussian_nll_loss",
        {"predictions": predictions, "targets": targets},
        {"variance": variance},
        where,
        weights,
        reduction,
    )
    losses = _gaussian(*arrays, unweighted=mask.unweighted)
    return mask.reduce(losses + (0.5 * math.log(2 * math.pi) if full else 0), reduction)


def _half_score(x: Array, t: Array, s: Array) -> tuple[Array, Array]:
    """(x - t) exp(-s / 2) / 2, of halves, whose difference is finite; and exp(-s / 4).

    That is taken twice, as exp(-s / 2) overflows where its product with a small error does not; of no error it is 0.
    """
    root = jnp.exp(-0.25 * s)
    return multiply_no_nan(multiply_no_nan(x / 2 - t / 2, root), root), root


def _log_gaussian(x: Array, t: Array, s: Array) -> Array:
    half, _ = _half_score(x, t, s)
    return jnp.where(jnp.isinf(half), jnp.inf, 0.5 * s + 2 * jnp.square(half))  # also at s = -inf


def _log_gaussian_slopes(x: Array, t: Array, s: Array) -> tuple[Array, Array, Array]:
    half, root = _half_score(x, t, s)
    slope = 2 * multiply_no_nan(multiply_no_nan(half, root), root)
    return slope, -slope, 0.5 - 2 * jnp.square(half)


_gaussian_log = elementwise(_log_gaussian, _log_gaussian_slopes)


@compiled()
def gaussian_nll_loss_with_log_variance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    log_variance: ArrayLike,
    full: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Negative log-likelihood under a Gaussian, from its mean and the logarithm of its variance, for each element.

    .. math::
        \ell = \tfrac{1}{2} \left( s + (x - t)^2 e^{-s} \right) \;[+ \tfrac{1}{2} \log 2\pi], \qquad
        \frac{\partial \ell}{\partial s} = \tfrac{1}{2} \left( 1 - (x - t)^2 e^{-s} \right)

    Args:
      predictions: :math:`x`, the means, floating, of any shape.
      targets: :math:`t`, real, of the shape of ``predictions``.
      log_variance: :math:`s = \log v`, twice the logarithm of the standard deviation. One number, or broadcast to the
        shape of ``predictions``.
      full: whether to add the constant :math:`\tfrac{1}{2} \log 2\pi`.
      where: boolean mask, broadcast to the shape of ``predictions``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``predictions``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``predictions``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, or an option does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> predictions, targets = jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])
      >>> print(jaxloss.gaussian_nll_loss_with_log_variance(predictions, targets, log_variance=jnp.log(4.0)))
      [0.6931 1.1931]

    References:
      Nix and Weigend, Estimating the mean and variance of the target probability distribution, 1994.
    """
    arrays, mask = prepare_elementwise(
        "gaussian_nll_loss_with_log_variance",
        {"predictions": predictions, "targets": targets},
        {"log_variance": log_variance},
        where,
        weights,
        reduction,
    )
    losses = _gaussian_log(*arrays, unweighted=mask.unweighted)
    return mask.reduce(losses + (0.5 * math.log(2 * math.pi) if full else 0), reduction)
