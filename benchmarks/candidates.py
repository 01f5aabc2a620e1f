"""The ways to compute the value and the gradients of a case: jaxloss, plain jax.numpy, and peers that are installed."""

import functools
import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ["KERAS_BACKEND"] = "jax"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()  # else its compile time is that of the second run
os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler that counts its memory is talkative

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxloss

from .cases import Case, Peer

MODULES = {
    "optax": "optax",
    "scan": "jax",
    "keras": "keras",
    "tokamax": "tokamax",
    "jax-cce": "jax_cce",
    "torch": "torch.nn.functional",
    "torch.chunked": "torch.nn",
    "liger": "liger_kernel.transformers.functional",
    "cut_cross_entropy": "cut_cross_entropy",
}
ONLY_ON_GPU = ("liger", "cut_cross_entropy")
OF_TORCH = ("torch", "torch.chunked", *ONLY_ON_GPU)
OVERWRITES = ("liger",)  # the gradient over its input, so that only a first run is of the predictions


class Candidate(NamedTuple):
    run: Callable[[], Any]  # starts one evaluation and returns (value, gradients)
    wait: Callable[[Any], None]  # until that is there
    numpy: Callable[[Any], np.ndarray]
    compile_seconds: float | None
    temporaries: int | None  # bytes beside inputs and outputs
    transposed: bool = False  # the gradients of its matrices are


Maker = Callable[[], Candidate]
"""Compiles it."""


def library_of(peer: str) -> str:
    return MODULES[peer].partition(".")[0]


def missing(device: str) -> dict[str, str]:
    """The peers that are left out here, and why."""
    found = {}
    for peer in MODULES:
        if peer in ONLY_ON_GPU and device != "gpu":
            found[peer] = "runs on GPUs only"
        elif importlib.util.find_spec(library_of(peer)) is None:
            found[peer] = "not installed"
    return found


def candidates(case: Case, arrays: tuple[Array, ...], device: str, quick: bool) -> Iterator[tuple[str, Maker]]:
    yield "jaxloss", functools.partial(_of_jax, ours(case), arrays)
    for name, call in case.ways.items():
        yield name, functools.partial(_of_jax, call, arrays)
    if not case.ways:  # another row of the same losses has it
        yield "plain", functools.partial(_of_jax, plain(case), arrays)
    x, *matrices, t = arrays
    layouts = {False: arrays, True: (x, *(m.T for m in matrices), t)}
    absent = missing(device)
    for peer in case.peers:
        if peer.name in absent:
            continue
        given = layouts[peer.transposed]
        yield peer.name, functools.partial(_of_peer, peer, given, device)
        if peer.name == "torch":
            # A quick run only wants to see that all works: no C++ and no Triton.
            backend = "aot_eager" if quick else "inductor"
            yield "torch.compile", functools.partial(_of_peer, peer, given, device, backend)


def ours(case: Case) -> Callable[..., Array]:
    return functools.partial(case.call or getattr(jaxloss, case.loss), **case.options, reduction="mean")


def plain(case: Case) -> Callable[..., Array]:
    return case.plain if case.products else lambda x, t: widened(case.plain, x, t)


def widened(plain: Callable[[Array, Array], Array], x: Array, t: Array) -> Array:
    dtype = jnp.promote_types(x.dtype, "float32")
    return plain(x.astype(dtype), t.astype(dtype) if jnp.issubdtype(t.dtype, jnp.floating) else t)


def with_gradients(function: Callable[..., Array], count: int) -> Callable[..., tuple[Array, tuple[Array, ...]]]:
    """The mean, and its gradients by all of that many arrays but the last."""

    def mean(x: Array, *others: Array) -> Array:
        return function(x, *others).astype(jnp.promote_types(x.dtype, "float32")).mean()

    return jax.value_and_grad(mean, tuple(range(count - 1)))


def _of_peer(peer: Peer, arrays: tuple[Array, ...], device: str, backend: str | None = None) -> Candidate:
    function = peer.call(importlib.import_module(MODULES[peer.name]))
    if peer.name in OF_TORCH:
        found = _of_torch(function, arrays, device, backend=backend, overwrites=peer.name in OVERWRITES)
    else:
        found = _of_jax(function, arrays)
    return found._replace(transposed=peer.transposed)


def _of_jax(function: Callable[..., Array], arrays: tuple[Array, ...]) -> Candidate:
    start = time.perf_counter()
    compiled = jax.jit(with_gradients(function, len(arrays))).lower(*arrays).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    return Candidate(functools.partial(compiled, *arrays), jax.block_until_ready, np.asarray, seconds, memory)


def floors(case: Case, arrays: tuple[Array, ...]) -> dict[str, Candidate]:
    """Programs of which the floor is made: the products; or what moves x once in and once out, and one number."""

    def flip(x: Array) -> Array:  # on a CPU a copy or a product has not the same speed in each dtype
        return ~lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")

    def running(function: Callable, *given: Array) -> Candidate:
        compiled = jax.jit(function).lower(*given).compile()
        return Candidate(functools.partial(compiled, *given), jax.block_until_ready, np.asarray, None, None)

    if case.products:
        return {"products": running(case.products, *arrays)}
    return {"copy": running(flip, arrays[0]), "nothing": running(flip, arrays[0][:1, :1])}


def _of_torch(
    function: Callable, arrays: tuple[Array, ...], device: str, *, backend: str | None, overwrites: bool
) -> Candidate:
    import torch

    if device == "gpu":  # as JAX: TF32, unless the case asks for more
        torch.set_float32_matmul_precision("high" if jax.config.jax_default_matmul_precision is None else "highest")
    *predictions, targets = (torch.from_dlpack(a) for a in arrays)  # the same memory
    targets = targets.long() if targets.dtype == torch.int32 else targets

    def mean(*given: Any) -> Any:
        return function(*given).mean()

    if backend is not None:
        torch.compiler.reset()
        mean = torch.compile(mean, backend=backend)

    def runner() -> Callable[[], Any]:
        given = [(p.clone() if overwrites else p).detach().requires_grad_() for p in predictions]

        def run() -> Any:
            value = mean(*given, targets)
            return value.detach(), torch.autograd.grad(value, given)

        return run

    def wait(_: Any) -> None:
        if device == "gpu":
            torch.cuda.synchronize()

    def numpy(a: Any) -> np.ndarray:
        return a.detach().float().cpu().numpy()

    seconds = None
    if backend is not None:
        start = time.perf_counter()
        wait(runner()())
        seconds = time.perf_counter() - start
    return Candidate(runner(), wait, numpy, seconds, _torch_temporaries(runner(), device))


def _torch_temporaries(run: Callable[[], Any], device: str) -> int:
    """The most that one run allocates, without its value and gradients."""
    import torch

    if device == "gpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        outputs = run()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            outputs = run()
        memory = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        peak = int(np.cumsum([e.nbytes() for e in sorted(memory, key=lambda e: e.start_ns())]).max(initial=0))
    value, gradients = outputs
    return max(0, peak - sum(a.nbytes for a in (value, *gradients)))
