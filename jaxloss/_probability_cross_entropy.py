"""Cross entropies from probabilities. Where there are logits, the losses of logits are exact and these are not."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.classes import in_range, infinite_if_masked, nan_unless, take_label
from ._core.compiler import compiled, cpu_sum_barrier
from ._core.elementwise import elementwise, prepare_elementwise, prepare_summed
from ._core.masks import Mask
from ._core.rows import per_example_option, prepare_indexed
from ._core.special import divide_no_nan, expm1, log1p, multiply_no_nan
from ._core.types import Axis, AxisName, Reduction


def _cross_slopes(p: Array, t: Array) -> tuple[Array, Array]:
    return -divide_no_nan(t, p), -jnp.log(p)


_cross = elementwise(lambda p, t: jnp.where(t == 0, 0, -t * jnp.log(p)), _cross_slopes, infinite=(0, 1))


@compiled()
def categorical_cross_entropy(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cross entropy of predicted probabilities with a probability for each class.

    .. math::
        \ell = -\sum_c t_c \log p_c, \qquad \frac{\partial \ell}{\partial p_c} = -\frac{t_c}{p_c}

    A network that ends in a softmax has logits: give them to :func:`softmax_cross_entropy` instead, which is exact and
    has a gradient where a probability has rounded to 0 or 1.

    Args:
      probabilities: :math:`p`, floating, the classes along ``axis``. They are taken as they are, neither clipped nor
        divided by their sum: at 0 the loss is infinite where the label is not 0, at 1 it is 0, above 1 negative,
        below 0 NaN.
      labels: target probabilities :math:`t`, real, of the shape of ``probabilities``. A 0 costs nothing, whatever p is.
      axis: the class axis or axes (flattened together); None for all.
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``probabilities`` it masks classes; with a lower
        rank, examples, and broadcasts to the shape of the loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``probabilities`` without ``axis``, or a scalar; float64 if an input is, else
      float32.

    Raises:
      TypeError: ``probabilities`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> labels, probabilities = jnp.array([0.0, 1.0, 0.0]), jnp.array([0.2, 0.7, 0.1])
      >>> print(f"{jaxloss.categorical_cross_entropy(probabilities, labels):.4f}")
      0.3567

    Keras: ``categorical_crossentropy``, (labels, probabilities), which divides by the sum and clips to [1e-7, 1 -
    1e-7]: its largest loss is 16.1, with gradient 0.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 5.5.
    """
    arrays, terms, mask = prepare_summed(
        "categorical_cross_entropy",
        {"probabilities": probabilities, "labels": labels},
        {},
        axis,
        where,
        weights,
        reduction,
    )
    return mask.reduce(terms.total(_cross(*arrays, unweighted=terms.unweighted)), reduction)


def _label_entry(
    name: str,
    named_rows: tuple[str, ArrayLike],
    labels: ArrayLike,
    axis: int | tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    certain: int,
    class_weights: ArrayLike | None = None,
) -> tuple[Array, Array, Mask]:
    """What is given for the label, ``certain`` if masked, NaN out of range; the label and the mask."""
    rows, y, mask = prepare_indexed(name, *named_rows, labels, axis, where, weights, class_weights)
    valid = nan_unless(in_range(y, rows.shape[-1]), rows.dtype)
    p = valid * take_label(valid[..., None] * mask.fill(rows, certain), y)
    return mask.fill_options(p, certain), y, mask


_minus_log = elementwise(lambda p: -jnp.log(p))


@compiled()
def categorical_cross_entropy_with_integer_labels(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cross entropy of predicted probabilities with the index of the right class.

    .. math::
        \ell = -\log p_y, \qquad \frac{\partial \ell}{\partial p_c} = -\frac{[c = y]}{p_y}

    A network that ends in a softmax has logits: give them to :func:`softmax_cross_entropy_with_integer_labels` instead.

    Args:
      probabilities: :math:`p`, floating, the classes along ``axis``. They are taken as they are, neither clipped nor
        divided by their sum: at 0 the loss is infinite, at 1 it is 0, above 1 negative, below 0 NaN.
      labels: :math:`y`, integers in [0, classes), of the shape of ``probabilities`` without ``axis``; for several axes,
        an index into them flattened. Any other integer, -1 too, gives NaN for its example.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``probabilities`` it masks classes; with a lower
        rank, examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``labels``, or a scalar; float64 if ``probabilities`` is, else float32.

    Raises:
      TypeError: ``probabilities`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> probabilities = jnp.array([[0.2, 0.7, 0.1], [0.5, 0.5, 0.0]])
      >>> print(jaxloss.categorical_cross_entropy_with_integer_labels(probabilities, jnp.array([1, 2])))
      [0.3567    inf]

    Keras: ``sparse_categorical_crossentropy``, (labels, probabilities), which divides by the sum and clips. PyTorch:
    ``nll_loss`` of the logarithm.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 5.5.
    """
    name = "categorical_cross_entropy_with_integer_labels"
    arguments.choice(name, "reduction", reduction)
    p, y, mask = _label_entry(name, ("probabilities", probabilities), labels, axis, where, weights, reduction, 1)
    return mask.reduce(infinite_if_masked(_minus_log(p, unweighted=mask.unweighted), y, mask.classes), reduction)


@compiled()
def nll_loss(
    log_probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
) -> Array:
    r"""Negative log-likelihood of the right class: cross entropy of predicted log-probabilities with its index.

    .. math::
        \ell = -\log p_y

    A network that ends in a log-softmax has logits: give them to :func:`softmax_cross_entropy_with_integer_labels`
    instead.

    Args:
      log_probabilities: :math:`\log p`, floating, the classes along ``axis``. They are taken as they are.
      labels: :math:`y`, integers in [0, classes), of the shape of ``log_probabilities`` without ``axis``; for several
        axes, an index into them flattened. Any other integer, -1 too, gives NaN for its example.
      class_weights: shape (classes,): each example's weight is multiplied by :math:`w_y`.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``log_probabilities`` it masks classes; with a
        lower rank, examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.
      axis_name: inside of ``shard_map``, the mapped axis over which examples are split: ``"sum"`` and ``"mean"`` run
        over it as well, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``labels``, or a scalar; float64 if ``log_probabilities`` is, else float32.

    Raises:
      TypeError: ``log_probabilities`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, a mask or weight does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> print(jaxloss.nll_loss(jnp.array([[-0.5, -1.0], [0.0, -jnp.inf]]), jnp.array([1, 0])))
      [1. 0.]

    PyTorch: ``nll_loss``, with the classes on axis 1, and the labels that ``ignore_index`` names left out: ``where``.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 5.5.
    """
    arguments.choice("nll_loss", "reduction", reduction, axis_name)
    log_p, y, mask = _label_entry(
        "nll_loss", ("log_probabilities", log_probabilities), labels, axis, where, weights, reduction, 0, class_weights
    )
    losses = 0 - log_p.astype(arguments.compute_dtype(log_p))  # not -0
    return mask.reduce(infinite_if_masked(losses, y, mask.classes), reduction, axis_name)


def _generalized_element(p: Array, q: Array) -> Array:
    # -log(p) expm1(v) / v with v = q log(p); the quotient by its series near 0, where q may be 0.
    log_p = jnp.log(p)
    v = multiply_no_nan(q, log_p)
    is_small = v > -0.5
    small = jnp.where(is_small, v, 0)
    quotient = jnp.ones_like(v)
    for k in range(16, 1, -1):
        quotient = 1 + small / k * quotient
    return -jnp.where(is_small, multiply_no_nan(quotient, log_p), expm1(v) / jnp.where(is_small, 1, q))


def _generalized_slopes(p: Array, q: Array) -> tuple[Array, Array]:
    # By q: -log(p)^2 (v exp(v) - expm1(v)) / v^2 = -log(p)^2 h, with h = sum v^k / (k! (k + 2)) near 0.
    log_p = jnp.log(p)
    v = multiply_no_nan(q, log_p)
    is_small = v > -0.5
    small = jnp.where(is_small, v, 0)
    h, term = jnp.zeros_like(v), jnp.ones_like(v)
    for k in range(16):
        h += term / (k + 2)
        term = term * small / (k + 1)
    direct = (multiply_no_nan(jnp.exp(v), v) - expm1(v)) / jnp.square(jnp.where(is_small, 1, q))
    d_q = -jnp.where(is_small, multiply_no_nan(h, jnp.square(log_p)), direct)
    return -jnp.exp(multiply_no_nan(q - 1, log_p)), d_q


_generalized = elementwise(_generalized_element, _generalized_slopes, infinite=(0,))


@compiled(q=arguments.UNIT)
def generalized_cross_entropy(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    q: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Generalized cross entropy, for labels that may be wrong: between cross entropy and absolute error.

    .. math::
        \ell = \frac{1 - p_y^q}{q}, \qquad \frac{\partial \ell}{\partial p_c} = -[c = y]\, p_y^{q - 1}

    Args:
      probabilities: :math:`p`, floating, the classes along ``axis``. They are taken as they are, neither clipped nor
        divided by their sum: at 0 the loss is 1 / q, and its gradient infinite for q < 1; below 0 it is NaN.
      labels: :math:`y`, integers in [0, classes), of the shape of ``probabilities`` without ``axis``; for several axes,
        an index into them flattened. Any other integer, -1 too, gives NaN for its example.
      q: in [0, 1]. 0 is the cross entropy, which is also what small numbers come near, 1 the absolute error. It may be
        traced, and may differ from row to row.
      axis: the class axis or axes (flattened together).
      where: boolean mask, see :func:`jaxloss.reduce`. With the rank of ``probabilities`` it masks classes; with a lower
        rank, examples, and broadcasts to the shape of the loss. A label in a masked class has an infinite loss.
      weights: real, broadcast to the shape of the loss. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss of the shape of ``labels``, or a scalar; float64 if ``probabilities`` is, else float32.

    Raises:
      TypeError: ``probabilities`` is not floating, ``labels`` is not integer, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, there is no class, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> probabilities = jnp.array([0.25, 0.75])
      >>> print(jaxloss.generalized_cross_entropy(probabilities, jnp.array(0), q=0.5))
      1.0

    Keras: ``categorical_generalized_cross_entropy``, (labels, probabilities), which loses all digits as q goes to 0.

    References:
      Zhang and Sabuncu, https://arxiv.org/abs/1805.07836, equation 6.
    """
    name = "generalized_cross_entropy"
    arguments.choice(name, "reduction", reduction)
    p, y, mask = _label_entry(name, ("probabilities", probabilities), labels, axis, where, weights, reduction, 1)
    q = per_example_option(name, "q", q, mask, p.shape, arguments.compute_dtype(p))
    losses = _generalized(p, q, unweighted=mask.unweighted)
    return mask.reduce(infinite_if_masked(losses, y, mask.classes), reduction)


def _yes_and_no(t: Array, alpha: Array) -> tuple[Array, Array]:
    return (1 - alpha) * t + alpha / 2, (1 - alpha) * (1 - t) + alpha / 2


def _binary_element(p: Array, t: Array, alpha: Array) -> Array:
    yes, no = _yes_and_no(t, alpha)
    return cpu_sum_barrier(multiply_no_nan(yes, -jnp.log(p)) + multiply_no_nan(no, -log1p(-p)))


def _binary_slopes(p: Array, t: Array, alpha: Array) -> tuple[Array, Array, Array]:
    yes, no = _yes_and_no(t, alpha)
    d_yes = log1p(-p) - jnp.log(p)
    is_close = 2 * jnp.abs(p - yes) < jnp.minimum(p, 1 - p)
    safe_p = jnp.where(is_close, p, 0.5)
    d_p = jnp.where(is_close, (p - yes) / (safe_p * (1 - safe_p)), divide_no_nan(no, 1 - p) - divide_no_nan(yes, p))
    return d_p, (1 - alpha) * d_yes, (0.5 - t) * d_yes


_binary = elementwise(_binary_element, _binary_slopes, infinite=(0, 1))


@compiled(label_smoothing=arguments.UNIT)
def binary_cross_entropy(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Cross entropy of predicted probabilities of yes, for each element.

    .. math::
        \ell = -t \log p - (1 - t) \log(1 - p), \qquad \frac{\partial \ell}{\partial p} = \frac{p - t}{p (1 - p)}

    A network that ends in a sigmoid has logits: give them to :func:`sigmoid_binary_cross_entropy` instead, which is
    exact and has a gradient where a probability has rounded to 0 or 1. Here that is an infinite slope, and NaN behind
    the sigmoid.

    Args:
      probabilities: :math:`p` in [0, 1], floating, of any shape. They are not clipped: 0 and 1 cost infinity, with an
        infinite gradient, unless the label is the same, and then nothing; outside, the loss is NaN.
      labels: target probabilities :math:`t` in [0, 1], real, of the shape of ``probabilities``.
      label_smoothing: :math:`\alpha` in [0, 1]: labels become :math:`(1 - \alpha) t + \alpha / 2`.
      where: boolean mask, broadcast to the shape of ``probabilities``, see :func:`jaxloss.reduce`.
      weights: real, broadcast to the shape of ``probabilities``. An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, see :func:`jaxloss.reduce`.

    Returns:
      The loss in nats, of the shape of ``probabilities``, or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``probabilities`` is not floating, ``labels`` is not real, ``where`` is not boolean.
      ValueError: ``labels`` has another shape, an option does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> print(jaxloss.binary_cross_entropy(jnp.array([0.9, 0.1, 1.0, 0.0]), jnp.array([1.0, 1.0, 1.0, 1.0])))
      [0.1054 2.3026 0.        inf]

    Keras: ``binary_crossentropy``, (labels, probabilities), the mean over the last axis, clipped to [1e-7, 1 - 1e-7].
    PyTorch: ``binary_cross_entropy``, whose logarithm is at least -100. Class weights are
    ``weights=jnp.where(labels == 1, w1, w0)``; with them, the mean of both divides by the number of entries, not by the
    sum of the weights: that is ``reduction="sum"`` over ``labels.size``.

    References:
      Goodfellow, Bengio and Courville, Deep Learning, 2016, section 5.5.
    """
    arrays, mask = prepare_elementwise(
        "binary_cross_entropy",
        {"probabilities": probabilities, "labels": labels},
        {"label_smoothing": label_smoothing},
        where,
        weights,
        reduction,
    )
    return mask.reduce(_binary(*arrays, unweighted=mask.unweighted), reduction)
