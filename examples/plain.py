"""Handwritten digits with a two-layer network, in JAX and optax alone: `python examples/plain.py`."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss


def model(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def loss(params, x, y):
    return jaxloss.softmax_cross_entropy_with_integer_labels(model(params, x), y, reduction="mean")


optimizer = optax.adam(3e-3)


@jax.jit
def step(params, state, x, y):
    value, gradient = jax.value_and_grad(loss)(params, x, y)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


def main(steps: int = 300) -> float:
    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = (jnp.asarray(a) for a in train_test_split(x / 16, y, test_size=0.25, random_state=0))
    x, test_x, y, test_y = x.astype("float32"), test_x.astype("float32"), y.astype("int32"), test_y.astype("int32")
    k1, k2 = jax.random.split(jax.random.key(0))
    params = {"w1": jax.random.normal(k1, (64, 128)) / 8, "b1": jnp.zeros(128)}
    params |= {"w2": jax.random.normal(k2, (128, 10)) / 11, "b2": jnp.zeros(10)}
    state = optimizer.init(params)
    for i in range(steps):
        params, state, value = step(params, state, x, y)
        if i % 100 == 0:
            print(f"step {i}: loss {value:.4f}")
    accuracy = float((model(params, test_x).argmax(-1) == test_y).mean())
    print(f"test accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
