"""optax' own tests of its losses, as they are installed, with our functions in the place of theirs."""

import importlib
import inspect
import sys
import unittest

import jax
import numpy as np
import pytest

import jaxloss

pytest.importorskip("torch")  # it takes a minute, and stands with the other peers

TESTS = {
    "classification": 109,
    "fenchel_young": 1,
    "ranking": 14,
    "regression": 23,
    "segmentation": 26,
    "self_supervised": 4,
    "smoothing": 2,
}

# The tests that do not pass: what they say then, and why.
EXCEPTIONS = {
    # No loss looks at numbers: theirs does, and so raises under jit.
    "DiceLossTest.test_probability_validation": "ValueError not raised",
}


STATIC = {"apply_sigmoid", "apply_softmax", "axis", "blank_id", "ignore_background", "reduce_fn", "reduction"}


def compiled(loss):
    """The loss under jit, its numbers traced: without, compiled by single operations, the tests take twice as long."""
    if loss is jaxloss.make_fenchel_young_loss:
        return loss
    static = STATIC & inspect.signature(loss).parameters.keys()
    return jax.jit(loss, static_argnames=static)


@pytest.fixture
def replaced(monkeypatch):
    """optax with our losses, wherever it or its tests look them up."""
    optax = pytest.importorskip("optax")
    if optax.__version__ != "0.2.8":
        pytest.skip("the numbers and the exceptions are those of optax 0.2.8")
    theirs = {name: loss for name, loss in vars(optax.losses).items() if callable(loss)}
    missing = theirs.keys() - vars(jaxloss).keys()
    assert missing == {"convex_kl_divergence"}  # the old name, by which it calls generalized_kl_divergence
    for name in theirs.keys() - missing:
        for module in (sys.modules[theirs[name].__module__], optax.losses, optax):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, compiled(getattr(jaxloss, name)))
    np.random.seed(0)  # noqa: NPY002 - theirs draw from it
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TESTS)
def test_optax_tests_pass(name, replaced, monkeypatch):
    tests = f"optax.losses._{name}_test"
    monkeypatch.delitem(sys.modules, tests, raising=False)  # losses are looked up when it is imported, too
    suite = unittest.defaultTestLoader.loadTestsFromModule(importlib.import_module(tests))
    result = unittest.TestResult()
    suite.run(result)
    assert result.testsRun == TESTS[name]
    assert not result.skipped
    failed = {test.id().removeprefix(f"{tests}."): said for test, said in result.failures + result.errors}
    expected = {test for test in EXCEPTIONS if hasattr(sys.modules[tests], test.partition(".")[0])}
    assert failed.keys() == expected, "\n".join(failed.values())
    for test in expected:
        assert EXCEPTIONS[test] in failed[test]
