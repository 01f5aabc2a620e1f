"""Masks and weights: which losses count, and how much."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from . import arguments
from .types import AxisName, Reduction

T = TypeVar("T")


class Mask(NamedTuple):
    """The masks and the weight of a call; None for a mask of True and a weight of 1."""

    examples: Array | None = None  # of the shape of the losses, True is unmasked
    classes: Array | None = None  # of the shape of the rows, True is unmasked
    weight: Array | None = None  # of the shape of the losses

    @property
    def unweighted(self) -> Array | None:
        """Where a weight is 0."""
        return None if self.weight is None else self.weight == 0

    def without_weight(self) -> "Mask":
        return self._replace(weight=None)

    def without_empty_rows(self) -> "Mask":
        """Masks examples whose classes are all masked."""
        if self.classes is None:
            return self
        left = self.classes.any(-1)
        return self._replace(examples=left if self.examples is None else self.examples & left)

    def exclude(self, usable: Array | None = None) -> "Mask":
        """The mask with weight 0 in masked examples.

        ``usable`` is True where the loss is finite. An example of weight 0 that is not usable is masked. Others keep
        their derivative by the weight, which is the loss.
        """
        if self.weight is None:
            return self
        examples = self.examples
        if usable is not None:
            usable |= self.weight != 0
            examples = usable if examples is None else examples & usable
        return self._replace(
            examples=examples, weight=self.weight if examples is None else jnp.where(examples, self.weight, 0)
        )

    def only(self, examples: Array) -> "Mask":
        """Masks all other examples as well."""
        examples = examples if self.examples is None else self.examples & examples
        return self._replace(examples=examples).exclude()

    def weigh(self, factor: Array) -> "Mask":
        """The mask with its weight multiplied by ``factor``, such as class weights."""
        return self._replace(weight=factor if self.weight is None else weigh(self.weight, factor))

    def fill_classes(self, x: Array, value: float = 0) -> Array:
        """Rows with ``value`` in masked classes."""
        return x if self.classes is None else jnp.where(self.classes, x, value)

    def fill_examples(self, x: Array, value: float = 0) -> Array:
        """Rows with ``value`` in masked examples."""
        return x if self.examples is None else jnp.where(self.examples[..., None], x, value)

    def fill_vectors(self, x: Array, t: Array) -> tuple[Array, Array]:
        """Rows with vectors of ordinary length, nearly at a right angle, in masked examples."""
        if self.examples is None:
            return x, t
        alternating = 1 - 2 * (jnp.arange(x.shape[-1]) % 2)
        across = alternating.astype(t.dtype).reshape((1,) * (t.ndim - 1) + (-1,))
        return self.fill_examples(x, 1), jnp.where(self.examples[..., None], t, across)

    def fill(self, x: Array, value: float = 0) -> Array:
        """Rows with ``value`` in masked classes and examples."""
        return self.fill_examples(self.fill_classes(x, value), value)

    def fill_options(self, options: T, value: float = 1) -> T:
        """Options, one number per example, with a harmless one in masked examples."""
        examples = self.examples
        if examples is None:
            return options
        filled: T = jax.tree.map(lambda number: jnp.where(examples, number, value), options)
        return filled

    def reduce(
        self,
        losses: Array,
        reduction: Reduction,
        axis_name: AxisName | None = None,
        total: Callable[[Array], Array] = jnp.sum,
    ) -> Array:
        """The weighted losses, their sum or their mean. It expects a weight of 0 in masked examples, see `exclude`.

        ``total`` adds up some of the entries, by default all.
        """
        examples, _, weight = self
        if examples is not None:
            losses = jnp.where(examples, losses, 0)
        if weight is not None:
            losses = weigh(weight, losses)
        if reduction == "none":
            return losses
        summed = total(losses)
        if axis_name is not None:
            summed = jax.lax.psum(summed, axis_name)
        if reduction == "sum":
            return summed
        count = self.total_weight(losses.shape, losses.dtype, axis_name, total)
        return divide_or_zero(summed, count)

    def example_weights(
        self, shape: tuple[int, ...], dtype: np.dtype, reduction: Reduction, axis_name: AxisName | None
    ) -> Array:
        """Weights w such that sum(w * losses), added over all devices, is what `reduce` returns."""
        examples, _, weight = self
        if weight is None:
            weight = jnp.ones(shape, dtype) if examples is None else examples.astype(dtype)
        if reduction == "sum":
            return weight
        count = self.total_weight(shape, dtype, axis_name)
        return divide_or_zero(weight, count)

    def total_weight(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        axis_name: AxisName | None,
        total: Callable[[Array], Array] = jnp.sum,
    ) -> Array:
        """The sum of the weights, by which a mean divides."""
        if self.weight is not None:
            count = total(self.weight)
        elif self.examples is not None:
            count = total(self.examples.astype(np.int32)).astype(dtype)
        elif total is jnp.sum:
            count = jnp.asarray(math.prod(shape), dtype)
        else:
            count = total(jnp.ones(shape, np.int32)).astype(dtype)
        return count if axis_name is None else jax.lax.psum(count, axis_name)


def prepare_mask(
    name: str,
    where: ArrayLike | None,
    weights: ArrayLike | None,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Mask:
    """The mask of losses of that shape."""
    examples = weight = None
    if where is not None:
        examples = arguments.broadcast(name, "where", arguments.boolean(name, "where", where), shape)
    if weights is not None:
        weight = arguments.broadcast(name, "weights", arguments.real(name, "weights", weights).astype(dtype), shape)
    return Mask(examples, weight=weight)


def divide_or_zero(a: Array, b: Array) -> Array:
    """a / b, 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def weigh(weight: Array, x: Array) -> Array:
    """weight * x, where a weight of 0 gives 0 whatever x is, and has the derivative x if that is finite, else 0."""
    return weight * finite_where_unweighted(weight, x)


def finite_where_unweighted(weight: Array, x: Array) -> Array:
    """x with 0 for infinity and NaN where the weight is 0."""
    return jnp.where((weight == 0) & ~jnp.isfinite(x), 0, x)
