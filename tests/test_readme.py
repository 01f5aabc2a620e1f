"""The README's code runs as it stands."""

import pathlib
import re

import jax
import numpy as np

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_the_ten_lines():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    with jax.numpy_dtype_promotion("standard"):
        exec(code, names)
    np.testing.assert_allclose(names["value"], np.log(100), rtol=1e-6)
    assert names["gradient"].shape == (8, 100)


def test_every_public_name_is_in_the_table():
    import jaxloss

    for name in jaxloss.__all__:
        assert f"`{name}" in README, name
