"""Eager use: after the first call nothing is compiled, and no memory is kept."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import BATCH, CALLS, NOT_CALLED, over_calls

import jaxloss

COMPILE = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    """How many programs were compiled so far."""
    counted = []

    def listen(event, *_, **__):
        if event == COMPILE:
            counted.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(counted)
    jax.monitoring.unregister_event_duration_listener(listen)


def test_every_public_function_is_called():
    assert {call.name for call in CALLS} == set(jaxloss.__all__) - NOT_CALLED


def modes(call, arrays):
    """Value, gradient and tangent, as functions without arguments."""
    total, x = call.of_first(arrays)
    yield lambda: call.function(*arrays)
    if call.differentiable:
        yield lambda: jax.grad(total)(x)
        yield lambda: jax.value_and_grad(total)(x)
        yield lambda: jax.jvp(total, (x,), (x,))


# The function that a user gives to these is compiled with each call: their docstrings say so.
OF_FUNCTIONS = {"rnnt_loss_with_joint"}


@over_calls([c for c in CALLS if c.name not in OF_FUNCTIONS], "huber_loss-delta", "linear_cross_entropy", "ctc_loss")
def test_nothing_is_compiled_after_the_first_call(call, rng, compilations):
    arrays = call.draw(rng, BATCH)
    for mode in modes(call, arrays):
        mode(), mode()
        before = compilations()
        mode(), mode()
        assert compilations() == before


@pytest.mark.parametrize("delta", [0.3, 0.7, np.float32(0.9), np.float64(1.5), 3])
def test_no_value_of_an_option_compiles_anew(delta, compilations):
    x = jnp.ones(3)
    jaxloss.huber_loss(x, delta=jnp.asarray(0.5).item())
    jaxloss.huber_loss(x, delta=type(delta)(0.5) if type(delta) is not int else 5)
    before = compilations()
    jaxloss.huber_loss(x, delta=delta)
    assert compilations() == before


class Parameter:
    """An array as modules of some libraries hold it."""

    def __init__(self, value):
        self.value = value

    def __jax_array__(self):
        return self.value


@pytest.mark.parametrize(
    "name", ["huber_loss", "softmax_cross_entropy_with_integer_labels", "linear_cross_entropy", "ctc_loss", "ntxent"]
)
def test_a_parameter_is_its_array(name, rng, compilations):
    call = next(c for c in CALLS if c.name == name)
    arrays = call.draw(rng, BATCH)
    expected = call.function(*arrays)
    before = compilations()
    np.testing.assert_array_equal(call.function(*map(Parameter, arrays)), expected)
    assert compilations() == before


def test_no_memory_is_kept(rng):
    """Live arrays and Python objects; `python -m benchmarks.eager` has the resident memory of all functions."""
    call = next(c for c in CALLS if c.id == "softmax_cross_entropy_with_integer_labels")
    arrays = call.draw(rng, BATCH)
    for mode in modes(call, arrays):
        mode()
        gc.collect()
        before = len(gc.get_objects()), len(jax.live_arrays())
        for _ in range(50):
            mode()
        gc.collect()
        assert len(gc.get_objects()) - before[0] < 50
        assert len(jax.live_arrays()) == before[1]
