# %% [markdown]
# # Quantiles: an interval for each prediction
#
# The quantile loss has its minimum at a quantile instead of the mean. Five of them make an interval.

# %%
# In a notebook of your own: %pip install jaxloss matplotlib
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import jaxloss

quantiles = jnp.array([0.05, 0.25, 0.5, 0.75, 0.95])
keys = jax.random.split(jax.random.key(0), 2)
x = jax.random.uniform(keys[0], (2000,)) * 6
y = jnp.sin(x) + (0.1 + 0.15 * x) * jax.random.normal(keys[1], (2000,))  # the noise grows

# %% [markdown]
# ## One model for each quantile, all at once
#
# `vmap` over the quantiles fits five models. Each is a weighted sum of bumps along x.

# %%
centers = jnp.linspace(0, 6, 12)


def model(weight, x):
    return jnp.exp(-((x[:, None] - centers) ** 2)) @ weight


def fit(quantile):
    def loss(weight):
        return jaxloss.quantile_loss(model(weight, x), y, quantile=quantile, reduction="mean")

    def step(weight, _):
        return weight - 0.5 * jax.grad(loss)(weight), None

    return jax.lax.scan(step, jnp.zeros(12), length=2000)[0]


weights = jax.jit(jax.vmap(fit))(quantiles)

# %% [markdown]
# ## The interval

# %%
grid = jnp.linspace(0, 6, 200)
curves = jax.vmap(model, in_axes=(0, None))(weights, grid)
inside = jax.vmap(model, in_axes=(0, None))(weights, x)
print(f"{((y > inside[0]) & (y < inside[4])).mean():.1%} of the points are in the interval of 90 %")

figure, ax = plt.subplots(figsize=(9, 3.2), layout="constrained")
ax.plot(x, y, ".", ms=2, color="grey")
ax.fill_between(grid, curves[0], curves[4], alpha=0.2, color="tab:orange")
ax.fill_between(grid, curves[1], curves[3], alpha=0.3, color="tab:orange")
ax.plot(grid, curves[2], color="tab:orange")
_ = ax.set(title="median, and intervals of 50 % and 90 %")
