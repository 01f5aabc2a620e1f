# %% [markdown]
# # A language model without logits
#
# The logits of a language model are often its largest array. `linear_cross_entropy` takes the hidden states and the
# output matrix instead, and gives the same loss and the same gradients.

# %%
# In a notebook of your own: %pip install jaxloss
import jax

import jaxloss

tokens, features, vocabulary = 4096, 256, 8192
keys = jax.random.split(jax.random.key(0), 3)
hidden = jax.random.normal(keys[0], (tokens, features))
weight = jax.random.normal(keys[1], (features, vocabulary)) / 16
labels = jax.random.randint(keys[2], (tokens,), 0, vocabulary)

# %% [markdown]
# ## The same number


# %%
def dense(hidden, weight):
    logits = hidden @ weight
    return jaxloss.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def fused(hidden, weight):
    return jaxloss.linear_cross_entropy(hidden, weight, labels, reduction="mean")


print(f"dense {jax.jit(dense)(hidden, weight):.6f}, fused {jax.jit(fused)(hidden, weight):.6f}")

# %% [markdown]
# ## In less memory
#
# What XLA allocates beside the arguments and the gradients, in MiB.

# %%
for loss in (dense, fused):
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(hidden, weight).compile()
    print(f"{loss.__name__}: {compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f} MiB")

# %% [markdown]
# ## Statistics from the same pass
#
# Accuracy, entropy and logsumexp of each token need no second pass, and `chunk_size` says of how many tokens the logits
# exist at a time.

# %%
loss, metrics = jaxloss.linear_cross_entropy_with_metrics(hidden, weight, labels, reduction="mean", chunk_size=512)
print(f"loss {loss:.4f}, accuracy {jaxloss.reduce(metrics.correct):.4f}, entropy {metrics.entropy.mean():.3f} nats")
