"""What `import jaxloss` does: nothing, and it imports nothing but itself that JAX has not."""

import os
import subprocess
import sys

PROGRAM = """
import sys
import jax, jax.numpy
before = set(sys.modules)
import jaxloss
print(*sorted(name for name in set(sys.modules) - before if name.partition(".")[0] != "jaxloss"))
"""


def test_the_import_is_light_and_touches_no_device():
    environment = {**os.environ, "JAX_PLATFORMS": "none_of_them"}  # an error for whatever asks for a device
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
