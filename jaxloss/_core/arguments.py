"""The prologue of every loss: kinds, dtypes and shapes, checked while tracing; values are never read."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from .types import Axis, AxisName, Reduction


class Interval(NamedTuple):
    """The range of a number."""

    contains: Callable[[float], bool]
    words: str


POSITIVE = Interval(lambda x: x > 0, "positive")
NOT_NEGATIVE = Interval(lambda x: x >= 0, "at least 0")
AT_LEAST_ONE = Interval(lambda x: x >= 1, "at least 1")
AT_LEAST_MINUS_ONE = Interval(lambda x: x >= -1, "at least -1")
UNIT = Interval(lambda x: 0 <= x <= 1, "in [0, 1]")
BELOW_HALF = Interval(lambda x: 0 <= x < 0.5, "in [0, 1/2)")
COSINE = Interval(lambda x: -1 <= x <= 1, "in [-1, 1]")


def inside(name: str, argument: str, value: Any, interval: Interval) -> None:
    """Raises for a Python or NumPy number outside the interval. Traced numbers are not checked."""
    if isinstance(value, (int, float, np.number)) and not interval.contains(float(value)):
        raise ValueError(f"{name}: expected `{argument}` to be {interval.words}, got {value}.")


def fits_in_jax(value: Any) -> bool:
    """Whether JAX keeps the values of a NumPy array. Without `jax_enable_x64` it cuts integers to 32 bits."""
    if not isinstance(value, (np.ndarray, np.generic)) or not _is_real(value.dtype):
        return False
    limits = _limits(value.dtype)
    return limits is None or not value.size or bool(limits.min <= value.min() and value.max() <= limits.max)


def _is_real(dtype: Any) -> bool:
    try:
        return any(jnp.issubdtype(dtype, kind) for kind in (np.integer, np.floating, np.bool_))
    except TypeError:  # a dtype of another library
        return False


def _limits(dtype: np.dtype) -> np.iinfo | None:
    """The limits of the integers to which JAX converts wider ones."""
    if dtype.kind not in "iu" or dtype.itemsize < 8 or jax.config.read("jax_enable_x64"):
        return None
    return np.iinfo(np.int32 if dtype.kind == "i" else np.uint32)


def unwrapped(value: Any) -> Any:
    """The array of an object with `__jax_array__`, such as a parameter of a model."""
    is_wrapper = not isinstance(value, jax.Array) and hasattr(value, "__jax_array__")
    return value.__jax_array__() if is_wrapper else value


def _array(name: str, argument: str, value: ArrayLike) -> Array:
    value = unwrapped(value)
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, int, float)):
        kind = type(value).__module__.split(".")[0] + "." if hasattr(value, "dtype") else ""
        raise TypeError(f"{name}: expected `{argument}` to be an array, got {kind}{type(value).__name__}.")
    dtype = value.dtype if hasattr(value, "dtype") else jnp.result_type(value)
    if not _is_real(dtype):
        raise TypeError(f"{name}: expected `{argument}` of a real dtype, got {dtype}.")
    if isinstance(value, (np.ndarray, np.generic)) and not fits_in_jax(value):
        value = value.astype(np.float64)  # the number, if rounded, and not another one
    return jnp.asarray(value)


def floating(name: str, argument: str, value: ArrayLike) -> Array:
    """The argument as a floating array. Integers and booleans raise."""
    array = _array(name, argument, value)
    if not jnp.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{name}: expected `{argument}` of a floating dtype, got {array.dtype}.")
    return array


def integer(name: str, argument: str, value: ArrayLike, hint: str = "") -> Array:
    """The argument as an integer array of at least 32 bits, as int8 cannot count more than 127 classes.

    An integer wider than those of JAX becomes the nearest one, so that what is out of range stays so.
    """
    if isinstance(value, (int, np.ndarray, np.generic)) and not isinstance(value, bool):
        host = np.asarray(value)
        limits = None if fits_in_jax(host) or host.dtype.kind not in "iu" else _limits(host.dtype)
        if limits is not None:
            value = np.clip(host, limits.min, limits.max).astype(limits.dtype)
    array = _array(name, argument, value)
    if not jnp.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected `{argument}` of an integer dtype, got {array.dtype}{hint}.")
    return array if array.dtype.itemsize >= 4 else array.astype(np.int32)


def signed_integer(name: str, argument: str, value: ArrayLike) -> Array:
    """The same with a sign, for -1 as padding. What a signed integer does not hold becomes -2, out of range."""
    array = integer(name, argument, value)
    if jnp.issubdtype(array.dtype, np.signedinteger):
        return array
    limit = np.iinfo(np.int32).max
    return jnp.where(array > limit, -2, jnp.minimum(array, limit).astype(np.int32))


def identities(*labels: ArrayLike | None) -> tuple[Any, ...]:
    """Labels that are only compared with each other. Wider integers than those of JAX are numbered."""
    arrays = [x for x in labels if isinstance(x, np.ndarray)]
    if all(fits_in_jax(x) or x.dtype.kind not in "iu" for x in arrays):
        return labels
    arrays = [np.asarray(x) for x in labels if x is not None]  # a traced one raises JAX's error: it has no numbers yet
    values = np.unique(np.concatenate([x.ravel().astype(object) for x in arrays]))
    return tuple(None if x is None else np.searchsorted(values, np.asarray(x)).astype(np.int32) for x in labels)


def boolean(name: str, argument: str, value: ArrayLike) -> Array:
    array = _array(name, argument, value)
    if array.dtype != np.bool_:
        hint = f"pass `{argument} != 0`, or numbers as `weights`"
        raise TypeError(f"{name}: expected `{argument}` of dtype bool, got {array.dtype}; {hint}.")
    return array


def real(name: str, argument: str, value: ArrayLike) -> Array:
    """The argument as an array of any real dtype."""
    return _array(name, argument, value)


def optional_target(name: str, argument: str, value: ArrayLike) -> Array:
    """An array that may be omitted."""
    return _array(name, argument, value)


def signed(name: str, argument: str, value: ArrayLike) -> Array:
    """The argument as an array of a dtype that contains -1."""
    array = _array(name, argument, value)
    if array.dtype == np.bool_ or jnp.issubdtype(array.dtype, np.unsignedinteger):
        raise TypeError(f"{name}: expected `{argument}` of a signed dtype, for -1 and 1, got {array.dtype}.")
    return array


def same_shape(name: str, argument: str, array: Array, shape: Sequence[int], hint: str = "") -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"{name}: expected `{argument}` of shape {tuple(shape)}, got {array.shape}{hint}.")


def same_sharding(name: str, argument: str, array: Array, spec: Sequence[Any]) -> None:
    """Checks the sharding on an explicit mesh. A replicated array passes."""
    sharding_spec = jax.typeof(array).sharding.spec
    if any(sharding_spec) and tuple(sharding_spec) != tuple(spec):
        expected = jax.sharding.PartitionSpec(*spec)
        hint = "use `jax.sharding.reshard`"
        raise ValueError(f"{name}: expected `{argument}` with sharding {expected}, got {sharding_spec}; {hint}.")


def fill_target(name: str, argument: str, array: Array, predictions: Array) -> Array:
    """Targets of the shape of the predictions; a scalar fills the shape."""
    if array.ndim == 0 < predictions.ndim:
        weak = _is_weak(array) and jnp.issubdtype(array.dtype, np.floating)
        return jnp.full_like(predictions, array, compute_dtype(predictions) if weak else array.dtype)
    same_shape(name, argument, array, predictions.shape)
    return array


def fill_row_targets(name: str, argument: str, array: Array, rows: Array) -> Array:
    """One target per row; a scalar fills the shape."""
    if array.ndim == 0 < rows.ndim - 1:
        return jnp.full_like(rows.sum(-1), array, array.dtype)  # an explicit mesh refuses a slice of sharded features
    same_shape(name, argument, array, rows.shape[:-1])
    return array


def fill_class_targets(name: str, argument: str, array: Array, predictions: Array) -> Array:
    """The same for targets per class. Class indices raise, also a single one, as under `vmap`."""
    if array.ndim < predictions.ndim and jnp.issubdtype(array.dtype, np.integer):
        other = f"use `{name}_with_integer_labels`" if name in _WITH_INTEGER_LABELS else "apply `jax.nn.one_hot`"
        same_shape(name, argument, array, predictions.shape, f"; for class indices, {other}")
    return fill_target(name, argument, array, predictions)


_WITH_INTEGER_LABELS = {"softmax_cross_entropy", "softmax_focal_loss", "categorical_cross_entropy"}


def broadcast(name: str, argument: str, array: Array, shape: Sequence[int]) -> Array:
    """`array` broadcast to `shape`, never beyond it."""
    if array.ndim > len(shape) or any(
        n not in (1, m) for n, m in zip(array.shape[::-1], tuple(shape)[::-1], strict=False)
    ):
        hint = ""
        if 0 < array.ndim < len(shape) and array.shape == tuple(shape)[: array.ndim]:
            index = ", ".join(["..."] + ["None"] * (len(shape) - array.ndim))
            hint = f"; to align it with the first axes, pass `{argument}[{index}]`"
        raise ValueError(
            f"{name}: expected `{argument}` of a shape that broadcasts to {tuple(shape)}, got {array.shape}{hint}."
        )
    return jnp.broadcast_to(array, shape)


def same_rank(name: str, argument: str, value: ArrayLike, other: str, array: ArrayLike) -> None:
    """Checks that an array to be broadcast has all axes of the other one, or none: (n,) would align with the last."""
    shape, rank = getattr(unwrapped(value), "shape", ()), len(getattr(unwrapped(array), "shape", ()))
    if 0 < len(shape) < rank:
        index = ", ".join([":"] * len(shape) + ["None"] * (rank - len(shape)))
        raise ValueError(
            f"{name}: expected `{argument}` of rank {rank}, as `{other}`, got shape {shape}; "
            f"to align it with the first axes, pass `{argument}[{index}]`."
        )


def class_indices(name: str, labels: ArrayLike, argument: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Integer labels, one per example of logits of that shape; a scalar fills the shape."""
    found, expected = getattr(labels, "shape", ()), tuple(n for a, n in enumerate(shape) if a not in axes)
    hint = ""
    if found == shape != expected:
        dense = name.removesuffix("_with_integer_labels")
        hint = "; for probabilities, " + (f"use `{dense}`" if dense != name else "apply `jnp.argmax`")
    elif len(axes) == 1 and found != expected:
        fitting = [a for a in range(len(shape)) if shape[:a] + shape[a + 1 :] == found]
        hint = f"; if axis {fitting[0]} of `{argument}` is the class axis, pass `axis={fitting[0]}`" if fitting else ""
    array = integer(name, "labels", labels, hint)
    if array.ndim:
        same_shape(name, "labels", array, expected, hint)
    return array


def chosen(name: str, argument: str, array: Array, shape: Sequence[int]) -> None:
    """Checks indices of which each example has k, along a last axis."""
    if array.shape[:-1] != tuple(shape) or 0 in array.shape[-1:] or not array.ndim:
        expected = f"({', '.join(map(str, (*shape, 'k')))})"
        raise ValueError(f"{name}: expected `{argument}` of shape {expected}, got {array.shape}.")


def is_number(value: ArrayLike, neutral: float) -> bool:
    """Whether an option is the given Python number."""
    return isinstance(value, (int, float)) and value == neutral


def hyperparameter(name: str, argument: str, value: ArrayLike, dtype: DTypeLike) -> Array:
    """A real number, or an array of them, in the dtype of the losses.

    XLA turns x / c into x (1 / c) and (x c) c into x (c c) if c is a constant, and 1 / c is 0 for c = 1e38, or c c
    infinite. So that a Python number under `jit` gives what a traced one does, XLA does not see that it is one.
    """
    number = real(name, argument, value).astype(dtype)
    return number if number.ndim else lax.optimization_barrier(number)


def scalar(name: str, argument: str, value: ArrayLike, dtype: DTypeLike) -> Array:
    """A hyperparameter that is one number."""
    number = hyperparameter(name, argument, value, dtype)
    same_shape(name, argument, number, ())
    return number


def option(
    name: str, argument: str, value: ArrayLike | None, neutral: float, shape: Sequence[int], dtype: DTypeLike
) -> Array | None:
    """A hyperparameter, broadcast to the losses and in their dtype; None if it is the neutral Python number."""
    if value is None or is_number(value, neutral):
        return None
    return broadcast(name, argument, hyperparameter(name, argument, value, dtype), shape)


def compute_dtype(*arrays: Array) -> np.dtype:
    """float64 if one of the arrays is, else float32. Python numbers do not count."""
    typed = [a for a in arrays if jnp.issubdtype(a.dtype, np.floating) and not _is_weak(a)]
    is_float64 = any(a.dtype == np.float64 for a in typed or arrays)
    return np.dtype(np.float64 if is_float64 else np.float32)


def _is_weak(array: Array) -> bool:
    """Whether the array comes from a Python number, whose dtype is weak."""
    return bool(jax.typeof(array).weak_type)


def axes(name: str, axis: Axis, shape: tuple[int, ...], argument: str = "axis") -> tuple[int, ...]:
    """The axes as non-negative numbers, in the order of the argument."""
    ndim = len(shape)
    named = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if any(not isinstance(a, (int, np.integer)) for a in named):
        raise TypeError(f"{name}: expected `{argument}` to be an int, a tuple of ints or None, got {axis!r}.")
    if any(not -ndim <= a < ndim for a in named) or len({a % ndim for a in named}) < len(named) or not named:
        raise ValueError(
            f"{name}: expected `{argument}` to name distinct axes of an array of rank {ndim}, got {axis!r}."
        )
    return tuple(int(a) % ndim for a in named)


def class_axes(name: str, axis: Axis, shape: tuple[int, ...], argument: str = "axis") -> tuple[int, ...]:
    """The same of axes with at least one class."""
    named = axes(name, axis, shape, argument)
    if any(shape[a] == 0 for a in named):
        raise ValueError(
            f"{name}: expected at least one class along `{argument}` {axis}, got an array of shape {shape}."
        )
    return named


def class_axis(name: str, axis: int, shape: tuple[int, ...]) -> int:
    """The same of a loss with one class axis."""
    axes = class_axes(name, axis, shape)
    if len(axes) != 1:
        raise ValueError(f"{name}: expected `axis` to name one axis, got {axis!r}.")
    return axes[0]


_REDUCTIONS_OF_OTHERS = {
    "batchmean": '; divide "sum" by the number of examples',
    "sum_over_batch_size": '; divide "sum" by the number of losses, or without weights use "mean"',
    "mean_with_sample_weight": '; use "mean"',
}


def choice(name: str, argument: str, value: Reduction, axis_name: AxisName | None = None) -> None:
    if value not in get_args(Reduction):
        hint = _REDUCTIONS_OF_OTHERS.get(str(value), "")
        raise ValueError(f"{name}: expected `{argument}` to be one of {get_args(Reduction)}, got {value!r}{hint}.")
    if value == "none" and axis_name is not None:
        raise ValueError(f'{name}: expected `axis_name` with `{argument}` "sum" or "mean", got "none".')
    mapped(name, "axis_name", axis_name)


def mapped(name: str, argument: str, axis_name: AxisName | None) -> None:
    if axis_name is not None:
        try:
            lax.axis_size(axis_name)
        except (NameError, TypeError, ValueError):
            expected = "the name of an axis of a shard_map or vmap around the call"
            raise ValueError(f"{name}: expected `{argument}` to be {expected}, got {axis_name!r}.") from None


def product(
    name: str, hidden: tuple[str, Array], weight: tuple[str, Array], class_axis: tuple[str, int]
) -> tuple[int, int]:
    """The class axis of ``weight``, 0 or 1, and the number of classes of ``hidden @ weight``."""
    (hidden_name, x), (weight_name, w), (axis_name, axis) = hidden, weight, class_axis
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"{name}: expected `{weight_name}` of shape (features, classes), got {w.shape}.")
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -2 <= axis < 2:
        raise ValueError(f"{name}: expected `{axis_name}` to be -1 or 0, got {axis!r}.")
    axis = int(axis) % 2
    if x.ndim == 0:
        raise ValueError(f"{name}: expected `{hidden_name}` of shape (..., features), got ().")
    if x.shape[-1] != w.shape[1 - axis]:
        features = x.shape[-1]
        raise ValueError(
            f"{name}: expected `{weight_name}` of shape ({features}, classes), or (classes, {features}) with "
            f"`{axis_name}=0`, as `{hidden_name}` has {features} features, got {w.shape} with `{axis_name}={-axis}`."
        )
    return axis, w.shape[axis]


def positive_integer(name: str, argument: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected `{argument}` to be a positive integer, got {value!r}.")
    return int(value)


def flag(name: str, argument: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected `{argument}` to be True or False, got {value!r}.")


def floating_dtype(name: str, argument: str, value: DTypeLike | None) -> np.dtype | None:
    if value is None:
        return None
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: expected `{argument}` to be a floating dtype, got {value!r}.")
    return dtype


_ARGUMENTS_OF_OTHERS = {
    "class_weight": "class_weights",
    "dim": "axis",
    "from_logits": "another function, of logits or of probabilities",
    "ignore_index": "where=labels != ignore_index",
    "mask": "where",
    "sample_weight": "weights",
    "size_average": "reduction",
    "weight": "class_weights, or weights for each example",
}


_OF_SOME = {  # where there is what they lead to
    "axis_name": ("chunk_size", "the gathered batch, by `jax.lax.all_gather`"),
    "epsilon": ("clip_low", "clip_low and clip_high"),
    "label_smoothing": ("flip_probability", "flip_probability"),
    "temperature": ("logit_scale", "logit_scale=1 / temperature"),
}


def unexpected(name: str, argument: str, parameters: Collection[str]) -> TypeError:
    given, ours = _OF_SOME.get(argument, ("", ""))
    found = ours if given in parameters else _ARGUMENTS_OF_OTHERS.get(argument)
    hint = f"; use {found}" if found else ""
    return TypeError(f"{name}: got an unexpected argument `{argument}`{hint}.")
