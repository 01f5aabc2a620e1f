"""Losses of two views of each example, by the moments of their features over the batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled, replicate_from_axis, reshard, shard_like
from ._core.masks import divide_or_zero, prepare_mask
from ._core.reduction import reduce
from ._core.special import power_of_two, relu
from ._core.types import AxisName


class _Batch(NamedTuple):
    """The unmasked examples, those of the other devices of a mapped axis included."""

    examples: Array | None  # of the shape of the embeddings, True is unmasked
    number: Array
    axis_name: AxisName | None

    def fill(self, x: Array, value: float = 0) -> Array:
        """x with ``value`` in masked examples."""
        return x if self.examples is None else jnp.where(self.examples, x, value)

    def mean(self, x: Array) -> Array:
        return reduce(x, axis=0, where=self.examples, axis_name=self.axis_name)[None]

    def ends(self, x: Array) -> tuple[Array, Array]:
        """The smallest and the largest entry of each feature, without derivative."""
        least = float(jnp.finfo(x.dtype).min) / 4  # not -inf, so that no difference of an empty batch is NaN
        x = lax.stop_gradient(x)
        low, high = (self.fill(a, least).max(0, keepdims=True, initial=least) for a in (-x, x))
        if self.axis_name is not None:
            low, high = lax.pmax((low, high), self.axis_name)
        return -low, high

    def centre(self, x: Array) -> Array:
        """x minus its mean, 0 in masked examples. Features that are the same in all examples become exactly 0."""
        low, high = self.ends(x)
        shift = jnp.clip(self.mean(lax.stop_gradient(x)), low, high)  # the mean of equal numbers is rounded
        x = self.fill(x - shift)
        return self.fill(x - self.mean(x))  # what rounding left of a mean that is far from 0

    def products(self, a: Array, b: Array) -> Array:
        """The mean over the examples of the products of all features of ``a`` with all of ``b``."""
        spec, sharding = jax.typeof(a).sharding.spec, None
        if any(spec):  # on an explicit mesh the result keeps the features of a split, and those of b whole
            b, sharding = replicate_from_axis(b, 1), NamedSharding(jax.typeof(a).sharding.mesh, P(spec[1], None))
        over_examples = ((0,), (0,)), ((), ())
        summed = lax.dot_general(a, b, over_examples, preferred_element_type=a.dtype, out_sharding=sharding)
        summed = summed if self.axis_name is None else lax.psum(summed, self.axis_name)
        return divide_or_zero(summed, self.number)


def _prepare(
    name: str, first: ArrayLike, second: ArrayLike, where: ArrayLike | None, axis_name: AxisName | None
) -> tuple[Array, Array, _Batch]:
    """The embeddings of both views, with zeros in masked examples, and the batch."""
    x1, x2 = arguments.floating(name, "first", first), arguments.floating(name, "second", second)
    if x1.ndim != 2 or not x1.shape[1]:
        raise ValueError(f"{name}: expected `first` of shape (batch, features), got {x1.shape}.")
    arguments.same_shape(name, "second", x2, x1.shape)
    x1 = shard_like(x2, x1)
    spec = jax.typeof(x1).sharding.spec
    arguments.same_sharding(name, "second", x2, spec)
    x2 = shard_like(x1, x2)
    arguments.mapped(name, "axis_name", axis_name)
    dtype = arguments.compute_dtype(x1, x2)
    mask = prepare_mask(name, where, None, x1.shape[:1], dtype)
    number = mask.total_weight(x1.shape[:1], dtype, axis_name)
    examples = None if mask.examples is None else jnp.broadcast_to(mask.examples[:, None], x1.shape)
    if examples is not None and any(spec):
        examples = reshard(examples, P(*spec), x1)
    batch = _Batch(examples, number, axis_name)
    return batch.fill(x1.astype(dtype)), batch.fill(x2.astype(dtype)), batch


def _number(name: str, argument: str, value: ArrayLike, like: Array) -> Array:
    return arguments.broadcast(name, argument, arguments.hyperparameter(name, argument, value, like.dtype), ())


class _View(NamedTuple):
    """Embeddings in units of their features, in which squares neither overflow nor underflow."""

    x: Array
    epsilon: Array  # [1, features]
    unit: Array  # [1, features], powers of two


def _in_units(batch: _Batch, x1: Array, x2: Array, epsilon: Array) -> tuple[_View, _View]:
    """Both views. Where they are of similar size, they have one unit, so that their difference is exact.

    A feature that is the same in all examples, and has no epsilon, gets the unit 0, the epsilon 1 and no derivative:
    its standardised embeddings are then 0.
    """
    tiny = float(jnp.finfo(x1.dtype).tiny)
    least = jnp.sqrt(lax.stop_gradient(epsilon))
    sizes = [jnp.maximum(high - low, least) for low, high in map(batch.ends, (x1, x2))]
    unit1, unit2 = map(power_of_two, sizes)
    unit2 = jnp.where((unit1 <= 2 * unit2) & (unit2 <= 2 * unit1), unit1, unit2)

    def view(x: Array, unit: Array, size: Array) -> _View:
        x, in_unit, varies = x * (1 / unit), epsilon * (1 / unit) * (1 / unit), size >= tiny
        x = jnp.where(varies, x, lax.stop_gradient(x))
        return _View(x, jnp.where(varies, in_unit, 1), jnp.where(varies, unit, 0))

    return view(x1, unit1, sizes[0]), view(x2, unit2, sizes[1])


def _centred_difference(batch: _Batch, one: _View, two: _View, a1: Array, a2: Array) -> Array:
    """a1 - a2 of the centred views: of near ones by the difference of the embeddings, which is exact."""
    difference = one.x - two.x
    low, high = batch.ends(difference)
    is_near = jnp.maximum(-low, high) < 2  # beyond, it is rounded more than a1 and a2 are
    return jnp.where(is_near, batch.centre(difference), a1 - a2)


def _off_diagonal(matrix: Array) -> Array:
    diagonal = shard_like(matrix, jnp.eye(matrix.shape[0], dtype=bool))
    return jnp.where(diagonal, 0, matrix)


@compiled(off_diagonal_weight=arguments.NOT_NEGATIVE, epsilon=arguments.NOT_NEGATIVE)
def barlow_twins_loss(
    first: ArrayLike,
    second: ArrayLike,
    *,
    off_diagonal_weight: ArrayLike = 5e-3,
    epsilon: ArrayLike = 1e-5,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    r"""Barlow Twins: the cross-correlation of the features of two views is to be the identity.

    .. math::
        \ell = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad
        C_{ij} = \frac{1}{N} \sum_{n=1}^{N} z^{(1)}_{ni} z^{(2)}_{nj}, \qquad
        z = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}}

    Mean and variance are those of each feature over the batch, the variance divided by N. 1 - C is
    computed without cancellation: nearly equal views, and features far from 0, keep their digits.

    Args:
      first: :math:`x^{(1)}`, floating, of shape (batch, features): the embeddings of one view of each example.
      second: :math:`x^{(2)}`, floating, of the shape of ``first``: those of the other view, in the same order.
      off_diagonal_weight: :math:`\lambda \ge 0`, a number.
      epsilon: :math:`\epsilon \ge 0`, a number, which is added to the variance. With 0 the size of a feature does not
        count, and one that is the same in all examples has :math:`z = 0` and gradient 0.
      where: boolean mask, broadcast to (batch,): False masks an example, which may contain anything, in both views.
      axis_name: a mapped axis, or several, over whose devices the batch is split: moments and products are those of the
        whole batch. What ``jax.grad`` then gives: as of :func:`jaxloss.reduce`.

    Returns:
      A scalar; float64 if ``first`` or ``second`` is, else float32. 0 without examples, and of one example the number
      of features, with gradient 0.

    Raises:
      TypeError: an embedding is not floating, ``where`` is not boolean.
      ValueError: embeddings are not of two axes and one shape, an option is not a number or negative, ``where`` does
        not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> first = jnp.array([[1.0, 0.2], [-0.4, 0.9], [0.3, -1.0]])
      >>> second = jnp.array([[0.9, 0.1], [-0.6, 1.1], [0.5, -0.8]])
      >>> print(f"{jaxloss.barlow_twins_loss(first, second):.4f}")
      0.0046

    The product of the embeddings has the precision of ``jax.default_matmul_precision``: where that is less than that of
    float32, take ``"highest"``.

    References:
      Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, https://arxiv.org/abs/2103.03230.
    """
    name = "barlow_twins_loss"
    x1, x2, batch = _prepare(name, first, second, where, axis_name)
    off_diagonal = _number(name, "off_diagonal_weight", off_diagonal_weight, x1)
    one, two = _in_units(batch, x1, x2, _number(name, "epsilon", epsilon, x1))
    a1, a2 = batch.centre(one.x), batch.centre(two.x)
    difference = _centred_difference(batch, one, two, a1, a2)
    v1, v2 = (batch.mean(jnp.square(a)) + view.epsilon for a, view in ((a1, one), (a2, two)))
    r1, r2 = 1 / jnp.sqrt(v1), 1 / jnp.sqrt(v2)
    z1, z2 = a1 * r1, a2 * r2
    # 1 - C_ii without cancellation: 2 C_ii = mean(z1^2) + mean(z2^2) - mean((z1 - z2)^2), and mean(z^2) is
    # 1 - epsilon / v. Of near views z1 - z2 is exact by their difference: it is
    # ((a1 - a2) (r1 + r2) + (a1 + a2) (r1 - r2)) / 2, with r1 - r2 = (v2 - v1) (r1 r2)^2 / (r1 + r2).
    v2_minus_v1 = two.epsilon - one.epsilon - batch.mean(difference * (a1 + a2))
    r1_minus_r2 = v2_minus_v1 * jnp.square(r1 * r2) / (r1 + r2)
    z1_minus_z2 = (difference * (r1 + r2) + (a1 + a2) * r1_minus_r2) / 2
    complement = (batch.mean(jnp.square(z1_minus_z2)) + one.epsilon / v1 + two.epsilon / v2) / 2
    correlation = _off_diagonal(batch.products(z1, z2))
    loss = jnp.square(complement).sum() + off_diagonal * jnp.square(correlation).sum()
    return jnp.where(batch.number == 0, 0, loss)


@compiled(
    invariance_weight=arguments.NOT_NEGATIVE,
    variance_weight=arguments.NOT_NEGATIVE,
    covariance_weight=arguments.NOT_NEGATIVE,
    epsilon=arguments.NOT_NEGATIVE,
)
def vicreg_loss(
    first: ArrayLike,
    second: ArrayLike,
    *,
    invariance_weight: ArrayLike = 25.0,
    variance_weight: ArrayLike = 25.0,
    covariance_weight: ArrayLike = 1.0,
    epsilon: ArrayLike = 1e-4,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Array:
    r"""VICReg: near views, features of a deviation of at least 1, and no covariance between features.

    .. math::
        \ell = \frac{\lambda}{N D} \sum_{n,i} \bigl(x^{(1)}_{ni} - x^{(2)}_{ni}\bigr)^2
             + \sum_{k=1}^{2} \Bigl(\frac{\mu}{2 D} \sum_i \max\bigl(0, 1 - \sqrt{V^{(k)}_{ii} + \epsilon}\bigr)
             + \frac{\nu}{D} \sum_{i \ne j} \bigl(V^{(k)}_{ij}\bigr)^2\Bigr)

    :math:`V^{(k)}` is the covariance of the D features of view k over the N examples of the batch, divided by N - 1.
    Where a deviation is exactly 1, the subgradient is 0.

    Args:
      first: :math:`x^{(1)}`, floating, of shape (batch, features): the embeddings of one view of each example.
      second: :math:`x^{(2)}`, floating, of the shape of ``first``: those of the other view, in the same order.
      invariance_weight: :math:`\lambda \ge 0`, a number.
      variance_weight: :math:`\mu \ge 0`, a number.
      covariance_weight: :math:`\nu \ge 0`, a number.
      epsilon: :math:`\epsilon \ge 0`, a number, which is added to the variance. With 0, a feature that is the same in
        all examples has the deviation 0, and gradient 0.
      where: boolean mask, broadcast to (batch,): False masks an example, which may contain anything, in both views.
      axis_name: a mapped axis, or several, over whose devices the batch is split: all three terms are those of the
        whole batch. What ``jax.grad`` then gives: as of :func:`jaxloss.reduce`.

    Returns:
      A scalar; float64 if ``first`` or ``second`` is, else float32. 0 without examples. Of one example all variances
      and covariances are 0, without gradient.

    Raises:
      TypeError: an embedding is not floating, ``where`` is not boolean.
      ValueError: embeddings are not of two axes and one shape, an option is not a number or negative, ``where`` does
        not broadcast, ``axis_name`` is not mapped.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> first = jnp.array([[1.0, 0.2], [-0.4, 0.9], [0.3, -1.0]])
      >>> second = jnp.array([[0.9, 0.1], [-0.6, 1.1], [0.5, -0.8]])
      >>> print(f"{jaxloss.vicreg_loss(first, second):.4f}")
      4.9228

    The product of the embeddings has the precision of ``jax.default_matmul_precision``: where that is less than that of
    float32, take ``"highest"``. The sum of squared covariances is of the fourth degree: in float32 it is infinite for
    embeddings of 1e10.

    References:
      Bardes, Ponce and LeCun, VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning,
      https://arxiv.org/abs/2105.04906.
    """
    name = "vicreg_loss"
    x1, x2, batch = _prepare(name, first, second, where, axis_name)
    options = {"invariance_weight": invariance_weight, "variance_weight": variance_weight}
    options |= {"covariance_weight": covariance_weight, "epsilon": epsilon}
    of_invariance, of_variance, of_covariance, epsilon = (_number(name, *option, x1) for option in options.items())
    unbiased = batch.number / jnp.maximum(batch.number - 1, 1)
    loss = of_invariance * batch.mean(jnp.square(x1 - x2)).mean()
    for view in _in_units(batch, x1, x2, epsilon):
        centred = batch.centre(view.x)
        variance = unbiased * batch.mean(jnp.square(centred))
        deviation = view.unit * jnp.sqrt(variance + view.epsilon)
        covariance = unbiased * _off_diagonal(batch.products(view.unit * centred, view.unit * centred))
        loss += of_variance * relu(1 - deviation).mean() / 2
        loss += of_covariance * jnp.square(covariance).sum() / x1.shape[1]
    return jnp.where(batch.number == 0, 0, loss)
