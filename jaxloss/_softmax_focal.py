"""The focal losses of a softmax and the poly loss: sums over the classes of a function of -log p."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import broadcast_class_weights, take_label
from ._core.compiler import compiled, cpu_fusion_barrier, recompute_barrier
from ._core.cross_entropy import Options, indexed_cross_entropy, off_max_label_mass, softmax_residual
from ._core.derivatives import custom_derivative, recompute_in_backward
from ._core.masks import Mask
from ._core.rows import per_example_option, prepare_indexed, prepare_rows
from ._core.softmax import Row, gap_to_max, summary, surprisal
from ._core.special import bounded_product, expm1, log1p_of_ratio, multiply_no_nan
from ._core.types import Axis, Reduction


def _prepare_alpha(name: str, alpha: ArrayLike, x: Array, dtype: np.dtype) -> Array:
    """One number for all classes, or one per class."""
    array = arguments.hyperparameter(name, "alpha", alpha, dtype)
    return broadcast_class_weights(name, "alpha", array, x, dtype) if array.ndim else array


# All of them are sums of t_c f(u_c), with u_c = -log p_c, exact where p_c is near 1 and where it is near 0. The slopes
# of u_c are those of a cross entropy, and so the gradient is that of a cross entropy with the labels t_c f'(u_c).


class _Saved(NamedTuple):
    x: Array
    t: Array
    option: Array
    mask: Mask
    alpha: Array | None  # alpha_c, or one for all
    row: Row


def _logits(x: Array, mask: Mask, dtype: np.dtype) -> Array:
    return mask.fill_classes(mask.fill_examples(x.astype(dtype)), -np.inf)


def _over_classes(bend: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    """The sum of alpha_c t_c f(u_c), of f(u, option)."""

    def forward(x: Array, t: Array, option: Array, mask: Mask, alpha: Array | None) -> tuple[Array, _Saved]:
        (x,) = cpu_fusion_barrier(x)
        z = _logits(x, mask, option.dtype)
        row = summary(z)
        labels = mask.fill(t.astype(option.dtype))
        labels = labels if alpha is None else alpha * labels
        u = surprisal(z, row)
        losses = bounded_product(labels, bend(u, option[..., None]))
        # Where u is infinite, f(u) is u.
        infinite = 2 * bounded_product(labels, gap_to_max(z / 2, row.top[..., None] / 2))
        losses = jnp.where(u == jnp.inf, infinite, losses).sum(-1)
        return jnp.where(row.empty, jnp.inf, losses), _Saved(x, t, option, mask, alpha, row)

    def backward(saved: _Saved, g: Array) -> tuple[Array | None, ...]:
        x, t, option, mask, alpha, row = saved
        z = _logits(x, mask, g.dtype)
        unweighted_labels = mask.fill(t.astype(g.dtype))
        labels = unweighted_labels if alpha is None else alpha * unweighted_labels
        options = jnp.broadcast_to(option[..., None], z.shape)

        def bent(z: Array) -> tuple[Array, Array, Array]:
            losses, pull = jax.vjp(bend, surprisal(z, row), options)
            slopes, d_option = pull(jnp.ones_like(losses))
            return losses, labels * slopes, d_option

        z_again = recompute_barrier(z, rows=True)
        _, pulls, _ = bent(z_again)
        label_sum, off_max_sum = pulls.sum(-1), off_max_label_mass(z_again, row.top, pulls)
        losses, pulls, d_option = bent(z)
        g = jnp.where(row.empty if mask.examples is None else row.empty | ~mask.examples, 0, g)[..., None]
        gradient, _ = softmax_residual(z, row, pulls, label_sum, off_max_sum)
        gradient = mask.fill(jnp.where(z == -np.inf, 0, g * gradient))
        losses = mask.fill(losses)
        ct_t = multiply_no_nan(g if alpha is None else g * alpha, losses)
        ct_alpha = None
        if alpha is not None:
            ct_alpha = multiply_no_nan(g * unweighted_labels, losses)
            ct_alpha = ct_alpha.sum(-1, keepdims=True) if alpha.shape[-1] == 1 else ct_alpha
        return gradient, ct_t, (g * multiply_no_nan(labels, d_option)).sum(-1), None, ct_alpha

    return custom_derivative(forward, backward, infinite=(1,))


@jax.custom_jvp
def _log_wrong(u: Array) -> Array:
    """log(1 - exp(-u))."""
    e = jnp.exp(-u)
    return jnp.where(e > 0.5, jnp.log(-expm1(-u)), log1p_of_ratio(-e))


@_log_wrong.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _log_wrong(*primals), tangents[0] / expm1(primals[0])


@jax.custom_jvp
def _power(u: Array, gamma: Array) -> Array:
    """(1 - exp(-u))^gamma. At u = 0, where no logit moves u, an infinite derivative is 0."""
    return jnp.exp(multiply_no_nan(gamma, _log_wrong(u)))


@_power.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    u, gamma = primals
    power = _power(u, gamma)
    d_u = multiply_no_nan(gamma, jnp.exp(-u) * _power(u, gamma - 1))
    d_gamma = multiply_no_nan(power, _log_wrong(u))
    d_u, d_gamma = (jnp.where(jnp.isinf(a), 0, a) for a in (d_u, d_gamma))
    return power, d_u * tangents[0] + d_gamma * tangents[1]


@jax.custom_jvp
def _fading(u: Array) -> Array:
    """u / expm1(u)."""
    safe_u = jnp.where((u == 0) | (u > 80), 1, u)
    return jnp.where(u == 0, 1, jnp.where(u > 80, 0, safe_u / expm1(safe_u)))


@_fading.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """(1 - u / (1 - exp(-u))) / expm1(u), by its series where that cancels, and without squares."""
    (u,) = primals
    is_small = u < 0.3
    v, large = jnp.where(is_small, u, 0), jnp.where(is_small | (u > 80), 1, u)
    series = -1 / 2 + v / 6 * (1 - jnp.square(v) / 30 * (1 - jnp.square(v) / 28 * (1 - jnp.square(v) / 30)))
    direct = (1 + large / expm1(-large)) / expm1(large)
    return _fading(u), jnp.where(is_small, series, jnp.where(u > 80, 0, direct)) * tangents[0]


@jax.custom_jvp
def _focal(u: Array, gamma: Array) -> Array:
    """u (1 - exp(-u))^gamma, with the slope (1 - exp(-u))^gamma (1 + gamma u / expm1(u)) by u."""
    return u * _power(u, gamma)


@_focal.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    u, gamma = primals
    loss = _focal(u, gamma)
    inside = (u != 0) & (u != jnp.inf)
    safe_u = jnp.where(inside, u, 1)
    d_gamma = jnp.where(inside, _focal(safe_u, gamma) * _log_wrong(safe_u), 0)
    return loss, _power(u, gamma) * (1 + gamma * _fading(u)) * tangents[0] + d_gamma * tangents[1]


@jax.custom_jvp
def _focal_with_square(u: Array) -> Array:
    """u q^2 with q = 1 - exp(-u), with the slope q (q + 2 u exp(-u)): gamma = 2 takes no logarithm."""
    return u * jnp.square(expm1(-u))


@_focal_with_square.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (u,) = primals
    q, p = -expm1(-u), jnp.exp(-u)
    slope = q * (q + 2 * jnp.minimum(u, 1000) * p)  # beyond 1000, p is 0
    return _focal_with_square(u), slope * tangents[0]


_focal_of_entropy = recompute_in_backward(_focal)

_focal_rows = _over_classes(_focal)

_focal_rows_with_square = _over_classes(lambda u, gamma: _focal_with_square(u))

_poly_rows = _over_classes(lambda u, epsilon: u - epsilon * expm1(-u))


@compiled(gamma=arguments.NOT_NEGATIVE)
def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 1.0,
    gamma: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Focal loss of a softmax with a probability for each class.

    .. math::
        \ell = -\sum_c \alpha_c\, t_c\, (1 - p_c)^\gamma \log p_c, \quad p = \mathrm{softmax}(x)

    Args:
      logits: :math:`x`, floating, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of
        probability 0.
      labels: target probabilities :math:`t`, real, of the shape of ``logits``.
      alpha: :math:`\alpha`, a number, or an array of shape (classes,). It multiplies the loss, and is not in the
        mean's divisor.
      gamma: :math:`\gamma \ge 0`, 0 for the cross entropy. It may be traced, and may differ from row to row.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
      >>> labels = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
      >>> print(jaxloss.softmax_focal_loss(logits, labels))
      [0.0008 2.821 ]

    Keras: ``categorical_focal_crossentropy``, (labels, probabilities), which multiplies by 0.25 unless told otherwise,
    and clips probabilities also if it is given logits. Labels are smoothed by :func:`smooth_labels`.

    References:
      Lin et al., https://arxiv.org/abs/1708.02002, equation 5, for each class.
    """
    name = "softmax_focal_loss"
    x, t, mask = prepare_rows(name, ("logits", "labels"), logits, labels, axis, where, weights)
    arguments.choice(name, "reduction", reduction)
    dtype = arguments.compute_dtype(x, t)
    focal_rows = _focal_rows_with_square if arguments.is_number(gamma, 2) else _focal_rows
    gamma = per_example_option(name, "gamma", gamma, mask, x.shape[:-1], dtype)
    class_alpha = None
    if not arguments.is_number(alpha, 1):
        class_alpha = _prepare_alpha(name, alpha, x, dtype)
        class_alpha = class_alpha if class_alpha.ndim else jnp.broadcast_to(class_alpha, (*x.shape[:-1], 1))
    losses = focal_rows(x, t, gamma, mask.without_weight(), class_alpha, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)


@compiled(gamma=arguments.NOT_NEGATIVE)
def softmax_focal_loss_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike = 1.0,
    gamma: ArrayLike = 2.0,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Focal loss of a softmax with the index of the right class.

    .. math::
        \ell = -\alpha_y\, (1 - p_y)^\gamma \log p_y, \quad p = \mathrm{softmax}(x)

    The same as :func:`softmax_focal_loss` with one-hot labels, without ever building them.

    Args:
      logits: :math:`x`, floating, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of
        probability 0.
      labels: :math:`y`, integers in [0, classes), of the shape of ``logits`` without ``axis``; for several axes, an
        index into them flattened. Any other integer, -1 too, gives NaN for its example.
      alpha: :math:`\alpha`, a number, or an array of shape (classes,). It multiplies the loss, and is not in the
        mean's divisor.
      gamma: :math:`\gamma \ge 0`, 0 for the cross entropy. It may be traced, and may differ from row to row.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``labels``, or a scalar; float64 if ``logits`` is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4, suppress=True)
      >>> logits = jnp.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
      >>> print(jaxloss.softmax_focal_loss_with_integer_labels(logits, jnp.array([0, 0])))
      [0.0008 2.821 ]

    References:
      Lin et al., https://arxiv.org/abs/1708.02002, equation 5, for the right class.
    """
    name = "softmax_focal_loss_with_integer_labels"
    x, y, mask = prepare_indexed(name, "logits", logits, labels, axis, where, weights)
    arguments.choice(name, "reduction", reduction)
    dtype = arguments.compute_dtype(x)
    gamma = per_example_option(name, "gamma", gamma, mask, y.shape, dtype)
    alpha = _prepare_alpha(name, alpha, x, dtype)
    entropies = indexed_cross_entropy(x, y, mask.without_weight(), Options(), unweighted=mask.unweighted)
    losses = _focal_of_entropy(entropies, gamma, unweighted=mask.unweighted)
    losses = mask.fill_options(losses, 0)
    return mask.reduce(multiply_no_nan(take_label(alpha, y) if alpha.ndim else alpha, losses), reduction)


@compiled(epsilon=arguments.AT_LEAST_MINUS_ONE)
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Poly-1 loss: the cross entropy of a softmax, and its first term once more.

    .. math::
        \ell = \sum_c t_c \left(-\log p_c + \epsilon (1 - p_c)\right), \quad p = \mathrm{softmax}(x)

    Args:
      logits: :math:`x`, floating, the classes along ``axis``: scores before any softmax. ``-inf`` is a class of
        probability 0.
      labels: target probabilities :math:`t`, real, of the shape of ``logits``. They need not sum to 1.
      epsilon: :math:`\epsilon`, -1 or more. It may be traced, and may differ from row to row.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``logits`` it masks classes; with a lower rank,
        examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``logits`` without ``axis``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``logits`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape than ``logits``, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> loss = jaxloss.poly_loss_cross_entropy(jnp.array([2.0, 0.0]), jnp.array([1.0, 0.0]))
      >>> print(f"{loss:.4f}")
      0.3653

    optax rounds a confident row to 0 ([20, 0] with the first class costs 6.2e-9), and is NaN beside a logit of -inf.

    References:
      Leng et al., https://arxiv.org/abs/2204.12511, equation 7.
    """
    name = "poly_loss_cross_entropy"
    x, t, mask = prepare_rows(name, ("logits", "labels"), logits, labels, axis, where, weights)
    arguments.choice(name, "reduction", reduction)
    epsilon = per_example_option(name, "epsilon", epsilon, mask, x.shape[:-1], arguments.compute_dtype(x, t))
    losses = _poly_rows(x, t, epsilon, mask.without_weight(), None, unweighted=mask.unweighted)
    return mask.reduce(losses, reduction)
