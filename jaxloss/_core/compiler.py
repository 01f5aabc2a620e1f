"""What exists for XLA and for meshes only: a compiled public function, barriers, shardings, varying axes."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from . import arguments

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_OWN_PATH = (0, 1, 2, math.inf)
"""Python numbers that are neutral for some option and stay static. All others are traced."""
_TRACED = "traced"
_UNKNOWN = "unknown"


def compiled(**intervals: arguments.Interval) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compiles a public function once for each signature, and checks its options that are Python numbers.

    Eager code dispatches each operation by itself, and JAX compiles a branch, a scan or a checkpoint anew for each
    function object that it is given. Behind one `jax.jit` an eager call is one dispatch, its derivatives are cached,
    and in another trace XLA inlines the call. Arguments annotated `ArrayLike` are traced, the others are static.
    ``intervals`` says where options have to lie: what is traced cannot be told, a Python number can.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        arrays = {name for name, p in parameters.items() if p.annotation in ("ArrayLike", "ArrayLike | None")}
        names = tuple(name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY)

        @functools.partial(jax.jit, static_argnums=0)
        def run(static: tuple[tuple[Any, Any, Any], ...], *traced: Any) -> Any:
            values = iter(traced)
            bound = [(name, next(values) if kind is _TRACED else value) for name, kind, value in static]
            return function(**dict(bound))  # type: ignore[call-arg]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for unknown in kwargs.keys() - parameters.keys():
                raise arguments.unexpected(function.__name__, unknown, parameters)
            bound: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
            if len(bound) < len(args) + len(kwargs):  # too many, or one given twice: Python has a sentence for that
                return function(*args, **kwargs)
            for option, interval in intervals.items():
                arguments.inside(function.__name__, option, bound.get(option), interval)
            bound = {name: arguments.unwrapped(value) if name in arrays else value for name, value in bound.items()}
            kinds = [(_kind if name in arrays else _static_kind)(value) for name, value in bound.items()]
            static = tuple(
                (name, kind, None if kind is _TRACED else value)
                for (name, value), kind in zip(bound.items(), kinds, strict=True)
            )
            if _UNKNOWN in kinds or not _is_hashable(static):
                return function(**bound)  # type: ignore[call-arg]
            traced = (value for value, kind in zip(bound.values(), kinds, strict=True) if kind is _TRACED)
            try:
                result: R = run(static, *map(_as_jax, traced))
            except (TypeError, ValueError):
                pass
            else:
                return result
            return function(*args, **kwargs)  # raises the same sentence, without JAX's frames and notes

        return call

    return decorate


def _kind(value: Any) -> Any:
    """Whether an array argument is traced. Otherwise its type, or `_UNKNOWN` for what its own check has to reject."""
    if isinstance(value, jax.Array):
        return _TRACED
    if value is None or (isinstance(value, (int, float)) and value in _OWN_PATH):
        return type(value)
    if isinstance(value, (int, float)):
        value = np.asarray(value)
    return _TRACED if arguments.fits_in_jax(value) else _UNKNOWN


def _static_kind(value: Any) -> Any:
    """The type. A function defined inside another is a new object in each call, and not worth compiling for."""
    return _UNKNOWN if callable(value) and "<" in getattr(value, "__qualname__", "") else type(value)


def _as_jax(value: Any) -> Any:
    """Converts NumPy arrays: derivatives of a compiled function treat those of 64 bits as arrays of 32 bits."""
    return jnp.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def _is_hashable(static: tuple[Any, ...]) -> bool:
    try:
        hash(static)
    except TypeError:
        return False
    return True


def replicate_from_axis(x: Array, axis: int = 0) -> Array:
    """Returns x, with all axes from ``axis`` on replicated over the devices of an explicit mesh."""
    spec = jax.typeof(x).sharding.spec
    if not any(spec[axis:]):
        return x
    return reshard(x, jax.sharding.PartitionSpec(*spec[:axis], *[None] * (x.ndim - axis)), x)


def reshard(x: Array, spec: jax.sharding.PartitionSpec, like: Array) -> Array:
    """Returns x, sharded by ``spec`` on the mesh of ``like``, which need not be the mesh of a context."""
    resharded: Array = jax.sharding.reshard(x, jax.sharding.NamedSharding(jax.typeof(like).sharding.mesh, spec))
    return resharded


def take_rows(x: Array, indices: Array) -> Array:
    """x[indices], which an explicit mesh splits as the indices are split."""
    sharding = jax.typeof(indices).sharding
    if not any(sharding.spec):
        return replicate_from_axis(x)[indices]
    spec = jax.sharding.PartitionSpec(*sharding.spec, None)
    rows: Array = replicate_from_axis(x).at[indices].get(out_sharding=jax.sharding.NamedSharding(sharding.mesh, spec))
    return rows


def shard_like(like: Array, arrays: T) -> T:
    """Returns the arrays, sharded as ``like`` on an explicit mesh if they are replicated.

    There a select takes arrays of one sharding only, and its transpose does not reshard (JAX 0.10 to 0.12). Arrays have
    the leading axes of ``like``, and scalars are unchanged.
    """
    spec = jax.typeof(like).sharding.spec
    if not any(spec):
        return arrays

    def sharded(x: Array) -> Array:
        if x.ndim == 0 or any(jax.typeof(x).sharding.spec) or x.shape != like.shape[: x.ndim]:
            return x
        return reshard(x, jax.sharding.PartitionSpec(*spec[: x.ndim]), like)

    resharded: T = jax.tree.map(sharded, arrays)
    return resharded


def cpu_fusion_barrier(*arrays: Array) -> tuple[Array, ...]:
    """Returns the arrays behind an optimization barrier on a CPU, and as they are elsewhere.

    XLA for CPUs has a fast sum over rows of plain arithmetic without comparisons. The sum becomes several times slower
    if XLA fuses it with the computation of a number per row or with what follows. A value that two sums share, even a
    constant, is written to memory, which may take longer than both sums. The barrier keeps them in separate fusions.
    """
    barred: tuple[Array, ...] = lax.platform_dependent(*arrays, cpu=_barriers, default=_same)
    return barred


def _barriers(*arrays: Array) -> tuple[Array, ...]:
    return tuple(map(lax.optimization_barrier, arrays))


def _same(*arrays: Array) -> tuple[Array, ...]:
    return arrays


def gpu_recompute_barrier(*arrays: Array, depth: int = 1) -> tuple[Array, ...]:
    """Returns the arrays behind barriers on a GPU, where XLA else keeps what two long passes share in memory.

    XLA merges two barriers of one array, so that each of several passes needs a ``depth`` of its own.
    """
    for _ in range(depth):
        arrays = lax.platform_dependent(*arrays, cuda=_barriers, rocm=_barriers, default=_same)
    return arrays


def cpu_sum_barrier(x: Array) -> Array:
    """Returns x behind a select on a CPU, which XLA's kernel of sums does not take.

    Before a sum, a long formula is then computed in one pass, where the kernel would take its last steps and have their
    operands written to memory. After a sum, the numbers are not broadcast to an array in memory.
    """
    result: Array = lax.platform_dependent(x, cpu=_behind_select, default=_same_array)
    return result


def _behind_select(x: Array) -> Array:
    return jnp.where(lax.optimization_barrier(jnp.ones((), bool)), x, 0)


def _same_array(x: Array) -> Array:
    return x


def cpu_shortcut(rare: Array, exact: Callable[..., T], shortcut: Callable[..., T], *arrays: Array) -> T:
    """Returns exact(*arrays), on a CPU shortcut(*arrays) if ``rare``, which says where they differ, is True nowhere.

    A CPU pays for each pass over an array, and most batches hold no row that needs all of them. Elsewhere the branches
    would only keep apart what XLA makes one pass. Under `vmap` both are computed, on explicit meshes the exact ones.
    """
    # `vmap` makes a select of a condition. Its scalar predicate is refused for arrays that an explicit mesh splits, and
    # in a shard_map all arrays have to vary over the same axes.
    if any(any(jax.typeof(a).sharding.spec) for a in arrays):
        return exact(*arrays)
    if jax.sharding.get_abstract_mesh().manual_axes:
        rare, *arrays = match_varying_axes((rare, *arrays), (rare, *arrays))

    def on_cpu(rare: Array, *arrays: Array) -> T:
        chosen: T = lax.cond(rare.any(), exact, shortcut, *arrays)
        return chosen

    result: T = lax.platform_dependent(rare, *arrays, cpu=on_cpu, default=lambda rare, *arrays: exact(*arrays))
    return result


def zeros_of_type(x: Array) -> Array:
    """Zeros of the shape, the dtype, the varying axes and the sharding of x."""
    return jnp.where(jnp.zeros_like(x, bool), x, 0)


def match_varying_axes(like: Any, arrays: Any) -> Any:
    """Returns the arrays, varying over each mapped axis of a `shard_map` over which an array of ``like`` varies.

    The carry of a scan must have one type in all steps. And a value that JAX makes varying inside a loop is summed over
    the devices in each step of the transposed loop.
    """
    empty = (lax.stop_gradient(a)[:0].sum().astype(np.float32) for a in jax.tree.leaves(like) if a.ndim)
    varying_one = 1 + sum(empty, jnp.zeros((), np.float32))
    return jax.tree.map(lambda a: a * varying_one.astype(a.dtype), arrays)


def recompute_barrier(arrays: Any, *, rows: bool) -> Any:
    """Returns the arrays behind a barrier, so that XLA recomputes the pass instead of merging it with another one.

    Merged passes over rows save an intermediate of the size of the logits. That pays on a CPU only, where exponentials
    cost more than memory. Merged elementwise passes pay on accelerators only, where they become a single pass.
    """
    leaves, structure = jax.tree.flatten(arrays)
    cpu, default = (_same, _barriers) if rows else (_barriers, _same)
    return jax.tree.unflatten(structure, lax.platform_dependent(*leaves, cpu=cpu, default=default))
