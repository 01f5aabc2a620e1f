"""Times of a case in rounds, their ratios, errors against float64, and the floor."""

import math
import random
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from .candidates import Candidate, candidates, floors, plain, with_gradients
from .cases import Case, Shape

# Seconds: what takes less than the first is called often enough in a row, and rounds start for as long as the second.
# A CPU has neighbours, and needs more of both.
SHORTEST, BUDGET = {"cpu": 20e-3, "gpu": 5e-3, "tpu": 5e-3}, {"cpu": 10, "gpu": 2, "tpu": 2}
CHUNK = 2**22  # entries of which the truth is computed at once, and the gradient compared
# The same where a chunk has to be worth reading a matrix, and what of the gradient of that is compared.
OF_PRODUCTS, OF_MATRIX = 2**29, 2**25
SPREAD = (20, 50, 80)  # percentiles of what a round gives


def record(
    case: Case, shape: Shape, dtype: str, device: str, ceilings: dict[str, float], quick: bool
) -> dict[str, Any]:
    """All numbers of a case; temporaries in bytes, the rest in ms, s, or ratios with their spread."""
    arrays = draw(case, shape, dtype)
    right = truth(case, arrays, shape[-1])
    everybody: dict[str, Candidate] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name, make in candidates(case, arrays, device, quick):
        try:
            candidate = make()
            output = candidate.run()
            candidate.wait(output)
        except Exception as error:  # a peer that needs a C++ compiler, or more memory than there is
            if name == "jaxloss":
                raise
            tqdm.write(
                f"skipped {name} of {case.loss} {list(shape)} {dtype}: {(str(error) or repr(error)).splitlines()[0]}"
            )
            continue
        value_error, gradient_error = _errors(candidate, output, *right)
        everybody[name] = candidate
        facts[name] = {
            "compile_s": candidate.compile_seconds,
            "temp_bytes": candidate.temporaries,
            "value_error": value_error,
            "gradient_error": gradient_error,
        }
        del output
    everybody |= {"again": everybody["jaxloss"]} | floors(case, arrays)
    times = _rounds(everybody, *((1e-3, 0) if quick else (SHORTEST[device], BUDGET[device])))
    bytes_, flops = floor_bytes(arrays), operations(case, arrays)
    if case.products:
        floor = times["products"]
    else:
        moved = np.maximum(0, times["copy"] - times["nothing"]) * bytes_ / (2 * arrays[0].nbytes)
        floor = np.maximum(times["nothing"] + moved, flops / (1e12 * ceilings[f"matmul_{dtype}_tflops"]))
    for name, fact in facts.items():
        fact["ms"] = 1e3 * float(np.median(times[name]))
        fact["of_floor"] = _spread(times[name] / floor)
        fact["ours_over_it"] = _spread(times["jaxloss"] / times[name])
    return {
        "loss": case.loss,
        "shape": list(shape),
        "dtype": dtype,
        "bytes": bytes_,
        "flops": flops,
        "rounds": len(floor),
        "floor_ms": 1e3 * float(np.median(floor)),
        "again": _spread(times["jaxloss"] / times["again"]),
        "candidates": facts,
    }


def draw(case: Case, shape: Shape, dtype: str) -> tuple[Array, ...]:
    return jax.jit(case.draw, static_argnums=(1, 2))(jax.random.key(0), shape, dtype)


def floor_bytes(arrays: tuple[Any, ...]) -> int:
    """Reads the inputs twice, for the value and for the gradients, and writes the gradients."""
    nbytes = [math.prod(a.shape) * a.dtype.itemsize for a in arrays]
    return 2 * sum(nbytes) + sum(nbytes[:-1])


def operations(case: Case, arrays: tuple[Any, ...]) -> int:
    """Of the plain form and its gradients, as XLA counts them; an exponential or a logarithm is one."""
    cpu = SingleDeviceSharding(jax.devices("cpu")[0])
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=cpu) for a in arrays]
    cost = jax.jit(with_gradients(plain(case), len(shapes))).lower(*shapes).cost_analysis() or {}
    return int(cost.get("flops", 0) + cost.get("transcendentals", 0))


def ceilings(quick: bool) -> dict[str, float]:
    """What this device copies (read and written) and multiplies in a second, at best."""
    cpu = jax.devices()[0].platform == "cpu"
    entries, side = (2**20, 256) if quick else (2**27, 2048) if cpu else (2**29, 8192)
    found = {}
    large = jnp.ones((entries,), "uint32")
    found["copy_gbps"] = 2 * large.nbytes / _best(jax.jit(jnp.invert), large) / 1e9
    for dtype in "float32", "bfloat16":
        a, b = (jax.random.normal(key, (side, side), dtype) for key in jax.random.split(jax.random.key(0)))
        found[f"matmul_{dtype}_tflops"] = 2 * side**3 / _best(jax.jit(jnp.matmul), a, b) / 1e12
    return found


def _best(function: Callable, *args: Array) -> float:
    function(*args).block_until_ready()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        function(*args).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)


def _rounds(everybody: dict[str, Candidate], shortest: float, budget: float) -> dict[str, np.ndarray]:
    """Seconds of each candidate in each round; a round calls all of them, in random order."""
    once = {name: _seconds(candidate, 1) for name, candidate in everybody.items()}
    repeats = {name: max(1, math.ceil(shortest / seconds)) for name, seconds in once.items()}
    a_round = sum(repeats[name] * seconds for name, seconds in once.items())
    rounds = int(np.clip(budget / a_round, 9 if budget else 3, 40))
    times: dict[str, list[float]] = {name: [] for name in everybody}
    order = random.Random(0)
    for _ in tqdm(range(rounds), desc="rounds", leave=False, position=1):
        for name in order.sample(list(everybody), len(everybody)):
            times[name].append(_seconds(everybody[name], repeats[name]))
    return {name: np.array(seconds) for name, seconds in times.items()}


def _seconds(candidate: Candidate, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        output = candidate.run()
    candidate.wait(output)
    return (time.perf_counter() - start) / repeats


def truth(case: Case, arrays: tuple[Array, ...], classes: int) -> tuple[float, float, list[np.ndarray]]:
    """The value, the mean size of the losses, and the first rows of each gradient: the plain form in float64."""
    x, *matrices, t = arrays
    rows = max(1, (OF_PRODUCTS if matrices else CHUNK) // classes)
    count = math.prod(jax.eval_shape(case.plain, *arrays).shape)
    cpu = jax.devices("cpu")[0]
    total, sizes, gradients = 0.0, 0.0, []

    def sums(*arrays: Array) -> tuple[Array, Array]:
        losses = case.plain(*arrays)
        return losses.sum(), jnp.abs(losses).sum()

    def wide(array: Array) -> Array:
        a = np.asarray(array)
        return jax.device_put(a if a.dtype.kind == "i" else a.astype("float64"), cpu)

    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(sums, tuple(range(len(arrays) - 1)), has_aux=True))
        matrices = [wide(m) for m in matrices]
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            (value, size), slopes = both(wide(x[part]), *matrices, wide(t[part]))
            total, sizes = total + float(value), sizes + float(size)
            first, *others = (np.asarray(slope) for slope in slopes)
            others = [slope[: max(1, OF_MATRIX // classes)] for slope in others]
            gradients = [gradients[0], *map(np.add, gradients[1:], others)] if gradients else [first, *others]
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


def _spread(ratios: np.ndarray) -> list[float]:
    return [float(r) for r in np.percentile(ratios, SPREAD)]
