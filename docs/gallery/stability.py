# %% [markdown]
# # Stability: three ways to write one loss
#
# The cross entropy of a confident row, in float32: softmax then log, logsumexp minus the logit, and jaxloss, beside the
# truth.

# %%
# In a notebook of your own: %pip install jaxloss matplotlib
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxloss

margins = jnp.linspace(0, 100, 401)
logits = jnp.stack([margins, jnp.zeros_like(margins)], axis=-1)  # label 0 is ahead by the margin
label = jnp.array(0)
truth = np.log1p(np.exp(-np.asarray(margins, np.float64)))

# %%
ways = {
    "softmax, then log": lambda x: -jnp.log(jax.nn.softmax(x)[0]),
    "logsumexp minus logit": lambda x: jax.nn.logsumexp(x) - x[0],
    "jaxloss": lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, label),
}
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for name, way in ways.items():
    value, gradient = jax.vmap(jax.value_and_grad(way))(logits)
    error = np.abs(np.asarray(value, np.float64) - truth) / truth
    slope = np.abs(np.asarray(-gradient[:, 0], np.float64) * (1 + np.exp(np.asarray(margins, np.float64))) - 1)
    for ax, e in zip(axes, (error, slope), strict=True):
        ax.semilogy(margins, np.maximum(e, 1e-9), label=name)
    normal = truth > np.finfo(np.float32).tiny
    print(f"{name}: the largest relative error is {error[normal].max():.1e} of the loss")
axes[0].set(title="relative error of the loss", xlabel="margin")
axes[1].set(title="relative error of the gradient", xlabel="margin")
_ = axes[0].legend()

# %% [markdown]
# An error of 1 says that nothing is left: the loss is 0, and the model learns nothing more from the row.
# From a margin of 87 on the loss itself is below the smallest normal number of float32.
