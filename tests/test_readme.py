"""The README's code runs as it stands."""

import pathlib
import re

import jax
import numpy as np

import jaxloss

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_ten_lines():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    with jax.numpy_dtype_promotion("standard"):
        exec(code, names)
    np.testing.assert_allclose(names["value"], np.log(100), rtol=1e-6)
    assert names["gradient"].shape == (8, 100)


def test_it_can_be_read_in_ten_minutes():
    assert len(README.splitlines()) <= 110
    prose = re.sub(r"```.*?```|<picture>.*?</picture>|^\|.*?$", "", README, flags=re.DOTALL | re.MULTILINE)
    assert len(prose.split()) <= 600


def test_its_names_and_links_exist():
    names = re.findall(r"`(\w+)(?:\([^`]*\))?`", README)
    assert {"linear_cross_entropy", "ctc_loss"} <= {*names}
    options = {"where", "weights", "reduction", "label_smoothing", "class_weights", "z_loss", "soft_cap", "logit_scale"}
    words = {"grad", "jvp", "vmap", "jit", "scan", "shard_map"}
    assert {name for name in names if not hasattr(jaxloss, name)} <= options | words
    for target in re.findall(r'\]\((?!http)([^)#]+)|(?:src|srcset)="([^"]+)"', README):
        assert (ROOT / "".join(target)).exists(), target
