"""The cosine between vectors, and how far it is from 1."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.derivatives import custom_derivative
from ._core.masks import Mask
from ._core.types import Axis, Reduction
from ._core.vectors import SavedVectors, clipped_cosine, compare_vectors, distance_gradients, prepare_vectors


class _MaskedVectors(NamedTuple):
    """The saved vectors, and where they are masked."""

    saved: SavedVectors
    examples: Array | None

    def rows(self) -> SavedVectors:
        x, t = Mask(self.examples).fill_vectors(self.saved.x, self.saved.t)
        return self.saved._replace(x=x, t=t)


def _forward(x: Array, t: Array, examples: Array | None) -> tuple[Array, Array, _MaskedVectors]:
    cosine, distance, saved = compare_vectors(*Mask(examples).fill_vectors(x, t))
    return cosine, distance, _MaskedVectors(saved._replace(x=x, t=t), examples)


def _similarity_forward(x: Array, t: Array, examples: Array | None) -> tuple[Array, _MaskedVectors]:
    cosine, _, saved = _forward(x, t, examples)
    return cosine, saved


def _distance_forward(x: Array, t: Array, examples: Array | None) -> tuple[Array, _MaskedVectors]:
    _, distance, saved = _forward(x, t, examples)
    return distance, saved


_distance = custom_derivative(_distance_forward, lambda saved, g: (*distance_gradients(saved.rows(), g), None))

_similarity = custom_derivative(_similarity_forward, lambda saved, g: (*distance_gradients(saved.rows(), -g), None))


@compiled(epsilon=arguments.NOT_NEGATIVE)
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cosine of the angle between two vectors. It grows as they agree: the loss is :func:`cosine_distance`.

    .. math::
        \cos(x, t) = \frac{x \cdot t}{\|x\|\, \|t\|}, \qquad
        \frac{\partial \cos}{\partial x} = \frac{1}{\|x\|} \left( \frac{t}{\|t\|} - \cos(x, t) \frac{x}{\|x\|} \right)

    Vectors of any finite length have their cosine, 1e-30 and 1e30 included. With a vector of zeros it is 0, with
    gradient 0 (unless there is an ``epsilon``).

    Args:
      predictions: :math:`x`, floating, the features along ``axis``.
      targets: :math:`t`, real, of the shape of ``predictions``.
      epsilon: a squared norm below it is replaced by it, as in optax; 0, the default, changes nothing, and is safe.
      axis: the feature axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``predictions`` it masks features; with a lower
        rank, examples, and broadcasts to the shape of the result.
      weights: real, broadcast to the shape of the result. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The cosine in [-1, 1], of the shape of ``predictions`` without ``axis``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, ``axis`` is empty, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> predictions, targets = jnp.array([[1.0, 1.0], [0.0, 0.0]]), jnp.array([[1e30, 1e30], [1.0, 0.0]])
      >>> print(jaxloss.cosine_similarity(predictions, targets))
      [1. 0.]

    Keras: ``cosine_similarity``, (targets, predictions), which is the negative of it. PyTorch: ``cosine_similarity``,
    over axis 1.

    References:
      Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 6.3.1.
    """
    x, t, smallest, mask = prepare_vectors(
        "cosine_similarity", predictions, targets, epsilon, axis, where, weights, reduction
    )
    if smallest is None:
        return mask.reduce(_similarity(x, t, None, unweighted=mask.unweighted), reduction)
    clipped, below = clipped_cosine(x, t, smallest)
    cosine = _similarity(x, t, ~below, unweighted=mask.unweighted)
    return mask.reduce(jnp.where(below, clipped, cosine), reduction)


@compiled(epsilon=arguments.NOT_NEGATIVE)
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""One minus the cosine of the angle between two vectors.

    .. math::
        \ell = 1 - \frac{x \cdot t}{\|x\|\, \|t\|}

    It is computed from the difference of near vectors, not from a cosine that has rounded to 1: vectors at an angle of
    :math:`\theta = 10^{-4}` are :math:`\theta^2 / 2 = 5 \cdot 10^{-9}` apart, a vector and itself 0. (To the last
    digits if they are of similar length, else to about :math:`10^{-7} / \theta` of it in float32.) With a vector of
    zeros the distance is 1, with gradient 0.

    Args:
      predictions: :math:`x`, floating, the features along ``axis``.
      targets: :math:`t`, real, of the shape of ``predictions``.
      epsilon: a squared norm below it is replaced by it, as in optax; 0, the default, changes nothing, and is safe.
      axis: the feature axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``predictions`` it masks features; with a lower
        rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in [0, 2], of the shape of ``predictions`` without ``axis``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape than ``predictions``, ``axis`` is empty, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> predictions, targets = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 3e-4], [0.0, 5.0]])
      >>> print(jaxloss.cosine_distance(predictions, targets))
      [4.5e-08 1.0e+00]

    References:
      Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 6.3.1.
    """
    x, t, smallest, mask = prepare_vectors(
        "cosine_distance", predictions, targets, epsilon, axis, where, weights, reduction
    )
    if smallest is None:
        return mask.reduce(_distance(x, t, None, unweighted=mask.unweighted), reduction)
    clipped, below = clipped_cosine(x, t, smallest)
    distance = _distance(x, t, ~below, unweighted=mask.unweighted)
    return mask.reduce(jnp.where(below, 1 - clipped, distance), reduction)
