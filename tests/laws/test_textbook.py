"""Every loss against its textbook definition at many digits, over its domain: value and derivatives."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from cases import CASES, INDEX, every_case, over
from oracles import exact, exact_gradient, exact_second
from tolerances import close

pytestmark = pytest.mark.exact

# In half precision a loss is that of the same numbers in float32, which test_properties.py sees.
FEW, ALL = 200, 10**6  # elements
DTYPES = [
    pytest.param(np.float32, ALL, id="float32"),
    pytest.param(np.float64, FEW, id="float64"),
    *(
        pytest.param(d, ALL, id=f"all-{np.dtype(d).name}", marks=pytest.mark.sweep)
        for d in (np.float64, jnp.bfloat16, np.float16)
    ),
]


def rounded(values, dtype):
    """The numbers as the dtype has them, once each, without those that over- or underflow or become -1, 0 or 1."""
    finfo = jnp.finfo(dtype)
    with np.errstate(over="ignore"):
        given, values = np.asarray(values), np.asarray(values, dtype).astype(np.float64)
    size = np.abs(values)
    crossed = np.isin(values, (-1, 0, 1)) & ~np.isin(given, (-1, 0, 1))
    return np.unique(values[(size <= float(finfo.max)) & ((size >= float(finfo.tiny)) | (size == 0)) & ~crossed])


def grid(case, dtype):
    """Elements: all pairs of the numbers of the domains. Rows: drawn, some of them with entries near 0."""
    if not case.rows:
        pairs = np.meshgrid(*(rounded(d.numbers, dtype) for d in (case.predictions, case.target_domain)))
        return [jnp.asarray(a.ravel(), dtype) for a in pairs]
    rng = np.random.default_rng(0)
    scales = [case.draw(rng, 6, classes=5, scale=s, dtype=dtype) for s in (0.01, 2.0, 20.0)]
    return [jnp.concatenate(parts) for parts in zip(*scales, strict=True)]


def floats(x, dtype):
    """As the dtype would have it, infinity where it has nothing so large."""
    with np.errstate(over="ignore"):
        x = np.array(np.vectorize(float, otypes=[float])(x))
    return np.where(np.abs(x) > float(jnp.finfo(dtype).max), np.copysign(np.inf, x), x)


@pytest.mark.parametrize(("dtype", "elements"), DTYPES)
@every_case
def test_value_and_derivatives(case, dtype, elements, rng):
    with jax.enable_x64(dtype == np.float64), mp.workdps(300):
        x, t = grid(case, dtype)
        if len(x) > elements:
            chosen = rng.permutation(len(x))[:elements]
            x, t = x[chosen], t[chosen]
        wide = np.float64 if dtype == np.float64 else np.float32
        labels = np.eye(x.shape[-1])[t] if case.target_domain is INDEX else np.asarray(t, np.float64)
        given = np.asarray(x, np.float64)
        span = (np.abs(given) + np.abs(labels)) * case.exponential
        options = {k: float(wide(v)) for k, v in case.options.items()} | case.static
        span = span.max(-1) if case.rows else span

        losses, pull = jax.vjp(case, x, t)
        truth, size = exact(case.formula, given, labels, rows=case.rows, **options)
        close(losses, floats(truth, wide), floats(size, wide), span=span, dtype=wide)
        spans = span[:, None] if case.rows else span
        for by, gradient in enumerate(pull(jnp.ones_like(losses))[: 1 if case.target_domain is INDEX else 2]):
            truth, size, smooth = exact_gradient(case.formula, given, labels, by=by, rows=case.rows, **options)
            smooth = smooth.astype(bool)
            truth, size = floats(truth, dtype), floats(size, dtype)
            shown = np.broadcast_to(spans, truth.shape)[smooth]
            close(np.asarray(gradient)[smooth], truth[smooth], size[smooth], span=shown, dtype=dtype)
        if case.rows or dtype not in (np.float32, np.float64):
            return
        second = jax.grad(lambda x: jax.grad(lambda x: case(x, t).sum())(x).sum())(x)
        smooth = exact_gradient(case.formula, given, labels, **options)[2].astype(bool)
        truth, size = (floats(a, dtype)[smooth] for a in exact_second(case.formula, given, labels, **options))
        close(np.asarray(second)[smooth], truth, size, span=span[smooth], dtype=dtype)


@over([case for case in CASES if not case.rows])
def test_a_compiled_scalar_is_an_element(case):
    """XLA simplifies numbers further than arrays."""
    x, t = grid(case, np.float32)
    some = np.random.default_rng(0).permutation(len(x))[:24]
    scalar = jax.jit(jax.value_and_grad(case))
    ours = np.array([[float(v) for v in scalar(x[i], t[i])] for i in some]).T
    losses, pull = jax.vjp(case, x, t)
    with mp.workdps(300):
        sizes = [f(case.formula, x, t, **case.options, **case.static)[1] for f in (exact, exact_gradient)]
    for each, expected, size in zip(ours, (losses, pull(jnp.ones_like(losses))[0]), sizes, strict=True):
        close(each, expected[some], floats(size, np.float32)[some], span=np.abs(x[some]) * case.exponential)
