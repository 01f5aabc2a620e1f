# %% [markdown]
# # CTC: align labels to frames
#
# A sequence of frames has fewer labels than frames, and nobody says where each label is. CTC sums over all alignments.

# %%
# In a notebook of your own: %pip install jaxloss optax matplotlib
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxloss

rng = np.random.default_rng(0)
batch, frames, classes, length = 256, 40, 6, 5  # class 0 is the blank
labels = jnp.asarray(rng.integers(1, classes, size=(batch, length)))
signal = jnp.asarray(rng.normal(size=(classes, 12)), jnp.float32)

# %% [markdown]
# ## Data: each label is a pattern that lasts for some frames, with noise

# %%
where = np.cumsum(rng.integers(3, 9, size=(batch, length)), axis=1) - 2
inputs = rng.normal(size=(batch, frames, 12)) * 0.2
inputs[..., -1] = 1  # a bias
for i in range(batch):
    for start, label in zip(where[i], labels[i], strict=True):
        inputs[i, start : start + 3, :-1] += np.asarray(signal[label])[:-1]
inputs = jnp.asarray(inputs, jnp.float32)

# %% [markdown]
# ## Training

# %%
optimizer = optax.adam(0.1)
weight = jnp.zeros((12, classes))
state = optimizer.init(weight)


@jax.jit
def step(weight, state):
    def loss(weight):
        return jaxloss.ctc_loss(inputs @ weight, labels=labels, reduction="mean")

    value, gradient = jax.value_and_grad(loss)(weight)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(weight, updates), state, value


values = []
for _ in range(300):
    weight, state, value = step(weight, state)
    values.append(float(value))
print(f"loss {values[0]:.2f} at first, {values[-1]:.2f} at last")

# %% [markdown]
# ## Where the labels are
#
# `ctc_align` gives the most probable frames of each label. `ctc_greedy_decode` reads without labels.

# %%
logits = inputs @ weight
alignment = jaxloss.ctc_align(logits, labels=labels)
figure, ax = plt.subplots(figsize=(9, 2.5), layout="constrained")
ax.imshow(jax.nn.softmax(logits[0]).T, aspect="auto", cmap="Greys")
ax.vlines(where[0], -0.5, classes - 0.5, color="tab:orange", label="where a pattern begins")
ax.plot(alignment.starts[0], labels[0], "x", color="tab:blue", ms=9, mew=2, label="found by ctc_align")
ax.set(xlabel="frame", ylabel="class", title="posteriors of one example")
_ = ax.legend(loc="upper right")
