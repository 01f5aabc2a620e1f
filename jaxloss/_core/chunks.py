"""A loop over chunks of tokens, whose logits exist one chunk at a time."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .compiler import match_varying_axes

# A chunk is a block of tokens. On an automatic mesh it is a part of each axis of tokens, of the last one first, taken
# in strides, [..., size / parts, parts]: a mesh that splits an axis into blocks splits each chunk alike, and no device
# waits for another's chunk.


def into_chunks(chunk: int, strided: bool, arrays: tuple[Any, ...]) -> tuple[tuple[Any, ...], Callable[[Any], Any]]:
    """Hidden, tokens, examples and whatever else is of tokens, in chunks, and what joins such arrays."""
    shape = arrays[0][0].shape[:-1]
    axes = shape if strided else (math.prod(shape),)
    lengths = _lengths(axes, chunk)
    if arrays[2] is None and not _is_cut_evenly(axes, lengths):
        arrays = *arrays[:2], jnp.ones(shape, bool), *arrays[3:]  # the filler of the last chunk is masked

    def cut(x: Array) -> Array:
        return _cut(x.reshape(*axes, *x.shape[len(shape) :]), axes, lengths, strided)

    def join(x: Array) -> Array:
        x = _join(x, axes, lengths, strided)
        return x.reshape(*shape, *x.shape[len(axes) :])

    return jax.tree.map(cut, arrays), lambda found: jax.tree.map(join, found)


def _lengths(shape: tuple[Any, ...], chunk: int) -> tuple[int, ...]:
    """How long a chunk of that many tokens at most is along each axis, in chunks as equal as can be.

    Of axes whose size is a symbol, as in `jax.export`, the last one fills the chunk and the others have one token each.
    """
    known = [size for size in shape if isinstance(size, int)]
    chunks, lengths = _ceil(math.prod(known), chunk), []
    for size in reversed(known):
        lengths.append(max(1, _ceil(size, min(size, chunks)) if chunks > 1 and size else size))
        chunks = _ceil(chunks, _ceil(size, lengths[-1]) or 1)
    room = max(1, chunk // math.prod(lengths))
    found = []
    for size in reversed(shape):
        if isinstance(size, int):
            found.append(lengths.pop(0))
        else:
            found.append(room)
            room = 1
    return tuple(reversed(found))


def _ceil(a: Any, b: Any) -> Any:
    """a / b, rounded up."""
    return -(-a // b)


def _parts(shape: tuple[Any, ...], lengths: tuple[int, ...]) -> list[Any]:
    """Into how many parts each axis is cut; one part of an empty one."""
    return [1 if isinstance(size, int) and not size else _ceil(size, n) for size, n in zip(shape, lengths, strict=True)]


def _is_cut_evenly(shape: tuple[Any, ...], lengths: tuple[int, ...]) -> bool:
    return all(isinstance(size, int) and size % length == 0 for size, length in zip(shape, lengths, strict=True))


def _cut(x: Array, axes: tuple[Any, ...], lengths: tuple[int, ...], strided: bool) -> Array:
    """[tokens, rest] as [chunks, tokens of a chunk, rest]."""
    inner_shape, parts = x.shape[len(axes) :], _parts(axes, lengths)
    if not _is_cut_evenly(axes, lengths):
        fill = [(0, part * length - size) for size, part, length in zip(axes, parts, lengths, strict=True)]
        x = jnp.pad(x, fill + [(0, 0)] * len(inner_shape))
    lengths = tuple(min(n, size) if isinstance(size, int) else n for n, size in zip(lengths, axes, strict=True))
    pairs = zip(lengths, parts, strict=True) if strided else zip(parts, lengths, strict=True)
    x = x.reshape(*(n for pair in pairs for n in pair), *inner_shape)
    x = jnp.moveaxis(x, range(strided, 2 * len(axes), 2), range(len(axes)))
    return x.reshape(math.prod(parts), *lengths, *inner_shape)


def _join(x: Array, axes: tuple[Any, ...], lengths: tuple[int, ...], strided: bool) -> Array:
    """The inverse of `_cut`."""
    parts = _parts(axes, lengths)
    x = x.reshape(*parts, *x.shape[1:])
    x = jnp.moveaxis(x, range(len(axes)), range(strided, 2 * len(axes), 2))
    x = x.reshape(*(x.shape[2 * i] * x.shape[2 * i + 1] for i in range(len(axes))), *x.shape[2 * len(axes) :])
    return x[tuple(slice(size) for size in axes)]


def each_chunk(
    step: Callable[[Any], tuple[Any, Any]], arrays: tuple[Any, ...], like: Any, dtype: np.dtype | None = None
) -> tuple[Any, Any]:
    """The sum of what ``step`` gives first, of the shapes of ``like``, and all that it gives second.

    The sum is of that dtype, by default of that of ``like`` or float32, whichever is wider.

    ``step`` keeps nothing for a derivative but its part of the arrays: what it makes of them, of all chunks together,
    is what must not be.
    """
    step = jax.checkpoint(step, prevent_cse=False)
    if jax.tree.leaves(arrays)[0].shape[0] == 1:
        added, found = step(jax.tree.map(lambda a: a[0], arrays))
        return added, jax.tree.map(lambda a: a[None], found)
    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype or np.promote_types(x.dtype, np.float32)), like)
    zeros = match_varying_axes((arrays, like), zeros)

    def body(carry: Any, part: Any) -> tuple[Any, Any]:
        added, found = step(part)
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), carry, added), found

    summed_and_found: tuple[Any, Any] = lax.scan(body, zeros, arrays)
    return summed_and_found


def over_chunks(
    chunk: int,
    strided: bool,
    step: Callable[[Any], tuple[Any, Any]],
    arrays: tuple[Any, ...],
    like: Any = (),
    dtype: np.dtype | None = None,
) -> tuple[Any, Any]:
    """`each_chunk` of arrays that are not in chunks."""
    parts, join = into_chunks(chunk, strided, arrays)
    added, found = each_chunk(step, parts, like, dtype)
    return added, join(found)
