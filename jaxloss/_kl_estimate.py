"""Estimates of the divergence of a policy from its reference, from actions that the policy has taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.elementwise import elementwise, prepare_elementwise
from ._core.special import expm1, kl_term, multiply_no_nan
from ._core.types import Reduction

# Of d = log(q / p), for actions drawn from p: what the estimators are, and their derivatives by d. The third function
# is the gradient of r k by log p, r = p / old, over r: k less its derivative, in a form that does not cancel.

Estimator = Literal["k1", "k2", "k3", "k1+", "k3+"]


def _k3(d: Array) -> Array:
    """exp(d) - 1 - d."""
    return kl_term(jnp.ones_like(d), jnp.exp(d), jnp.minimum(d, jnp.finfo(d.dtype).max))


_ESTIMATORS: dict[Estimator, tuple[Callable[[Array], Array], ...]] = {
    "k1": (lambda d: -d, lambda d: -jnp.ones_like(d), lambda d: 1 - d),
    "k2": (lambda d: 0.5 * d * d, lambda d: d, lambda d: d * (0.5 * d - 1)),
    "k3": (_k3, expm1, lambda d: -d),
    "k1+": (lambda d: -d, lambda d: d, lambda d: -d),
    "k3+": (_k3, lambda d: d, lambda d: -d),
}


def _estimate(estimator: Estimator) -> Callable[..., Array]:
    value, slope, _ = _ESTIMATORS[estimator]
    return elementwise(
        lambda log_prob, reference: value(reference - log_prob),
        lambda log_prob, reference: (-slope(reference - log_prob), slope(reference - log_prob)),
    )


def _times_ratio(x: Array, log_ratio: Array) -> Array:
    """x exp(log_ratio), 0 where one of the factors is, by two roots of which none underflows."""
    root = jnp.exp(0.5 * log_ratio)
    return jnp.where(root == 0, 0, multiply_no_nan(multiply_no_nan(x, root), root))


def _weighted_estimate(estimator: Estimator) -> Callable[..., Array]:
    """The same times r = p / old. From d = 1 on, r exp(d) is q / old, of which the rest is a share."""
    value, slope, corrected = _ESTIMATORS[estimator]

    def formula(log_prob: Array, reference: Array, old: Array) -> Array:
        d = reference - log_prob
        if value is not _k3:
            return _times_ratio(value(d), log_prob - old)
        share = 1 - (1 + jnp.minimum(d, 1e4)) * jnp.exp(-d)
        near = _times_ratio(_k3(jnp.minimum(d, 1)), log_prob - old)
        return jnp.where(d > 1, jnp.exp(reference - old) * share, near)

    def slopes(log_prob: Array, reference: Array, old: Array) -> tuple[Array, Array, Array]:
        d = reference - log_prob
        by_reference = _times_ratio(slope(jnp.minimum(d, 1) if slope is expm1 else d), log_prob - old)
        if slope is expm1:
            by_reference = jnp.where(d > 1, -jnp.exp(reference - old) * expm1(-d), by_reference)
        return _times_ratio(corrected(d), log_prob - old), by_reference, -formula(log_prob, reference, old)

    return elementwise(formula, slopes)


_PLAIN = {name: _estimate(name) for name in _ESTIMATORS}
_WEIGHTED = {name: _weighted_estimate(name) for name in _ESTIMATORS}


@compiled()
def kl_estimate(
    log_probs: ArrayLike,
    reference_log_probs: ArrayLike,
    old_log_probs: ArrayLike | None = None,
    *,
    estimator: Estimator = "k3",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Estimate of the divergence KL(p || q) of a policy from its reference, from actions that p has drawn.

    .. math::
        k_1 = -d, \quad k_2 = \tfrac{1}{2} d^2, \quad k_3 = e^d - 1 - d, \qquad d = \log q - \log p

    All but :math:`k_2` have the divergence as their mean, and :math:`k_2`, :math:`k_3` are never negative. As a loss,
    only the gradient counts:

    ============= ================ ======================================= =========================================
    ``estimator`` the value        :math:`\partial \ell / \partial \log p` its mean over actions of p
    ============= ================ ======================================= =========================================
    ``"k1"``      :math:`-d`       1                                       0: nothing is learnt
    ``"k2"``      :math:`d^2 / 2`  :math:`-d`                              the gradient of KL(p || q)
    ``"k3"``      :math:`k_3`      :math:`1 - e^d`                         the gradient of KL(q || p)
    ``"k1+"``     :math:`-d`       :math:`-d`                              the gradient of KL(p || q)
    ``"k3+"``     :math:`k_3`      :math:`-d`                              the gradient of KL(p || q)
    ============= ================ ======================================= =========================================

    An action that the policy finds far less probable than its reference has a :math:`k_3` of :math:`e^d`, which float32
    has up to d = 88, with a gradient of that size; the gradient of ``"k3+"`` is d. With ``old_log_probs``, for actions
    that another policy has drawn, the value is multiplied by :math:`r = p / p_{\mathrm{old}}`, which is differentiated
    as well, so that the gradient of :math:`r k_3` is :math:`-r d`; that of ``"k1+"`` and ``"k3+"`` is the same.

    Args:
      log_probs: :math:`\log p`, floating, of any shape: of the tokens that were sampled.
      reference_log_probs: :math:`\log q`, real, of the shape of ``log_probs``.
      old_log_probs: :math:`\log p_{\mathrm{old}}`, real, of the shape of ``log_probs``, if another policy sampled: also
        an earlier state of this one, where several steps are taken on the same samples. The difference is small there.
      estimator: ``"k1"``, ``"k2"``, ``"k3"``, ``"k1+"`` or ``"k3+"``.
      where: boolean mask, broadcast to the shape of ``log_probs``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``log_probs``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The estimate in nats, of the shape of ``log_probs``, or a scalar; float64 if an array is, else float32.

    Raises:
      TypeError: ``log_probs`` is not floating, another array is not real, ``where`` is not boolean.
      ValueError: arrays have two shapes, ``estimator`` is unknown, a mask or weight does not broadcast.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> log_probs, reference = jnp.array([-0.5, -2.0]), jnp.array([-0.5001, -4.0])
      >>> print(jaxloss.kl_estimate(log_probs, reference))
      [5.0015e-09 1.1353e+00]
      >>> print(jax.grad(lambda x: jaxloss.kl_estimate(x, reference, estimator="k3+").sum())(log_probs).round(4))
      [1.e-04 2.e+00]

    verl and tunix: the same names, ``low_var_kl`` for ``"k3"``. Between all tokens, not only sampled ones:
    :func:`softmax_kl_divergence`.

    References:
      Schulman, Approximating KL Divergence, http://joschu.net/blog/kl-approx.html, 2020. Gradients: Tang and Munos, On
      a few pitfalls in KL divergence gradient estimation for RL, https://arxiv.org/abs/2506.09477.
    """
    name = "kl_estimate"
    if estimator not in get_args(Estimator):
        raise ValueError(f"{name}: expected `estimator` to be one of {get_args(Estimator)}, got {estimator!r}.")
    given = {"log_probs": log_probs, "reference_log_probs": reference_log_probs}
    if old_log_probs is not None:
        given["old_log_probs"] = old_log_probs
    kinds = (arguments.floating,) + (arguments.real,) * (len(given) - 1)
    arrays, mask = prepare_elementwise(name, given, {}, where, weights, reduction, kinds)
    estimate = (_PLAIN if old_log_probs is None else _WEIGHTED)[estimator]
    return mask.reduce(estimate(*arrays, unweighted=mask.unweighted), reduction)
