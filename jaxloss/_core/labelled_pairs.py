"""Losses of examples with labels: each example beside all others of its batch, or beside references."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .compiler import replicate_from_axis
from .masks import Mask, divide_or_zero, prepare_mask
from .pair_devices import reduced
from .pairs import Formula, Kind, Pairs, Plan, embeddings_of, plan
from .rows import is_finite_row, per_example_option
from .special import power_of_two
from .types import AxisName, Reduction
from .vectors import unit_vectors


class BatchOptions(NamedTuple):
    """What these losses have in common."""

    where: ArrayLike | None
    weights: ArrayLike | None
    reduction: Reduction
    axis_name: AxisName | None
    chunk_size: int | None


def prepare_labelled(
    name: str,
    formula: Formula,
    embeddings: ArrayLike,
    labels: ArrayLike,
    references: tuple[ArrayLike | None, ArrayLike | None],
    per_example: dict[str, ArrayLike],
    options: BatchOptions,
    *,
    normalize: bool | None = None,
    remove_diagonal: bool | None = None,
) -> tuple[Plan, Pairs, Mask]:
    """The examples beside the references, by default themselves.

    Rows are the `Identity` of the examples, and the options that each has; columns are that of the references, and
    only without references of their own is none compared with itself, by default. ``normalize`` says whether vectors
    are divided by their norms. By default only their products have to be cosines.
    """
    arguments.choice(name, "reduction", options.reduction, options.axis_name if options.reduction != "none" else None)
    arguments.mapped(name, "axis_name", options.axis_name)
    reference_embeddings, reference_labels = references
    labels, reference_labels = arguments.identities(labels, reference_labels)
    x, y = r, y_references = _labelled(name, ("embeddings", "labels"), embeddings, labels)
    if reference_embeddings is not None:
        if reference_labels is None and jnp.shape(reference_embeddings)[:1] != y.shape:
            shape = jnp.shape(reference_embeddings)[:1]
            raise ValueError(f"{name}: expected `reference_labels` of shape {shape}, got None.")
        labels = y if reference_labels is None else reference_labels
        names = "reference_embeddings", "reference_labels"
        r, y_references = _labelled(name, names, reference_embeddings, labels, features=x.shape[1], dtype=y.dtype)
    elif reference_labels is not None:
        raise ValueError(f"{name}: expected `reference_embeddings` with `reference_labels`, got None.")
    dtype = arguments.compute_dtype(x, r)
    given = tuple(per_example_option(name, *option, Mask(), y.shape, dtype) for option in per_example.items())
    usable = is_finite_row(jnp.square(x.astype(dtype)) if normalize is False else x)
    mask = prepare_mask(name, options.where, options.weights, y.shape, dtype).exclude(usable)
    for option in given:
        mask = mask.exclude(jnp.isfinite(option))
    compared, kind = None, Kind()
    if reference_embeddings is None:
        compared = mask.examples if mask.weight is None else mask.weight != 0
        r = Mask(compared).fill(x)
    q = mask.fill(x)
    if normalize is None:
        q, r, kind = embeddings_of(q, r, dtype, normalize=True)
    else:
        q, r = (unit_vectors(a, dtype) if normalize else replicate_from_axis(a, 1).astype(dtype) for a in (q, r))
    if remove_diagonal is None:
        remove_diagonal = reference_embeddings is None
    position, reference_position = (
        _position(a, options.axis_name) if remove_diagonal else None for a in (y, y_references)
    )
    rows = Identity(y, position, mask.examples), *mask.fill_options(given)
    pairs = Pairs(q, r, rows, Identity(y_references, reference_position, compared), ())
    return plan(name, formula, q, r, options.chunk_size, kind), pairs, mask


def _labelled(
    name: str,
    names: tuple[str, str],
    embeddings: ArrayLike,
    labels: ArrayLike,
    features: int | None = None,
    dtype: np.dtype | None = None,
) -> tuple[Array, Array]:
    """Embeddings and their labels; of references, of as many features and of the dtype that those of the batch have."""
    x, y = arguments.floating(name, names[0], embeddings), arguments.real(name, names[1], labels)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name}: expected `{names[0]}` of shape (batch, features), got {x.shape}.")
    arguments.same_shape(name, names[0], x, (x.shape[0], features or x.shape[1]))
    arguments.same_shape(name, names[1], y, x.shape[:1])
    if dtype is not None and y.dtype != dtype:
        raise TypeError(f"{name}: expected `{names[1]}` of dtype {dtype}, got {y.dtype}.")
    return x, y


def _position(labels: Array, axis_name: AxisName | None) -> Array:
    index = jnp.arange(labels.shape[0])
    return index if axis_name is None else index + lax.axis_index(axis_name) * labels.shape[0]


def centred(pairs: Pairs, axis_name: AxisName | None) -> tuple[Pairs, Array]:
    """The pairs about a common origin, the mean of the references, and in a common unit, a power of two, which is
    returned: their squares are numbers, and their distances keep more digits.
    """
    q, r = pairs.queries, pairs.references
    size = power_of_two(sum((jnp.abs(lax.stop_gradient(x)).max(initial=0) for x in (q, r)), jnp.zeros((), q.dtype)))
    unit = size if axis_name is None else lax.pmax(size, axis_name)
    q, r = q * (1 / unit), r * (1 / unit)
    number = jnp.ones(r.shape[:1], r.dtype).sum()
    origin = divide_or_zero(lax.stop_gradient(r).sum(0, keepdims=True), number)
    origin = origin if axis_name is None else lax.pmean(origin, axis_name)
    return pairs._replace(queries=q - origin, references=r - origin), unit


class Identity(NamedTuple):
    """Of examples, or of references."""

    label: Array
    position: Array | None  # an example and a reference of one position are no pair
    exists: Array | None


def pair_masks(row: Identity, column: Identity) -> tuple[Array, Array]:
    """Where two have the same label, and where they have not."""
    same = row.label[:, None] == column.label[None, :]
    positives, negatives = same, ~same
    if row.position is not None and column.position is not None:
        positives &= row.position[:, None] != column.position[None, :]
    if row.exists is not None:
        positives, negatives = positives & row.exists[:, None], negatives & row.exists[:, None]
    if column.exists is not None:
        positives, negatives = positives & column.exists[None, :], negatives & column.exists[None, :]
    return positives, negatives


def reduced_over_numbers(chunks: Plan, pairs: Pairs, mask: Mask, options: BatchOptions) -> Array:
    """The losses or what they reduce to, where the formula's second result is how much a loss counts in the mean."""
    if options.reduction != "mean":
        return reduced(chunks, pairs, mask, options.reduction, options.axis_name)[0]
    total, number = reduced(chunks, pairs, mask, "sum", options.axis_name)
    number = (number if mask.weight is None else mask.weight * number).sum()
    return divide_or_zero(total, number if options.axis_name is None else lax.psum(number, options.axis_name))
