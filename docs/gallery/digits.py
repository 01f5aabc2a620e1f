# %% [markdown]
# # Handwritten digits
#
# A small network learns the digits that ship with scikit-learn. The loss is the cross entropy of integer labels, and
# `token_metrics` gives the accuracy and the entropy of the same logits.

# %%
# In a notebook of your own: %pip install jaxloss optax scikit-learn matplotlib
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxloss

images, labels = load_digits(return_X_y=True)
x, test_x, y, test_y = (jnp.asarray(a) for a in train_test_split(images / 16, labels, random_state=0))
x, test_x = x.astype(jnp.float32), test_x.astype(jnp.float32)

# %% [markdown]
# ## The model and a step
#
# `reduction="mean"` reduces inside of the loss. Options such as `label_smoothing` go into the same call.


# %%
def model(params, x):
    return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


@jax.jit
def step(params, state, x, y):
    def loss(params):
        return jaxloss.softmax_cross_entropy_with_integer_labels(
            model(params, x), y, label_smoothing=0.05, reduction="mean"
        )

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


keys = jax.random.split(jax.random.key(0), 2)
params = {
    "in": jax.random.normal(keys[0], (64, 64)) / 8,
    "bias": jnp.zeros(64),
    "out": jax.random.normal(keys[1], (64, 10)) / 8,
}
optimizer = optax.adam(3e-3)
state = optimizer.init(params)
losses = []
for _ in range(200):
    params, state, value = step(params, state, x, y)
    losses.append(float(value))

# %% [markdown]
# ## What it learned

# %%
metrics = jaxloss.token_metrics(model(params, test_x), test_y)
print(f"accuracy {jaxloss.reduce(metrics.correct):.3f}, among the first two {jaxloss.reduce(metrics.rank < 2):.3f}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
axes[0].plot(losses)
axes[0].set(title="training loss", xlabel="step", yscale="log")
axes[1].hist(metrics.entropy, bins=40)
_ = axes[1].set(title="entropy of each test image", xlabel="nats")
