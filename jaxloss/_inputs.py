"""The prologue of every loss: kinds, dtypes and shapes, checked while tracing; values are never read."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from ._types import Axis, AxisName, Reduction


class Interval(NamedTuple):
    """Where a number has to lie."""

    contains: Callable[[float], bool]
    words: str


POSITIVE = Interval(lambda x: x > 0, "positive")
NOT_NEGATIVE = Interval(lambda x: x >= 0, "at least 0")
AT_LEAST_ONE = Interval(lambda x: x >= 1, "at least 1")
AT_LEAST_MINUS_ONE = Interval(lambda x: x >= -1, "at least -1")
UNIT = Interval(lambda x: 0 <= x <= 1, "in [0, 1]")


def inside(name: str, argument: str, value: Any, interval: Interval) -> None:
    """A Python or NumPy number outside raises; what is traced cannot be told."""
    if isinstance(value, (int, float, np.number)) and not interval.contains(float(value)):
        raise ValueError(f"{name}: expected `{argument}` to be {interval.words}, got {value}.")


def fits(value: Any) -> bool:
    """Whether a NumPy array keeps its values in JAX, whose integers have 32 bits unless `jax_enable_x64` is set."""
    if not isinstance(value, (np.ndarray, np.generic)) or not jnp.issubdtype(value.dtype, np.generic):
        return False
    if value.dtype.kind not in "iu" or value.dtype.itemsize < 8 or jax.config.read("jax_enable_x64") or not value.size:
        return value.dtype.kind in "biufV"
    return bool(_narrowed(value.dtype).min <= value.min() and value.max() <= _narrowed(value.dtype).max)


def _narrowed(dtype: np.dtype) -> np.iinfo:
    return np.iinfo(np.int32 if dtype.kind == "i" else np.uint32)


def _array(name: str, argument: str, value: ArrayLike) -> Array:
    if isinstance(value, (list, tuple, str)) or (not hasattr(value, "dtype") and not isinstance(value, (int, float))):
        raise TypeError(f"{name}: expected `{argument}` to be an array, got {type(value).__name__}.")
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)) or jnp.issubdtype(
        dtype, np.complexfloating
    ):
        raise TypeError(f"{name}: expected `{argument}` of a real dtype, got {dtype}.")
    return jnp.asarray(value)


def floating(name: str, argument: str, value: ArrayLike) -> Array:
    """The array; integers and booleans raise."""
    array = _array(name, argument, value)
    if not jnp.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{name}: expected `{argument}` of a floating dtype, got {array.dtype}.")
    return array


def integer(name: str, argument: str, value: ArrayLike) -> Array:
    """The array, in 32 bits at least: int8 labels may stand beside more classes than int8 counts."""
    array = _array(name, argument, value)
    if not jnp.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected `{argument}` of an integer dtype, got {array.dtype}.")
    return array if array.dtype.itemsize >= 4 else array.astype(np.int32)


def boolean(name: str, argument: str, value: ArrayLike) -> Array:
    array = _array(name, argument, value)
    if array.dtype != np.bool_:
        raise TypeError(f"{name}: expected `{argument}` of dtype bool, got {array.dtype}.")
    return array


def real(name: str, argument: str, value: ArrayLike) -> Array:
    """The array, whatever real dtype it has."""
    return _array(name, argument, value)


def real_or_zero(name: str, argument: str, value: ArrayLike) -> Array:
    """The array, which may be left away."""
    return _array(name, argument, value)


def signed(name: str, argument: str, value: ArrayLike) -> Array:
    """The array, of a dtype that holds -1."""
    array = _array(name, argument, value)
    if array.dtype == np.bool_ or jnp.issubdtype(array.dtype, np.unsignedinteger):
        raise TypeError(f"{name}: expected `{argument}` of a signed dtype, for -1 and 1, got {array.dtype}.")
    return array


def same_shape(name: str, argument: str, array: Array, shape: Sequence[int]) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"{name}: expected `{argument}` of shape {tuple(shape)}, got {array.shape}.")


def broadcast(name: str, argument: str, array: Array, shape: Sequence[int]) -> Array:
    """`array` broadcast to `shape`, never beyond it."""
    if array.ndim > len(shape) or any(
        n not in (1, m) for n, m in zip(array.shape[::-1], tuple(shape)[::-1], strict=False)
    ):
        raise ValueError(
            f"{name}: expected `{argument}` of a shape that broadcasts to {tuple(shape)}, got {array.shape}."
        )
    return jnp.broadcast_to(array, shape)


def is_number(value: ArrayLike, neutral: float) -> bool:
    """Whether an option is the Python number that changes nothing."""
    return isinstance(value, (int, float)) and value == neutral


def option(
    name: str, argument: str, value: ArrayLike | None, neutral: float, shape: Sequence[int], dtype: DTypeLike
) -> Array | None:
    """A hyperparameter for each loss, in the dtype of the losses; None where it is the number that changes nothing."""
    if value is None or is_number(value, neutral):
        return None
    return broadcast(name, argument, real(name, argument, value).astype(dtype), shape)


def compute_dtype(*arrays: Array) -> np.dtype:
    """float64 if one of the arrays is, else float32."""
    wide = any(a.dtype == np.float64 for a in arrays)
    return np.dtype(np.float64 if wide else np.float32)


def class_axes(name: str, axis: Axis, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes that `axis` names, as non-negative numbers, in its order."""
    ndim = len(shape)
    named = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if any(not isinstance(a, (int, np.integer)) for a in named):
        raise TypeError(f"{name}: expected `axis` to be an int, a tuple of ints or None, got {axis!r}.")
    if any(not -ndim <= a < ndim for a in named) or len({a % ndim for a in named}) < len(named) or not named:
        raise ValueError(f"{name}: expected `axis` to name distinct axes of an array of rank {ndim}, got {axis!r}.")
    named = tuple(int(a) % ndim for a in named)
    if any(shape[a] == 0 for a in named):
        raise ValueError(f"{name}: expected at least one class along `axis` {axis}, got an array of shape {shape}.")
    return named


def choice(name: str, argument: str, value: Reduction, axis_name: AxisName | None = None) -> None:
    if value not in get_args(Reduction):
        raise ValueError(f"{name}: expected `{argument}` to be one of {get_args(Reduction)}, got {value!r}.")
    if value == "none" and axis_name is not None:
        raise ValueError(f'{name}: expected `axis_name` with `{argument}` "sum" or "mean", got "none".')
    mapped(name, "axis_name", axis_name)


def mapped(name: str, argument: str, axis_name: AxisName | None) -> None:
    if axis_name is not None:
        try:
            lax.axis_size(axis_name)
        except NameError:
            expected = "the name of an axis of a shard_map or vmap around the call"
            raise ValueError(f"{name}: expected `{argument}` to be {expected}, got {axis_name!r}.") from None


def product(
    name: str, hidden: tuple[str, Array], weight: tuple[str, Array], class_axis: tuple[str, int]
) -> tuple[int, int]:
    """The class axis of ``weight``, 0 or 1, and the number of classes of ``hidden @ weight``."""
    (of_hidden, x), (of_weight, w), (of_axis, axis) = hidden, weight, class_axis
    if w.ndim != 2 or 0 in w.shape:
        raise ValueError(f"{name}: expected `{of_weight}` of shape (features, classes), got {w.shape}.")
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -2 <= axis < 2:
        raise ValueError(f"{name}: expected `{of_axis}` to be -1 or 0, got {axis!r}.")
    axis = int(axis) % 2
    if x.ndim == 0:
        raise ValueError(f"{name}: expected `{of_hidden}` of shape (..., features), got ().")
    if x.shape[-1] != w.shape[1 - axis]:
        features = x.shape[-1]
        raise ValueError(
            f"{name}: expected `{of_weight}` of shape ({features}, classes), or (classes, {features}) with "
            f"`{of_axis}=0`, as `{of_hidden}` has {features} features, got {w.shape} with `{of_axis}={-axis}`."
        )
    return axis, w.shape[axis]


def positive_integer(name: str, argument: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected `{argument}` to be a positive integer, got {value!r}.")
    return int(value)
