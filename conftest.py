"""Eight host devices, strict promotion of dtypes and ranks; warnings are errors (pyproject.toml)."""

import gc
import itertools
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
FLAGS = "--xla_force_host_platform_device_count=8", "--xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The more programs are alive, the longer XLA takes to add and to free one.
FINISHED_TESTS, TESTS_BETWEEN_CLEARINGS = itertools.count(1), 40


def pytest_addoption(parser):
    text = "compile without LLVM's optimizations, in half the time"
    parser.addoption("--quick-compile", action="store_true", help=text)


def pytest_configure(config):
    if config.option.quick_compile:
        # Before any program is compiled. JAX 0.10 has the flag of the fusions, JAX 0.12 has not.
        emitters = " --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
        os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0" + emitters
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # tracing makes many small objects, which Python would search for cycles


def pytest_runtest_teardown():
    if next(FINISHED_TESTS) % TESTS_BETWEEN_CLEARINGS == 0:
        jax.clear_caches()


@pytest.fixture(autouse=True)
def print_options():
    with np.printoptions():
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def with_x64():
    with jax.enable_x64(True):
        yield jnp
