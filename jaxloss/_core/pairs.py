"""Losses of pairs, queries beside references: the products of some queries at a time, never those of all.

Two forms. `loss_of_each` gives the loss of each query; its gradients compute the products again. `weighted_sum`
computes the gradients while it has the products: three products in all instead of four. Both are differentiated by JAX
within a chunk, and have every derivative.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from . import arguments
from .chunks import into_chunks, over_chunks
from .compiler import match_varying_axes, replicate_from_axis
from .derivatives import drop_symbolic_zeros
from .masks import finite_where_unweighted, weigh
from .pair_softmaxes import least
from .types import AxisName
from .vectors import inverse_norm, scaled, unit_vectors

# (products [c, m], arrays of the queries [c], arrays of the references [m], numbers) -> losses [c], arrays [c] without
# derivative.
Formula = Callable[[Array, Any, Any, Any], tuple[Array, Any]]


class Pairs(NamedTuple):
    """What a loss is of. All but the embeddings are pytrees."""

    queries: Any  # an array [n, features]
    references: Any  # an array [m, features]
    rows: Any  # arrays [n]
    columns: Any  # arrays [m]
    numbers: Any  # scalars


class Cotangents(NamedTuple):
    """Of a chunk, of all but the embeddings."""

    products: Array
    rows: Any
    columns: Any
    numbers: Any


class Kind(NamedTuple):
    """Of products."""

    narrow: bool = False  # embeddings are numbers of bfloat16, and multiplied and sent as such
    cosines: bool = False  # products are divided by the norms


_PLAIN = Kind()


class Plan(NamedTuple):
    """The static arguments."""

    formula: Formula
    chunk_size: int  # queries of a device
    devices: int  # of an automatic mesh, all of which have a part of each chunk, taken in strides
    kind: Kind
    is_sum: bool = False  # whether a query's part of the loss is a sum over references, or made of such
    ring: AxisName = ()  # mapped axes over whose devices references travel, so that each device meets all

    @property
    def chunks(self) -> tuple[int, bool]:
        """How many queries a chunk has, and whether it is taken in strides."""
        return self.devices * self.chunk_size, self.devices > 1


def plan(
    name: str,
    formula: Formula,
    queries: Array,
    references: Array,
    chunk_size: int | None,
    kind: Kind = _PLAIN,
    *,
    is_sum: bool = False,
) -> Plan:
    """By default a device has up to a million products at a time, of 128 to 512 queries. Where the loop is one over an
    automatic mesh, a chunk has queries of all devices, at least 256.
    """
    mesh = next((m for x in (queries, references) if not (m := jax.typeof(x).sharding.mesh).empty), None)
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    kinds = [(size, kind.name) for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True)]
    devices = math.prod(size for size, kind in kinds if kind != "Manual")
    if chunk_size is None:
        automatic = ("Auto",) if is_sum else ("Auto", "Explicit")  # see `over_devices`
        together, m = math.prod(size for size, kind in kinds if kind in automatic), references.shape[0]
        least = 128 if together == 1 else -(-256 // together)
        chunk_size = int(np.clip(2**20 // max(m, 1), least, 512)) if isinstance(m, int) else least
    chunk_size = arguments.positive_integer(name, "chunk_size", chunk_size)
    return Plan(formula, chunk_size, devices, kind, is_sum)


def multiply(plan: Plan, a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """The product over an axis of each, added up in float32 at least.

    Where JAX is to differentiate it, both are float32, so that the gradients are, which are added up over chunks.
    """
    dtype = np.promote_types(a.dtype, np.float32)

    def product(a: Array, b: Array, axes: tuple[int, int] = axes, precision: Any = None) -> Array:
        return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), precision, preferred_element_type=dtype)

    def transposed(a: Array, b: Array) -> Array:  # in 0.8 of the time on a CPU
        return product(lax.optimization_barrier(a.T), b, (1, axes[1]))

    on_cpu = product if axes[0] else transposed
    in_bfloat16 = partial(product, precision=lax.DotAlgorithmPreset.BF16_BF16_F32)  # a CPU has it for matrices only
    default = in_bfloat16 if plan.kind.narrow and a.dtype == dtype else product
    found: Array = on_cpu(a, b) if on_cpu is default else lax.platform_dependent(a, b, cpu=on_cpu, default=default)
    return found


def embeddings_of(queries: Array, references: Array, dtype: np.dtype, normalize: bool) -> tuple[Array, Array, Kind]:
    """What is multiplied, in float32 at least, so that gradients are rounded only once."""
    narrow = queries.dtype == references.dtype == jnp.bfloat16
    queries, references = (replicate_from_axis(x, 1).astype(dtype) for x in (queries, references))
    if not normalize:
        return queries, references, Kind(narrow)
    queries, references = (scaled(x) if narrow else unit_vectors(x, dtype) for x in (queries, references))
    return queries, references, Kind(narrow, cosines=narrow)


def narrowed(plan: Plan, x: Array) -> Array:
    return x.astype(jnp.bfloat16) if plan.kind.narrow else x


def _inverse_norms(plan: Plan, x: Array) -> tuple[Array | None, Callable[[Array | None], ArrayLike]]:
    """1 / |x|, if it is of use, and its pullback, which rounds nothing to the dtype of x."""
    if not plan.kind.cosines:
        return None, lambda _: 0
    norms, pullback = jax.vjp(inverse_norm, x.astype(np.promote_types(x.dtype, np.float32)))
    return norms, lambda ct: pullback(ct)[0]


def _divided(products: Array, inverse_norms: Array | None, of_references: Array | None) -> Array:
    if inverse_norms is None or of_references is None:
        return products
    return products * inverse_norms[:, None] * of_references[None, :]


def _widened(pairs: Pairs) -> Pairs:
    """The embeddings in float32 at least."""
    dtype = arguments.compute_dtype(pairs.queries, pairs.references)
    return pairs._replace(queries=pairs.queries.astype(dtype), references=pairs.references.astype(dtype))


def _filled(rows: Any, examples: Array | None) -> Any:
    """The arrays with harmless numbers in what fills up the last chunk: False, an index of -1, 1."""

    if examples is None:
        return rows

    def filled(x: Array) -> Array:
        number = 0 if x.dtype == np.bool_ else 1 if _is_floating(x) else -1
        return jnp.where(jnp.expand_dims(examples, range(1, x.ndim)), x, jnp.asarray(number, x.dtype))

    return jax.tree.map(filled, rows)


def around(
    axes: AxisName, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, visiting: Any, like: Any
) -> tuple[Any, Any]:
    """What ``step`` makes of the carry and of what each device has, in turn, and that: at the end it is at home again.

    Both vary over the devices as ``like`` does.
    """
    devices = lax.axis_size(axes)
    to_next = [(i, (i + 1) % devices) for i in range(devices)]

    @partial(jax.checkpoint, prevent_cse=False)
    def visit(state: Any, _: None) -> tuple[Any, None]:
        carry, visiting = step(*state)
        return (carry, lax.ppermute(visiting, axes, to_next)), None

    state: tuple[Any, Any] = lax.scan(visit, match_varying_axes(like, (carry, visiting)), length=devices)[0]
    return state


def _added(a: Any, b: Any) -> Any:
    """The sum of two trees, of the dtypes of the first."""
    return jax.tree.map(lambda a, b: (a + b).astype(a.dtype), a, b)


def loss_of_each(plan: Plan, pairs: Pairs) -> tuple[Array, Any]:
    """The losses [n], and the arrays without derivative."""
    if not plan.ring:
        return _loss_of_each(plan, pairs)

    def step(losses: Array, visiting: Any) -> tuple[Array, Any]:
        references, columns = visiting
        found, _ = _loss_of_each(plan, pairs._replace(references=references, columns=columns))
        return losses + found, visiting

    zeros = jnp.zeros(pairs.queries.shape[:1], arguments.compute_dtype(pairs.queries, pairs.references))
    return around(plan.ring, step, zeros, (narrowed(plan, pairs.references), pairs.columns), pairs)[0], ()


def _loss_of_each(plan: Plan, pairs: Pairs) -> tuple[Array, Any]:
    pairs = _widened(pairs)
    of_references, _ = _inverse_norms(plan, pairs.references)

    def step(part: Any) -> tuple[Any, Any]:
        (queries,), rows, examples = part
        products = multiply(plan, queries, pairs.references, (1, 1))
        return (), plan.formula(
            _divided(products, _inverse_norms(plan, queries)[0], of_references),
            _filled(rows, examples),
            pairs.columns,
            pairs.numbers,
        )

    arrays = (pairs.queries,), pairs.rows, None
    found: tuple[Array, Any] = over_chunks(*plan.chunks, step, arrays)[1]
    return found


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def weighted_sum(plan: Plan, pairs: Pairs, weight: Array) -> tuple[Array, Any]:
    """The sum of weight * loss over the queries, and the arrays without derivative."""
    losses, aux = loss_of_each(plan, pairs)
    return weigh(weight, losses).sum(), aux


def _rule(plan: Plan, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    pairs, weight = primals
    (losses, aux), gradients = accumulate(plan, pairs, weight, partial(_differentiated, plan))
    total = weigh(weight, losses).sum()
    tangent = tangent_of(total, (gradients, finite_where_unweighted(weight, losses)), tangents)
    return (total, aux), (tangent, jax.tree.map(jnp.zeros_like, aux))


weighted_sum.defjvp(_rule, symbolic_zeros=True)


def tangent_of(total: Array, gradients: Any, tangents: Any) -> Array:
    """The inner product of the gradients with the tangents, of those that are there."""

    def product(tangent: Array | None, gradient: Array) -> Array | None:
        return None if tangent is None else (gradient * tangent.astype(gradient.dtype)).sum()

    def linear(gradients: Any, moved: Any) -> Array:
        products = jax.tree.map(product, moved, gradients, is_leaf=lambda x: x is None)
        return sum(jax.tree.leaves(products), jnp.zeros_like(total))

    found: Array = jax.checkpoint(linear, prevent_cse=False)(gradients, drop_symbolic_zeros(tangents))
    return found


def accumulate(
    plan: Plan, pairs: Pairs, weight: Any, differentiate: Callable[..., tuple[Any, Cotangents]]
) -> tuple[Any, Pairs]:
    """What ``differentiate`` finds in each chunk, and the gradients by all pairs; None for what is not floating.

    In a ring it is the sum of what it finds, and the gradients by references travel with them, in their dtype.
    """
    if not plan.ring:
        return _accumulate(plan, pairs, weight, differentiate)

    def here(visiting: tuple[Any, Any]) -> tuple[Any, Any]:
        references, columns = visiting
        met = pairs._replace(references=references, columns=columns)
        found, ct = _accumulate(plan, met, weight, differentiate)
        return (found, ct.queries, ct.rows, ct.numbers), (ct.references, ct.columns)

    def step(own: Any, visiting: Any) -> tuple[Any, Any]:
        met, theirs = visiting
        added, ct = here(met)
        return _added(own, added), (met, _added(theirs, ct))

    met = narrowed(plan, pairs.references), pairs.columns
    of_own, of_met = jax.eval_shape(here, met)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), of_own)
    of_met = jax.tree.map(lambda x, ct: jnp.zeros_like(x), _only_floating(met), of_met)
    own, (_, (ct_references, ct_columns)) = around(plan.ring, step, zeros, (met, of_met), pairs)
    found, ct_queries, ct_rows, ct_numbers = own
    return found, Pairs(ct_queries, ct_references, ct_rows, ct_columns, ct_numbers)


def _accumulate(
    plan: Plan, pairs: Pairs, weight: Any, differentiate: Callable[..., tuple[Any, Cotangents]]
) -> tuple[Any, Pairs]:
    of_references, pull_references = _inverse_norms(plan, pairs.references)
    references = narrowed(plan, pairs.references)

    def step(part: Any) -> tuple[Any, Any]:
        (queries,), rows, examples, weight = part
        rows, q = _filled(rows, examples), narrowed(plan, queries)
        products = multiply(plan, q, references, (1, 1))
        norms, pull_norms = _inverse_norms(plan, queries)
        products, pull_products = jax.vjp(_divided, products, norms, of_references)
        found, ct = differentiate(products, rows, pairs.columns, pairs.numbers, weight)
        ct_products, ct_norms, ct_of_references = pull_products(ct.products)
        ct_products = narrowed(plan, ct_products)
        ct_queries = multiply(plan, ct_products, references, (1, 0)) + pull_norms(ct_norms)
        ct_references = multiply(plan, q, ct_products, (0, 0))  # transposed, as a CPU multiplies faster
        return (ct_references, ct_of_references, ct.columns, ct.numbers), (found, ct_queries, ct.rows)

    arrays = (pairs.queries,), pairs.rows, None, weight
    summed = pairs.references.T, of_references, *(_only_floating(tree) for tree in (pairs.columns, pairs.numbers))
    # As around the linear losses' loop: else JAX, when it differentiates, makes arrays of constants before the loop.
    loop = jax.checkpoint(partial(over_chunks, *plan.chunks, step), prevent_cse=False)
    added, found = loop(arrays, summed)
    (ct_references, ct_of_references, ct_columns, ct_numbers), (losses, ct_queries, ct_rows) = added, found
    ct_references = ct_references.T + pull_references(ct_of_references)
    return losses, Pairs(ct_queries, ct_references, ct_rows, ct_columns, ct_numbers)


def _differentiated(
    plan: Plan, products: Array, rows: Any, columns: Any, numbers: Any, weight: Array
) -> tuple[tuple[Array, Any], Cotangents]:
    """The losses of a chunk, the arrays without derivative; the cotangents."""
    floating, rebuild = _floating_leaves((rows, columns, numbers))
    # Of what is the same on all devices JAX would give the gradient of all: that is for the rule around this one.
    floating = match_varying_axes((products, floating), floating)

    def losses(products: Array, floating: list[Array]) -> tuple[Array, Any]:
        return plan.formula(products, *rebuild(floating))

    found, pullback, aux = jax.vjp(losses, products, floating, has_aux=True)
    ct_products, ct_floating = pullback(match_varying_axes(found, weight))
    return (found, aux), Cotangents(ct_products, *rebuild(ct_floating, None))


def _is_floating(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, np.floating))


def _only_floating(tree: Any) -> Any:
    return jax.tree.map(lambda x: x if _is_floating(x) else None, tree)


def _floating_leaves(tree: Any) -> tuple[list[Array], Callable[..., Any]]:
    """The floating leaves, and what puts others in their place; the rest stays, or is None."""
    leaves, structure = jax.tree.flatten(tree)

    def rebuild(floating: list[Array], *rest: None) -> Any:
        replaced = iter(floating)
        found = [next(replaced) if _is_floating(x) else (None if rest else x) for x in leaves]
        return jax.tree.unflatten(structure, found)

    return [x for x in leaves if _is_floating(x)], rebuild


def losses_and_columns(plan: Plan, pairs: Pairs, axes: tuple[str, ...]) -> tuple[Any, Array]:
    """What the formula gives of each query, and the logsumexp over all queries of what it gives of each reference.

    Its second result is a logsumexp [m] of the queries of a chunk. ``axes`` are those that split the queries.
    """
    pairs = _widened(pairs)
    of_references, _ = _inverse_norms(plan, pairs.references)
    arrays, join = into_chunks(*plan.chunks, ((pairs.queries,), pairs.rows, None))

    @partial(jax.checkpoint, prevent_cse=False)
    def step(total: Array, part: Any) -> tuple[Array, Any]:
        (queries,), rows, examples = part
        products = multiply(plan, queries, pairs.references, (1, 1))
        products = _divided(products, _inverse_norms(plan, queries)[0], of_references)
        found, logsumexp = plan.formula(products, _filled(rows, examples), pairs.columns, pairs.numbers)
        return jnp.logaddexp(total, logsumexp), found

    start = jnp.full_like(pairs.references[:, 0], least(pairs.references))
    total, found = lax.scan(step, match_varying_axes((arrays, pairs), start), arrays)
    if axes:
        top = lax.pmax(lax.stop_gradient(total), axes)
        total = top + jnp.log(lax.psum(jnp.exp(total - top), axes))
    return join(found), total
