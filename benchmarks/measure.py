"""Times of a case in rounds, their ratios, errors against float64, and the floor."""

import functools
import math
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding

from .candidates import Candidate, candidates, floors, missing, plain, with_gradients
from .cases import Case, Shape

# Seconds: what takes less than the first is called often enough in a row, and rounds start for as long as the second.
# A CPU has neighbours, and needs more of both.
SHORTEST, BUDGET = {"cpu": 20e-3, "gpu": 5e-3, "tpu": 5e-3}, {"cpu": 10, "gpu": 2, "tpu": 2}
SHORT = 2  # seconds of the rounds of the short list
COMPARED = 2**22  # entries of the gradient
# Entries of which the truth is computed at once. More where a chunk has to be worth reading a matrix, and on a GPU,
# where a chunk of that size would take no longer than its dispatch; less where the memory is that of a GPU.
CHUNK, OF_PRODUCTS = COMPARED, 2**29
CHUNK_ON_GPU, OF_PRODUCTS_ON_GPU = 2**26, 2**28
OF_MATRIX = 2**25  # what is compared of the gradient of a matrix
OUT_OF_MEMORY = "out of memory"
LATE = "no time left"
OF_ROUNDS = ("jaxloss", "again", "products", "copy", "nothing")  # what ratios are of
SPREAD = (20, 50, 80)  # percentiles of what a round gives


class Limits(NamedTuple):
    """How long a record may take."""

    shortest: float  # seconds: what takes less is called several times in a row
    rounds: float  # seconds of all rounds; 0: as few as there can be
    deadline: float = math.inf  # on the clock of `time.monotonic`: no candidate starts after it, but for ours


def limits_of(device: str, *, quick: bool = False, short: bool = False, deadline: float = math.inf) -> Limits:
    budget = min(SHORT, BUDGET[device]) if short else BUDGET[device]
    return Limits(1e-3, 0, deadline) if quick else Limits(SHORTEST[device], budget, deadline)


def reason(error: Exception) -> str:
    """Why a candidate has no numbers, in a line."""
    text = str(error) or repr(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return OUT_OF_MEMORY
    return text.strip().splitlines()[0][:200]


def record(
    case: Case,
    shape: Shape,
    dtype: str,
    device: str,
    ceilings: dict[str, float],
    quick: bool,
    limits: Limits,
) -> dict[str, Any]:
    """All numbers of a case; temporaries in bytes, the rest in ms, s, or ratios with their spread."""
    with jax.default_matmul_precision(case.precision):
        return _record(case, shape, dtype, device, ceilings, quick, limits)


def _record(
    case: Case, shape: Shape, dtype: str, device: str, ceilings: dict[str, float], quick: bool, limits: Limits
) -> dict[str, Any]:
    arrays = draw(case, shape, dtype)
    absent = missing(device)
    skipped = {peer.name: absent[peer.name] for peer in case.peers if peer.name in absent}
    try:
        right = truth(case, arrays, shape[-1], device)
    except Exception as error:  # times are worth having without it
        right, skipped["float64"] = None, reason(error)
    everybody: dict[str, Candidate] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, make in candidates(case, arrays, device, quick):
        if name != "jaxloss" and time.monotonic() > limits.deadline:
            skipped[name] = LATE
            continue
        try:
            candidate = make()
            output = candidate.run()
            candidate.wait(output)
            value_error, gradient_error = _errors(candidate, output, *right) if right else (None, None)
            del output
        except Exception as error:  # more memory than there is, another version, a C++ compiler that is not there
            skipped[name] = reason(error)
            continue
        everybody[name] = candidate
        facts[name] = {
            "compile_s": candidate.compile_seconds,
            "temp_bytes": candidate.temporaries,
            "value_error": value_error,
            "gradient_error": gradient_error,
        }
    if "jaxloss" in everybody:
        everybody["again"] = everybody["jaxloss"]
    times, failed = rounds(everybody | floors(case, arrays), limits)
    skipped |= failed
    bytes_, flops = floor_bytes(arrays), operations(case, arrays)
    if case.products:
        floor = times["products"]
    else:
        moved = np.maximum(0, times["copy"] - times["nothing"]) * bytes_ / (2 * arrays[0].nbytes)
        floor = np.maximum(times["nothing"] + moved, flops / (1e12 * _tflops(ceilings, dtype, case.precision, device)))
    facts = {name: fact for name, fact in facts.items() if name in times}
    for name, fact in facts.items():
        fact["ms"] = 1e3 * float(np.median(times[name]))
        fact["of_floor"] = spread(times[name] / floor)
        if "jaxloss" in times:
            fact["ours_over_it"] = spread(times["jaxloss"] / times[name])
    found = {
        "bytes": bytes_,
        "flops": flops,
        "rounds": len(floor),
        "floor_ms": 1e3 * float(np.median(floor)),
        "candidates": facts,
        "skipped": skipped,
    }
    return found | ({"again": spread(times["jaxloss"] / times["again"])} if "again" in times else {})


def most_tokens(case: Case, most: Shape, dtype: str, device: str, limits: Limits) -> dict[str, Any]:
    """Those of a loss of hidden states that fit, for ours and optax: the most, halved until value and gradients run."""
    found, skipped = {}, {}
    for name in ("jaxloss", "optax"):
        tokens, *others = most
        while name not in found | skipped:
            if time.monotonic() > limits.deadline:
                skipped[name] = LATE
                break
            try:
                arrays = draw(case, (tokens, *others), dtype)
                make = dict(candidates(case, arrays, device, quick=True)).get(name)
                if make is None:
                    skipped[name] = missing(device)[name]
                else:
                    candidate = make()
                    candidate.wait(candidate.run())
                    found[name] = {"tokens": tokens}
            except Exception as error:
                if reason(error) != OUT_OF_MEMORY or tokens == 1:
                    skipped[name] = reason(error)
                tokens //= 2
            arrays = candidate = make = None  # their memory is for the next
    memory = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")  # JAX leaves a share of a GPU to others
    return {"most": most[0], "memory": memory, "candidates": found, "skipped": skipped}


def draw(case: Case, shape: Shape, dtype: str) -> tuple[Array, ...]:
    return jax.jit(case.draw, static_argnums=(1, 2))(jax.random.key(0), shape, dtype)


def floor_bytes(arrays: tuple[Any, ...]) -> int:
    """Reads the inputs twice, for the value and for the gradients, and writes the gradients."""
    nbytes = _nbytes(arrays)
    return 2 * sum(nbytes) + sum(nbytes[:-1])


def least_bytes(arrays: tuple[Any, ...]) -> int:
    """Reads the inputs once and writes the gradients: a single pass."""
    nbytes = _nbytes(arrays)
    return sum(nbytes) + sum(nbytes[:-1])


def _nbytes(arrays: tuple[Any, ...]) -> list[int]:
    return [math.prod(a.shape) * a.dtype.itemsize for a in arrays]


def operations(case: Case, arrays: tuple[Any, ...]) -> int:
    """Of the plain form and its gradients, as XLA counts them; an exponential or a logarithm is one.

    The CPU computes nothing here: JAX counts on no other platform before it compiles. 0 if there is no such platform.
    """
    try:
        cpu = SingleDeviceSharding(jax.devices("cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS=cuda
        return 0
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=cpu) for a in arrays]
    cost = jax.jit(with_gradients(plain(case), len(shapes))).lower(*shapes).cost_analysis() or {}
    return int(cost.get("flops", 0) + cost.get("transcendentals", 0))


def ceilings(quick: bool) -> dict[str, float]:
    """What this device copies (read and written) and multiplies in a second, at best.

    A GPU rounds the factors of a float32 product to TF32 unless the precision is the highest.
    """
    platform = jax.devices()[0].platform
    entries, side = (2**20, 256) if quick else (2**27, 2048) if platform == "cpu" else (2**29, 8192)
    found = {}
    large = jnp.ones((entries,), "uint32")
    found["copy_gbps"] = 2 * large.nbytes / _best(jax.jit(jnp.invert), large) / 1e9
    rates = [("float32", "float32", "highest"), ("bfloat16", "bfloat16", None)]
    rates += [("tf32", "float32", None)] if platform == "gpu" else []
    for name, dtype, precision in rates:
        a, b = (jax.random.normal(key, (side, side), dtype) for key in jax.random.split(jax.random.key(0)))
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        found[f"matmul_{name}_tflops"] = 2 * side**3 / _best(product, a, b) / 1e12
    return found


def _tflops(ceilings: dict[str, float], dtype: str, precision: str | None, device: str) -> float:
    """The rate of matrix products."""
    rounded = dtype == "float32" and precision is None
    return ceilings[f"matmul_{ {'gpu': 'tf32', 'tpu': 'bfloat16'}.get(device, dtype) if rounded else dtype }_tflops"]


def _best(function: Callable, *args: Array) -> float:
    function(*args).block_until_ready()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        function(*args).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)


def rounds(everybody: dict[str, Candidate], limits: Limits) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Seconds of each candidate in each round, in which all are called, in random order; and who left, and why."""
    once, failed = {}, {}
    for name, candidate in everybody.items():
        try:
            once[name] = _seconds(candidate, 1)
        except Exception as error:
            failed[name] = reason(error)
            continue
        if name not in OF_ROUNDS and 0 < limits.rounds < 4 * once[name]:  # nine rounds would take too long
            failed[name] = f"{once.pop(name):.3g} s a call, too long for the rounds"
    repeats = {name: max(1, math.ceil(limits.shortest / seconds)) for name, seconds in once.items()}
    a_round = sum(repeats[name] * seconds for name, seconds in once.items())
    count = int(np.clip(limits.rounds / a_round, 9 if limits.rounds else 3, 40))
    times: dict[str, list[float]] = {name: [] for name in once}
    order = random.Random(0)
    for _ in range(count):
        for name in order.sample(list(times), len(times)):
            try:
                times[name].append(_seconds(everybody[name], repeats[name]))
            except Exception as error:
                failed[name] = reason(error)
                del times[name]
    return {name: np.array(seconds) for name, seconds in times.items()}, failed


def _seconds(candidate: Candidate, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        output = candidate.run()
    candidate.wait(output)
    return (time.perf_counter() - start) / repeats


def truth(
    case: Case, arrays: tuple[Array, ...], classes: int, platform: str = "cpu"
) -> tuple[float, float, list[np.ndarray]]:
    """The value, the mean size of the losses, and the first rows of each gradient: the plain form in float64.

    On the device at hand, where a CPU would take minutes. A TPU has no float64: XLA makes it of pairs of float32, with
    their range, and refuses products of it. There, the CPU of its host computes this.
    """
    x, *matrices, t = arrays
    if platform == "gpu":
        chunk = OF_PRODUCTS_ON_GPU if matrices else CHUNK_ON_GPU
    else:
        chunk = OF_PRODUCTS if matrices else CHUNK
    rows = max(1, chunk // classes)
    compared = rows if matrices else max(1, COMPARED // classes)
    count = math.prod(jax.eval_shape(case.plain, *arrays).shape)
    device = jax.devices("cpu")[0] if platform == "tpu" else jax.devices()[0]
    total, sizes, gradients = 0.0, 0.0, []

    def sums(*arrays: Array) -> tuple[Array, Array]:
        losses = case.plain(*arrays)
        return losses.sum(), jnp.abs(losses).sum()

    def wide(array: Array) -> Array:
        array = jax.device_put(array, device)
        return array.astype("float64") if jnp.issubdtype(array.dtype, jnp.floating) else array

    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(sums, tuple(range(len(arrays) - 1)), has_aux=True))
        matrices = [wide(m) for m in matrices]
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            (value, size), (first, *others) = both(wide(x[part]), *matrices, wide(t[part]))
            total, sizes = total + float(value), sizes + float(size)
            others = [np.asarray(slope[: max(1, OF_MATRIX // classes)]) for slope in others]
            first = gradients[0] if gradients else np.asarray(first[:compared])
            gradients = [first, *(map(np.add, gradients[1:], others) if gradients else others)]
    return total / count, sizes / count, [gradient / count for gradient in gradients]


def _errors(
    candidate: Candidate, output: Any, value: float, size: float, gradients: list[np.ndarray]
) -> tuple[float, float]:
    """Of the value, over the mean size of the losses; of a gradient, the largest over its largest entry."""
    found, (first, *others) = output
    slopes = [first, *(slope.T if candidate.transposed else slope for slope in others)]
    of_gradients = [
        np.abs(candidate.numpy(slope[: len(gradient)]).astype("float64") - gradient).max() / np.abs(gradient).max()
        for slope, gradient in zip(slopes, gradients, strict=True)
    ]
    return abs(float(found) - value) / size, float(max(of_gradients))


def spread(ratios: np.ndarray) -> list[float]:
    return [float(r) for r in np.percentile(ratios, SPREAD)]
