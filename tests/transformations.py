"""Transformations of JAX, which laws run on a loss and on its textbook formula."""

import jax
import jax.numpy as jnp

TRANSFORMATIONS = {}


def transformation(f):
    TRANSFORMATIONS[f.__name__] = f
    return f


def direction(x):
    return jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)


# Each takes a function x -> losses [n] that knows one row from another only by x, and returns arrays. It is run on the
# loss and on the textbook formula in jax.numpy, and JAX differentiates the latter by itself. What one of them is made
# of is not another one: compiling is most of what the tests take.


@transformation
def jit(f, x):
    return jax.jit(jax.value_and_grad(lambda x: f(x).sum()))(x)


@transformation
def linearize(f, x):
    return jax.linearize(f, x)[1](direction(x))


@transformation
def jacfwd(f, x):
    return jax.jacfwd(f)(x)


@transformation
def jacrev(f, x):
    return jax.jacrev(f)(x)


@transformation
def hessian(f, x):
    return jax.hessian(lambda x: f(x).sum())(x)


@transformation
def hessian_by_two_reversals(f, x):
    return jax.jacrev(jax.grad(lambda x: f(x).sum()))(x)


@transformation
def jvp_and_its_grad(f, x):
    def of_tangents(x):
        losses, tangents = jax.jvp(f, (x,), (direction(x),))
        return tangents.sum(), (losses, tangents)

    return jax.grad(of_tangents, has_aux=True)(x)


@transformation
def scan(f, x):
    def total(x):
        return jax.lax.scan(lambda carry, _: (carry + f(x * (1 + carry / 100)).mean(), None), 0.0, length=3)[0]

    return jax.grad(total)(x), jax.jvp(total, (x,), (direction(x),))[1]


@transformation
def hessian_of_scan(f, x):
    def total(x):
        return jax.lax.scan(lambda carry, row: (carry + f(row).sum(), None), 0.0, jnp.stack([x, x / 2]))[0]

    return jax.jvp(jax.grad(total), (x,), (direction(x),))


@transformation
def while_and_cond(f, x):
    value = jax.lax.fori_loop(0, 3, lambda i, carry: carry + f(x).mean(), 0.0)
    return value, jax.grad(lambda x: jax.lax.cond(x.sum() > 0, f, lambda x: 2 * f(x), x).sum())(x)


@transformation
def remat_under_scan_under_jit(f, x):
    def total(x):
        step = jax.checkpoint(lambda carry, row: (carry + f(row * 1.5).mean(), None))
        return jax.lax.scan(step, 0.0, jnp.stack([x, x / 2]))[0]

    return jax.jit(jax.grad(total))(x)
