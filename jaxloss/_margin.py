"""Losses of the margin of a signed score: hinges and the perceptron."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.masks import Mask
from ._core.special import relu, softplus
from ._core.types import Reduction


def _hinge_slopes(x: Array, t: Array, margin: Array) -> tuple[Array | None, ...]:
    violated = (x * t < margin).astype(x.dtype)
    return -t * violated, jnp.where(x * t < margin, -x, 0), None


# The margin is an argument, as a number that stands in both passes becomes an array of them to XLA on a CPU.
_hinge = elementwise(lambda x, t, margin: relu(margin - x * t), _hinge_slopes)


def _signed(
    name: str,
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> tuple[list[Array], Mask]:
    arrays = {"predictor_outputs": predictor_outputs, "targets": targets}
    return prepare_elementwise(name, arrays, {}, where, weights, reduction, kinds=(arguments.real, arguments.signed))


# Where a margin is met exactly the derivative is 0, as that of `relu` at 0: nothing is to be learnt.


@compiled()
def hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Hinge loss of a signed score, for each element.

    .. math::
        \ell = \max(0, 1 - t x), \qquad \frac{\partial \ell}{\partial x} = -t \, [t x < 1]

    Args:
      predictor_outputs: the scores :math:`x`, real, of any shape.
      targets: :math:`t`, -1 or 1, of the shape of ``predictor_outputs``: ``2 * labels - 1`` for labels 0 and 1. A 0 has
        no gradient. Booleans and unsigned integers, which cannot hold -1, raise.
      where: boolean mask, broadcast to the shape of ``targets``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``targets``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``targets``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictor_outputs`` is not real, ``targets`` is not signed, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictor_outputs``, a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.hinge_loss(jnp.array([2.0, 0.5, 0.5]), jnp.array([1, 1, -1])))
      [0.  0.5 1.5]

    Keras: ``hinge``, (targets, predictions), the mean over the last axis, which takes 0 for -1 if all labels of the
    batch are 0 or 1. At the kink optax has half the slope, here it is 0.

    References:
      Cortes and Vapnik, Support-Vector Networks, 1995.
    """
    arrays, mask = _signed("hinge_loss", predictor_outputs, targets, where, weights, reduction)
    return mask.reduce(_hinge(*arrays, jnp.float32(1), unweighted=mask.unweighted), reduction)


def _squared_hinge_slopes(x: Array, t: Array, margin: Array) -> tuple[Array | None, ...]:
    excess = 2 * jnp.maximum(margin - x * t, 0)  # not `relu`: XLA would merge its 0 with that of the forward pass
    return -t * excess, -x * excess, None


_squared_hinge = elementwise(lambda x, t, margin: jnp.square(relu(margin - x * t)), _squared_hinge_slopes)


@compiled()
def squared_hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Squared hinge loss of a signed score, for each element.

    .. math::
        \ell = \max(0, 1 - t x)^2, \qquad \frac{\partial \ell}{\partial x} = -2t \max(0, 1 - t x)

    Args:
      predictor_outputs: the scores :math:`x`, real, of any shape.
      targets: :math:`t`, -1 or 1, of the shape of ``predictor_outputs``: ``2 * labels - 1`` for labels 0 and 1. A 0 has
        no gradient. Booleans and unsigned integers, which cannot hold -1, raise.
      where: boolean mask, broadcast to the shape of ``targets``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``targets``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``targets``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictor_outputs`` is not real, ``targets`` is not signed, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictor_outputs``, a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.squared_hinge_loss(jnp.array([2.0, 0.5, 0.5]), jnp.array([1, 1, -1])))
      [0.   0.25 2.25]

    Keras: ``squared_hinge``, (targets, predictions), the mean over the last axis, 0 for -1 as in ``hinge``.

    References:
      Rosasco et al., Are Loss Functions All the Same?, 2004.
    """
    arrays, mask = _signed("squared_hinge_loss", predictor_outputs, targets, where, weights, reduction)
    return mask.reduce(_squared_hinge(*arrays, jnp.float32(1), unweighted=mask.unweighted), reduction)


def _perceptron_slopes(x: Array, t: Array) -> tuple[Array, Array]:
    violated = (x * t < 0).astype(x.dtype)
    return -t * violated, jnp.where(x * t < 0, -x, 0)


_perceptron = elementwise(lambda x, t: relu(-x * t), _perceptron_slopes)


@compiled()
def perceptron_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Perceptron loss of a signed score, for each element: a hinge without a margin.

    .. math::
        \ell = \max(0, -t x), \qquad \frac{\partial \ell}{\partial x} = -t \, [t x < 0]

    At a score of 0 the gradient is 0: do not start from zeros.

    Args:
      predictor_outputs: the scores :math:`x`, real, of any shape.
      targets: :math:`t`, -1 or 1, of the shape of ``predictor_outputs``: ``2 * labels - 1`` for labels 0 and 1. A 0 has
        no gradient. Booleans and unsigned integers, which cannot hold -1, raise.
      where: boolean mask, broadcast to the shape of ``targets``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``targets``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``targets``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictor_outputs`` is not real, ``targets`` is not signed, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictor_outputs``, a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.perceptron_loss(jnp.array([2.0, 0.5]), jnp.array([1, -1])))
      [0.  0.5]

    optax has half the slope at a score of 0.

    References:
      Rosenblatt, The perceptron, 1958.
    """
    arrays, mask = _signed("perceptron_loss", predictor_outputs, targets, where, weights, reduction)
    return mask.reduce(_perceptron(*arrays, unweighted=mask.unweighted), reduction)


_soft_margin = elementwise(lambda x, t: softplus(-x * t))


@compiled()
def soft_margin_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Logistic loss of a signed score, for each element: a hinge without a kink.

    .. math::
        \ell = \log(1 + e^{-t x}), \qquad \frac{\partial \ell}{\partial x} = -t\, \sigma(-t x)

    It is :func:`sigmoid_binary_cross_entropy`, of labels -1 and 1.

    Args:
      predictor_outputs: the scores :math:`x`, real, of any shape.
      targets: :math:`t`, -1 or 1, of the shape of ``predictor_outputs``: ``2 * labels - 1`` for labels 0 and 1. A 0 has
        no gradient. Booleans and unsigned integers, which cannot hold -1, raise.
      where: boolean mask, broadcast to the shape of ``targets``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``targets``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``targets``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictor_outputs`` is not real, ``targets`` is not signed, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictor_outputs``, a mask or weight does not broadcast to it.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> print(jaxloss.soft_margin_loss(jnp.array([2.0, -100.0]), jnp.array([1, 1])))
      [  0.1269 100.    ]

    PyTorch: ``soft_margin_loss``, which is infinite from a score of -89 on, with a gradient of NaN.

    References:
      Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, section 10.5.
    """
    arrays, mask = _signed("soft_margin_loss", predictor_outputs, targets, where, weights, reduction)
    return mask.reduce(_soft_margin(*arrays, unweighted=mask.unweighted), reduction)
