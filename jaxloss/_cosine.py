"""The cosine between vectors, and how far it is from 1."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from . import _inputs
from ._compiled import compiled
from ._derivatives import every_mode
from ._numerics import power_of_two
from ._reduction import Mask, excluding, finish
from ._rows import apart, is_finite, paired, removed_as
from ._types import Axis, Reduction


@compiled(epsilon=_inputs.NOT_NEGATIVE)
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
      axis: the feature axis, or several that together are one, or None for all.
      where: boolean, True is kept. With the rank of ``predictions`` it removes features and broadcasts to that shape;
        with a lower rank it removes examples and broadcasts to the shape of the result. What it removes may hold
        anything.
      weights: real, broadcast to the shape of the result. A weight of 0 excludes.
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
    x, t, smallest, mask = _vectors("cosine_similarity", predictions, targets, epsilon, axis, where, weights, reduction)
    if smallest is None:
        return finish(_similarity(x, t, None, unweighted=mask.unweighted), *mask)
    clipped, below = _clipped_cosine(x, t, smallest)
    cosine = _similarity(x, t, ~below, unweighted=mask.unweighted)
    return finish(jnp.where(below, clipped, cosine), *mask)


@compiled(epsilon=_inputs.NOT_NEGATIVE)
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
      axis: the feature axis, or several that together are one, or None for all.
      where: boolean, True is kept. With the rank of ``predictions`` it removes features and broadcasts to that shape;
        with a lower rank it removes examples and broadcasts to the shape of the loss. What it removes may hold
        anything.
      weights: real, broadcast to the shape of the loss. A weight of 0 excludes.
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
    x, t, smallest, mask = _vectors("cosine_distance", predictions, targets, epsilon, axis, where, weights, reduction)
    if smallest is None:
        return finish(_distance(x, t, None, unweighted=mask.unweighted), *mask)
    clipped, below = _clipped_cosine(x, t, smallest)
    distance = _distance(x, t, ~below, unweighted=mask.unweighted)
    return finish(jnp.where(below, 1 - clipped, distance), *mask)


def _vectors(
    name: str,
    predictions: ArrayLike,
    targets: ArrayLike,
    epsilon: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
) -> tuple[Array, Array, Array | None, Mask]:
    """The vectors as rows, the smallest norm or None, and what `finish` takes."""
    _inputs.choice(name, "reduction", reduction)
    names = "predictions", "targets"
    x, t, features, kept, weight = paired(name, names, predictions, targets, axis, where, weights)
    x, t = (removed_as(0, a, None, features) for a in (x, t))
    if weight is not None and not _inputs.is_number(epsilon, 0):  # a norm below epsilon has no rule of its own
        kept, weight = excluding(kept, weight, is_finite(x) & is_finite(t))
    x, t = (removed_as(0, a, kept, None) for a in (x, t))
    x, t = map(lax.optimization_barrier, (x, t))  # of constants, XLA turns (t s) (t s) into (t t) (s s): it overflows
    smallest = _inputs.option(name, "epsilon", epsilon, 0, x.shape[:-1], _inputs.compute_dtype(x, t))
    if smallest is not None:
        smallest = smallest if kept is None else jnp.where(kept, smallest, 1)
        smallest = jnp.where(smallest > 0, jnp.sqrt(jnp.where(smallest > 0, smallest, 1)), 0)
    return x, t, smallest, Mask(kept, weight, reduction)


# A cosine does not change with the length of a vector, so that powers of two, which are exact, may scale both into a
# range where squares neither overflow nor underflow; derivatives take them for constants. With the part of -t that is
# orthogonal to x,
#     o = d - x (x . d) / |x|^2,    sin = |o| / |t|,    1 - cos = sin^2 / (1 + cos),
# and the gradient of 1 - cos by x is o / (|x| |t|). As d, -t and x - t serve alike; near vectors have an exact
# difference, so that o and what follows from it are exact.


def largest_power(x: Array) -> Array:
    """A power of two near the largest entry of a row."""
    return power_of_two(jnp.abs(lax.stop_gradient(x)).max(-1, keepdims=True))


def _scales(x: Array, t: Array) -> tuple[Array, Array]:
    """What takes the largest entries near 4: one number for both if they are of similar length."""
    of_x, of_t = largest_power(x), largest_power(t)
    similar = (of_x <= 2 * of_t) & (of_t <= 2 * of_x)
    return 4 / of_x, 4 / jnp.where(similar, of_x, of_t)


def _sums(
    x: Array, t: Array, scales: tuple[Array, Array], *products: Callable[[Array, Array], Array]
) -> tuple[tuple[Array, ...], tuple[Array, Array]]:
    """Of the products of the scaled vectors, and the scales: each sum has its own, lest the vectors be written out."""
    totals = []
    for product in products:
        x_scale, t_scale = scales
        total = product(x * x_scale, t * t_scale).sum(-1, keepdims=True)
        total, x_scale, t_scale = apart(total, x_scale, t_scale)
        totals.append(total)
        scales = x_scale, t_scale
    return tuple(totals), scales


def _xx(x: Array, t: Array) -> Array:
    return x * x


def _tt(x: Array, t: Array) -> Array:
    return t * t


def _xt(x: Array, t: Array) -> Array:
    return x * t


class _Saved(NamedTuple):
    x: Array
    t: Array
    x_scale: Array  # from here on, one number a row each
    t_scale: Array
    near: Array
    of_x: Array  # x . d / |x|^2
    of_t: Array
    factor: Array  # 1 / (|x| |t|), 0 where one of them is 0


def _compare(x: Array, t: Array) -> tuple[Array, Array, _Saved]:
    """The cosine, the distance, and what the gradient needs."""
    given = x, t
    dtype = _inputs.compute_dtype(x, t)
    x, t = x.astype(dtype), t.astype(dtype)
    (xx, tt, xt, xd), scales = _sums(x, t, _scales(x, t), _xx, _tt, _xt, lambda x, t: x * (x - t))
    zero = (xx == 0) | (tt == 0)
    xx, tt = (jnp.where(squared == 0, 1, squared) for squared in (xx, tt))
    factor = 1 / (jnp.sqrt(xx) * jnp.sqrt(tt))
    cosine = jnp.clip(xt * factor, -1, 1)  # of a cosine only the rounding is clipped
    near = cosine > 0.5
    of_x = xd / xx
    (oo,), scales = _sums(x, t, scales, lambda x, t: jnp.square(x - t - x * of_x))
    (td,), _ = _sums(x, t, scales, lambda x, t: t * (x - t))
    distance = jnp.where(near, oo / (tt * (1 + jnp.where(near, cosine, 0))), 1 - cosine)
    cosine = jnp.where(near, 1 - distance, cosine)
    of_x, of_t = jnp.where(near, of_x, -xt / xx), jnp.where(near, td, xt) / tt
    saved = _Saved(*given, *scales, near, of_x, of_t, jnp.where(zero, 0, factor))
    return cosine[..., 0], distance[..., 0], saved


def _gradients(saved: _Saved, g: Array) -> tuple[Array, Array]:
    """Of the distance."""
    x, t = (a.astype(g.dtype) * scale for a, scale in ((saved.x, saved.x_scale), (saved.t, saved.t_scale)))
    g = g[..., None] * saved.factor
    by_x = jnp.where(saved.near, x, 0) - t - x * saved.of_x
    by_t = x - jnp.where(saved.near, t, 0) - t * saved.of_t
    return g * saved.x_scale * by_x, -g * saved.t_scale * by_t


class _Some(NamedTuple):
    """Of rows that are zeros unless they are kept."""

    saved: _Saved
    kept: Array | None

    def rows(self) -> _Saved:
        x, t = (removed_as(0, a, self.kept, None) for a in self.saved[:2])
        return self.saved._replace(x=x, t=t)


def _forward(x: Array, t: Array, kept: Array | None) -> tuple[Array, Array, _Some]:
    cosine, distance, saved = _compare(*(removed_as(0, a, kept, None) for a in (x, t)))
    return cosine, distance, _Some(saved._replace(x=x, t=t), kept)


def _similarity_forward(x: Array, t: Array, kept: Array | None) -> tuple[Array, _Some]:
    cosine, _, saved = _forward(x, t, kept)
    return cosine, saved


def _distance_forward(x: Array, t: Array, kept: Array | None) -> tuple[Array, _Some]:
    _, distance, saved = _forward(x, t, kept)
    return distance, saved


_distance = every_mode(_distance_forward, lambda some, g: (*_gradients(some.rows(), g), None))
_similarity = every_mode(_similarity_forward, lambda some, g: (*_gradients(some.rows(), -g), None))


def _clipped(x: Array, t: Array, smallest: Array) -> tuple[Array, Array]:
    """The cosine with norms of at least that, and whether one is below."""
    dtype = _inputs.compute_dtype(x, t)
    x, t = x.astype(dtype), t.astype(dtype)
    smallest = smallest[..., None]
    some = jnp.where(smallest == 0, 1, smallest)
    most = jnp.where(smallest == 0, jnp.inf, 4 / some)  # no more than tells whether a norm is below
    x_scale, t_scale = (jnp.minimum(scale, most) for scale in _scales(x, t))
    (xx, tt), scales = _sums(x, t, (x_scale, t_scale), _xx, _tt)

    def directed(a: Array, squared: Array, scale: Array) -> tuple[Array, Array]:
        below = squared < jnp.square((smallest * scale).clip(jnp.finfo(dtype).tiny))
        norm = jnp.sqrt(jnp.where(below | (squared == 0), 1, squared))
        return jnp.where(below, a / some, a * scale / norm), below

    (u, x_below), (v, t_below) = map(directed, (x, t), (xx, tt), scales)
    return (u * v).sum(-1), (x_below | t_below)[..., 0]


_clipped_cosine = jax.checkpoint(_clipped, prevent_cse=False)
