"""The ways to compute the value and the gradient of a case: jaxloss, plain jax.numpy, and peers that are installed."""

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

from .cases import Case

MODULES = {
    "optax": "optax",
    "keras": "keras",
    "torch": "torch.nn.functional",
    "liger": "liger_kernel.transformers.functional",
}
ONLY_ON_GPU = ("liger",)
NO_LOSS_OF_LOGITS = ("cut_cross_entropy", "tokamax", "jax_cce")
"""They start from hidden states and a matrix, and have nothing for the cases that are here."""


class Candidate(NamedTuple):
    run: Callable[[], Any]  # starts one evaluation and returns (value, gradient)
    wait: Callable[[Any], None]  # until that is there
    numpy: Callable[[Any], np.ndarray]
    compile_seconds: float | None
    temporaries: int | None  # bytes beside inputs and outputs


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


def candidates(case: Case, x: Array, t: Array, device: str, quick: bool) -> Iterator[tuple[str, Maker]]:
    ours = functools.partial(getattr(jaxloss, case.loss), **case.options, reduction="mean")
    yield "jaxloss", functools.partial(_of_jax, ours, x, t)
    yield "plain", functools.partial(_of_jax, lambda x, t: widened(case.plain, x, t), x, t)
    absent = missing(device)
    for peer, call in case.peers:
        if peer in absent:
            continue
        function = call(importlib.import_module(MODULES[peer]))
        if library_of(peer) in ("optax", "keras"):
            yield peer, functools.partial(_of_jax, function, x, t)
        else:
            yield peer, functools.partial(_of_torch, function, x, t, device, overwrites=peer == "liger")
        if peer == "torch":
            # A quick run only wants to see that all works: no C++ and no Triton.
            backend = "aot_eager" if quick else "inductor"
            yield "torch.compile", functools.partial(_of_torch, function, x, t, device, backend=backend)


def widened(plain: Callable[[Array, Array], Array], x: Array, t: Array) -> Array:
    dtype = jnp.promote_types(x.dtype, "float32")
    return plain(x.astype(dtype), t.astype(dtype) if jnp.issubdtype(t.dtype, jnp.floating) else t)


def mean_of(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, t: function(x, t).astype(jnp.promote_types(x.dtype, "float32")).mean()


def _of_jax(function: Callable[..., Array], x: Array, t: Array) -> Candidate:
    start = time.perf_counter()
    compiled = jax.jit(jax.value_and_grad(mean_of(function))).lower(x, t).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis().temp_size_in_bytes
    return Candidate(functools.partial(compiled, x, t), jax.block_until_ready, np.asarray, seconds, memory)


def copies(x: Array) -> dict[str, Candidate]:
    """What moves x once in and once out, and what moves one number: the floors are made of them."""

    def flip(x: Array) -> Array:  # on a CPU a copy or a product has not the same speed in each dtype
        return ~lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")

    def moving(array: Array) -> Candidate:
        compiled = jax.jit(flip).lower(array).compile()
        return Candidate(functools.partial(compiled, array), jax.block_until_ready, np.asarray, None, None)

    return {"copy": moving(x), "nothing": moving(x[:1, :1])}


def _of_torch(
    function: Callable, x: Array, t: Array, device: str, *, backend: str | None = None, overwrites: bool = False
) -> Candidate:
    """``overwrites``: it writes the gradient over its input, so that only a first run is of the predictions."""
    import torch

    predictions, targets = (torch.from_dlpack(a) for a in (x, t))  # the same memory
    targets = targets.long() if targets.dtype == torch.int32 else targets

    def mean(x: Any, t: Any) -> Any:
        return function(x, t).mean()

    if backend is not None:
        torch.compiler.reset()
        mean = torch.compile(mean, backend=backend)

    def runner() -> Callable[[], Any]:
        given = (predictions.clone() if overwrites else predictions).detach().requires_grad_()

        def run() -> Any:
            value = mean(given, targets)
            return value.detach(), *torch.autograd.grad(value, given)

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
    """The most that one run allocates, without its value and gradient."""
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
    return max(0, peak - sum(a.nbytes for a in outputs))
