"""Dice losses of maps of logits or probabilities, for each class of an image."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ._core import arguments
from ._core.compiler import compiled
from ._core.masks import Mask, weigh
from ._core.overlap import error_share, given_probabilities, softmax_probabilities
from ._core.rows import is_finite_row
from ._core.special import divide_no_nan, sigmoids
from ._core.types import Reduction


def _maps(name: str, predictions: ArrayLike, targets: ArrayLike, are_logits: bool) -> tuple[Array, Array]:
    kind = arguments.floating if are_logits else arguments.real
    return kind(name, "predictions", predictions), arguments.real(name, "targets", targets)


def _has_one_class(x: Array, class_axis: int) -> bool:
    return -x.ndim <= class_axis < x.ndim and x.shape[class_axis] == 1


def _same_rank(x: Array, t: Array, class_axis: int) -> tuple[Array, Array]:
    """Adds the class axis to the array without one."""
    if t.ndim == x.ndim - 1 and _has_one_class(x, class_axis):
        return x, jnp.expand_dims(t, class_axis)
    return (jnp.expand_dims(x, class_axis), t) if x.ndim == t.ndim - 1 and _has_one_class(t, class_axis) else (x, t)


def _pixel_axes(name: str, axis: int | tuple[int, ...] | None, class_axis: int, ndim: int) -> tuple[int, ...]:
    """The axes of the pixels once the class axis is the last one."""
    if axis == ():  # a sum over nothing
        return ()
    if axis is None:
        return tuple(range(1, ndim - 1))
    axes = arguments.class_axes(name, axis, (1,) * ndim)  # of any shape: there may be no pixel along an axis
    if class_axis in axes:
        hint = f"which is axis {class_axis}, got {axis!r}; for classes elsewhere, pass `class_axis`"
        raise ValueError(f"{name}: expected `axis` without the class axis, {hint}.")
    return tuple(a - (a > class_axis) for a in axes)


_Maps = tuple[Array, Array, Array | None]
"""Predictions and targets, the classes last, and the mask of pixels."""


def _images(
    name: str,
    x: Array,
    t: Array,
    class_axis: int,
    axes: tuple[int, ...],
    where: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[_Maps, Mask]:
    """The maps with 0 in masked pixels, and the mask of images: one without an unmasked pixel is masked."""
    t = arguments.fill_class_targets(name, "targets", t, x)
    x, t = jnp.moveaxis(x, class_axis, -1), jnp.moveaxis(t, class_axis, -1)
    pixels = weight = None
    if where is not None:
        pixels = arguments.broadcast(name, "where", arguments.boolean(name, "where", where), x.shape[:-1])
    if weights is not None:
        shape = tuple(n for a, n in enumerate(x.shape[:-1]) if a not in axes)
        weight = arguments.broadcast(
            name, "weights", arguments.real(name, "weights", weights).astype(arguments.compute_dtype(x, t)), shape
        )
        finite = is_finite_row(x) & is_finite_row(t)
        finite = (finite if pixels is None else finite | ~pixels).all(axes, keepdims=True)
        usable = jnp.expand_dims(weight != 0, axes) | finite
        pixels = jnp.broadcast_to(usable, x.shape[:-1]) if pixels is None else pixels & usable
    if pixels is None:
        return (x, t, None), Mask()
    pixels = pixels[..., None]
    maps = jnp.where(pixels, x, jnp.zeros_like(x)), jnp.where(pixels, t, jnp.zeros_like(t)), pixels
    return maps, Mask(pixels[..., 0].any(axes), weight=weight).exclude()


def _class_losses(
    name: str,
    maps: _Maps,
    mask: Mask,
    are_logits: bool,
    axes: tuple[int, ...],
    ignore_background: bool = False,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    class_weights: ArrayLike | None = None,
) -> Array:
    """The weighted loss of each class of each image."""
    x, t, pixels = maps
    dtype, shape = arguments.compute_dtype(x, t), tuple(n for a, n in enumerate(x.shape) if a not in axes)
    options = {"alpha": alpha, "beta": beta, "smooth": smooth}
    options["class_weights"] = 1.0 if class_weights is None else class_weights
    arrays = {argument: arguments.hyperparameter(name, argument, value, dtype) for argument, value in options.items()}
    first = int(ignore_background and x.shape[-1] > 1)
    full = tuple(arguments.broadcast(name, argument, array, shape)[..., first:] for argument, array in arrays.items())
    a, b, s, w = (mask.fill_examples(array, 1) for array in full)
    undefined = None
    if mask.unweighted is not None:  # an option of an image of weight 0 that is not finite makes its loss NaN, no more
        undefined = mask.unweighted[..., None] & ~jnp.isfinite(a + b + s + w)
        a, b, s, w = (jnp.where(undefined, 1, array) for array in (a, b, s, w))
    probabilities = given_probabilities if not are_logits else sigmoids if x.shape[-1] == 1 else softmax_probabilities
    losses = w * error_share(probabilities, x, t, pixels, axes, a, b, s, first)
    return losses if undefined is None else jnp.where(undefined, jnp.nan, losses)


@compiled(smooth=arguments.NOT_NEGATIVE, alpha=arguments.NOT_NEGATIVE, beta=arguments.NOT_NEGATIVE)
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: Reduction = "mean",
    ignore_background: bool = False,
    axis: int | tuple[int, ...] | None = None,
    class_axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Array:
    r"""Dice loss of a segmentation, from logits: for each image, the mean of its classes.

    .. math::
        \ell_c = \frac{\alpha F_p + \beta F_n}{I + \alpha F_p + \beta F_n + s}, \qquad
        I = \sum_i p_{ic}\, t_{ic}, \quad F_p = \sum_i p_{ic} (1 - t_{ic}), \quad F_n = \sum_i (1 - p_{ic})\, t_{ic}

    over the pixels :math:`i` of an image, with :math:`p` the softmax of a pixel's logits, or the sigmoid of a single
    one. The softmax and :math:`1 - p` are exact both in the tails and near 1, and so are the loss of a nearly perfect
    segmentation and the gradient of a confident pixel, right or wrong.

    ``reduction`` is optax's, over the classes of an image: the batch is left, for :func:`jaxloss.reduce`.

    Args:
      predictions: logits, floating, of shape (batch, ..., classes), or with the classes on ``class_axis``. One class
        means a sigmoid.
      targets: :math:`t` in [0, 1], such as one-hot labels, real, of the shape of ``predictions``. Where one of both has
        one axis less, it gets a class axis of 1; where both have no class axis, take :func:`binary_dice_loss`.
      class_weights: shape (classes,): the loss of each class is multiplied by its weight; the mean still divides by the
        number of classes.
      smooth: :math:`s \ge 0`, in pixels. At 0, a class neither predicted nor there costs 0.
      alpha: :math:`\alpha \ge 0`, the weight of false positives.
      beta: :math:`\beta \ge 0`, the weight of false negatives.
      apply_softmax: False says that ``predictions`` are probabilities, real. They are taken as they are, not checked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"``, over the classes.
      ignore_background: leaves class 0, of several, out of the loss.
      axis: the axis of the pixels, or several; None for all but the class axis and the first of the others, the batch.
        For predictions of shape (N, classes) each row is an image of one pixel; ``axis=0`` sums over them.
      class_axis: the axis of the classes: 1 for images of shape (batch, classes, height, width).
      where: boolean, broadcast to the shape of ``predictions`` without the class axis: False masks a pixel, which
        may contain anything. An image without pixels costs 0, and counts in a mean over the batch.
        To leave it out, use :func:`jaxloss.reduce` with a mask.
      weights: real, broadcast to (batch,): the weight of each image. An image of weight 0 is masked.

    ``smooth``, ``alpha`` and ``beta`` may be traced, and broadcast to the loss of each class.

    Returns:
      The loss of shape (batch,), or (batch, classes) for ``"none"``: that of ``predictions`` without ``axis``, the
      classes last; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape, there is no class, ``axis`` names the class axis, ``class_weights`` is
        not of shape (classes,), an option does not broadcast.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> logits = jnp.array([[[0.0, 3.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 9.0]]])
      >>> labels = jnp.array([[1, 0, -100]])
      >>> targets = jax.nn.one_hot(labels, 3)
      >>> losses = jaxloss.dice_loss(logits, targets, where=labels != -100)
      >>> print(f"{jaxloss.reduce(losses):.4f}")
      0.1566

    optax: ``dice_loss``, whose ``apply_softmax=False`` raises under ``jit``, and which is NaN where a class is empty
    and ``smooth`` is 0. Keras: ``dice``, (targets, probabilities), over all images and classes together:
    :func:`tversky_loss`.

    References:
      Milletari, Navab and Ahmadi, V-Net, https://arxiv.org/abs/1606.04797.
    """
    name = "dice_loss"
    arguments.choice(name, "reduction", reduction)
    x, t = _same_rank(*_maps(name, predictions, targets, apply_softmax), class_axis)
    (class_axis,) = arguments.class_axes(name, class_axis, x.shape, "class_axis")
    axis = _pixel_axes(name, axis, class_axis, x.ndim)
    maps, mask = _images(name, x, t, class_axis, axis, where, weights)
    if class_weights is not None:
        class_weights = arguments.real(name, "class_weights", class_weights)
        arguments.same_shape(name, "class_weights", class_weights, maps[0].shape[-1:])
    losses = _class_losses(name, maps, mask, apply_softmax, axis, ignore_background, smooth, alpha, beta, class_weights)
    losses = losses if mask.weight is None else weigh(mask.weight[..., None], losses)
    if reduction == "none":
        return losses
    return losses.mean(-1) if reduction == "mean" else losses.sum(-1)


@compiled(smooth=arguments.NOT_NEGATIVE)
def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_sigmoid: bool = True,
    class_axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Array:
    r"""Dice loss of a mask, from the logits of its pixels: :func:`dice_loss` of one class.

    .. math::
        \ell = \frac{F}{I + F + s}, \qquad
        I = \sum_i p_i t_i, \quad F = \tfrac{1}{2} \sum_i \bigl(p_i (1 - t_i) + (1 - p_i)\, t_i\bigr), \quad
        p_i = \sigma(x_i)

    Args:
      predictions: the logits :math:`x`, floating, of shape (batch, ...) or (batch, ..., 1): an axis of 1 at the end is
        the class axis. A single image of shape (H, W) is a batch of H: give it as ``image[None]``.
      targets: :math:`t` in [0, 1], real, of the shape of ``predictions``, or with or without the axis of 1.
      smooth: :math:`s \ge 0`, in pixels. At 0, a mask neither predicted nor there costs 0.
      apply_sigmoid: False says that ``predictions`` are probabilities, real. They are taken as they are, not checked.
      class_axis: where the axis of 1 is, if there is one.
      where: boolean, broadcast to the shape of ``predictions`` without the class axis: False masks a pixel, which
        may contain anything. An image without pixels costs 0, and does not count in a mean.
      weights: real, broadcast to (batch,). An entry of weight 0 is masked.
      reduction: ``"none"``, ``"sum"`` or ``"mean"`` over images, see :func:`jaxloss.reduce`.

    Returns:
      The loss in [0, 1], of shape (batch,), or a scalar; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape, ``smooth`` or ``where`` does not broadcast.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> jnp.set_printoptions(precision=4)
      >>> logits, targets = jnp.array([[2.0, 1.0, -3.0], [0.0, 0.0, 0.0]]), jnp.array([[1, 1, 0], [1, 0, 0]])
      >>> print(jaxloss.binary_dice_loss(logits, targets))
      [0.077  0.3333]

    optax: ``binary_dice_loss``, whose ``apply_sigmoid=False`` raises whatever it is given.

    References:
      Milletari, Navab and Ahmadi, V-Net, https://arxiv.org/abs/1606.04797.
    """
    name = "binary_dice_loss"
    arguments.choice(name, "reduction", reduction)
    x, t = _maps(name, predictions, targets, apply_sigmoid)
    t = t if t.ndim else arguments.fill_target(name, "targets", t, x)
    if x.ndim == t.ndim and not _has_one_class(x, class_axis):
        x, t, class_axis = x[..., None], t[..., None], -1
    x, t = _same_rank(x, t, class_axis)
    (class_axis,) = arguments.class_axes(name, class_axis, x.shape, "class_axis")
    axis = _pixel_axes(name, None, class_axis, x.ndim)
    maps, mask = _images(name, x, t, class_axis, axis, where, weights)
    losses = _class_losses(name, maps, mask, apply_sigmoid, axis, smooth=smooth).mean(-1)
    return mask.reduce(losses, reduction)


@compiled(smooth=arguments.NOT_NEGATIVE)
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    class_axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Array:
    r"""Dice loss in which rare classes weigh more: a class of :math:`n_c` pixels :math:`1 / n_c^2`.

    .. math::
        \ell = \frac{1}{B} \sum_{b} \frac{\sum_c w_c\, \ell_{bc}}{\sum_c w_c}, \qquad
        w_c = \frac{[n_c > 0]}{n_c^2 + 10^{-7}}, \quad n_c = \sum_{b, i} t_{bic}

    with :math:`\ell_{bc}` the :func:`dice_loss` of class :math:`c` in image :math:`b`. A class that is nowhere in the
    targets has weight 0; without any class the loss is 0.

    Args:
      predictions: logits, floating, of shape (batch, ..., classes), or with the classes on ``class_axis``. One class
        means a sigmoid.
      targets: :math:`t` in [0, 1], such as one-hot labels, real, of the shape of ``predictions``.
      smooth: :math:`s \ge 0`, in pixels. It may be traced, and broadcasts to (batch, classes).
      apply_softmax: False says that ``predictions`` are probabilities, real. They are taken as they are, not checked.
      ignore_background: leaves class 0, of several, out of the sum of the losses, not out of that of the weights; the
        sum is multiplied by classes / (classes - 1), as in optax.
      class_axis: the axis of the classes: 1 for images of shape (batch, classes, height, width).
      where: boolean, broadcast to the shape of ``predictions`` without the class axis: False masks a pixel, which
        may contain anything. An image without pixels does not count.
      weights: real, broadcast to (batch,). An image of weight 0 is masked, but its pixels count for
        the sizes of the classes.
      reduction: ``"mean"``, ``"sum"`` or ``"none"`` over images, see :func:`jaxloss.reduce`.

    Returns:
      A scalar, of the whole batch, or of shape (batch,) for ``"none"``; float64 if an input is, else float32.

    Raises:
      TypeError: ``predictions`` is not floating, ``targets`` is not real, ``where`` is not boolean.
      ValueError: ``targets`` has another shape, there is no class, ``smooth`` or ``where`` does not broadcast.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import jaxloss
      >>> targets = jax.nn.one_hot(jnp.array([[0, 0, 0, 1]]), 3)
      >>> wrong = 40 * jax.nn.one_hot(jnp.array([[1, 1, 1, 0]]), 3)
      >>> print(f"{jaxloss.multiclass_generalized_dice_loss(wrong, targets):.4f}")
      0.6667

    optax: ``multiclass_generalized_dice_loss``, where a class that is nowhere takes all the weight: the example,
    every pixel of which is wrong, costs 7.4e-8, hardly more than a perfect one. optax and this function take
    the mean of the ratios, the paper takes the ratio of the weighted sums.

    References:
      Sudre et al., https://arxiv.org/abs/1707.03237.
    """
    name = "multiclass_generalized_dice_loss"
    arguments.choice(name, "reduction", reduction)
    x, t = _maps(name, predictions, targets, apply_softmax)
    (class_axis,) = arguments.class_axes(name, class_axis, x.shape, "class_axis")
    axis = _pixel_axes(name, None, class_axis, x.ndim)
    maps, mask = _images(name, x, t, class_axis, axis, where, weights)
    x, t, _ = maps
    class_sizes = t.astype(arguments.compute_dtype(x, t)).sum(tuple(range(x.ndim - 1)))
    class_weights = jnp.where(class_sizes == 0, 0, 1 / (jnp.square(class_sizes) + 1e-7))
    class_weights = divide_no_nan(class_weights, class_weights.sum()) * class_weights.size
    losses = _class_losses(
        name, maps, mask, apply_softmax, axis, ignore_background, smooth, class_weights=class_weights
    ).mean(-1)
    return mask.reduce(losses, reduction)
