import jax
import jax.numpy as jnp
import optax

jax.config.update('jax_enable_x64', True)
x = jnp.array([[1.0, 2.0], [-0.5, 1.0], [0.3, -1.0]])
y = jnp.array([1.0, 0.0, -1.0])


def loss(params, x, y):
    return jnp.mean((x @ params['w'] + params['b'] - y) ** 2)


def outer_loss(rate):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, eps_root=1e-8))
    params = {'w': jnp.zeros(2), 'b': jnp.zeros(())}
    state = optimizer.init(params)
    for _ in range(5):
        grads = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return loss(params, x, y)


print(jax.grad(outer_loss)(0.1))
