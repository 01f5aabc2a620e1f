"""What one sees of the module: its docstring, completion, and the names of other libraries."""

import inspect
import re

import jax.numpy as jnp
import pytest

import jaxloss
from jaxloss._other_names import NAMES


def test_the_docstring_names_each_function_once():
    families = re.findall(r"^[A-Z][^\n]*:\n((?:    .*\n)+)", jaxloss.__doc__, re.MULTILINE)
    names = [name.strip() for family in families for name in family.replace("\n", " ").split(",")]
    assert sorted(names) == sorted(jaxloss.__all__)


@pytest.mark.parametrize("name", [name for name in jaxloss.__all__ if inspect.isfunction(getattr(jaxloss, name))])
def test_signatures_are_short(name):
    assert "Union" not in str(inspect.signature(getattr(jaxloss, name)))
    assert len(str(inspect.signature(getattr(jaxloss, name)))) < 1000


@pytest.mark.parametrize(("name", "ours"), NAMES.items())
def test_a_name_of_another_library_leads_to_ours(name, ours):
    assert ours.partition("(")[0] in jaxloss.__all__
    assert name not in jaxloss.__all__
    with pytest.raises(AttributeError, match=re.escape(f"no attribute '{name}'; use `jaxloss.{ours}`.")):
        getattr(jaxloss, name)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("MSELoss", "squared_error"),
        ("CTCLoss", "ctc_loss"),
        ("KLDivLoss", "kl_divergence"),
        ("HuberLoss", "huber_loss"),
    ],
)
def test_a_class_of_another_library_leads_to_a_function(name, ours):
    with pytest.raises(AttributeError, match=f"no attribute '{name}'; use `jaxloss.{ours}`."):
        getattr(jaxloss, name)


def test_an_argument_of_another_library_leads_to_ours():
    logits, labels = jnp.zeros((2, 3)), jnp.array([0, -100])
    loss = jaxloss.softmax_cross_entropy_with_integer_labels
    sentence = "softmax_cross_entropy_with_integer_labels: got an unexpected argument"
    with pytest.raises(TypeError, match=re.escape(f"{sentence} `ignore_index`; use where=labels != ignore_index.")):
        loss(logits, labels, ignore_index=-100)
    with pytest.raises(TypeError, match=re.escape(f"{sentence} `zzz`.")):
        loss(logits, labels, zzz=1)
    with pytest.raises(TypeError, match=re.escape(f"{sentence} `temperature`; use logit_scale=1 / temperature.")):
        loss(logits, labels, temperature=2.0)


def test_another_unknown_name():
    with pytest.raises(AttributeError, match=r"module 'jaxloss' has no attribute 'zzz'\."):
        jaxloss.zzz  # noqa: B018
    assert not hasattr(jaxloss, "__path_of_nothing__")
