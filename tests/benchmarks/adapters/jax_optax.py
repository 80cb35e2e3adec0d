"""optax under jax.jit, batched by jax.vmap."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import torch

from adapters import LR, Adapter
from adapters.jax_layers import predict


class JaxOptax(Adapter):
    eps_roots = (1e-8,)

    def __init__(self, *, scan: bool = False) -> None:
        self._scan = scan

    def batched_meta_gradient(self, net, tasks, rule, eps_root, steps):
        jax.config.update('jax_enable_x64', tasks.x.dtype == torch.float64)
        optimizer = optax.adam(LR, eps_root=eps_root) if rule == 'adam' else optax.sgd(LR)
        start, tasks = jax.tree.map(
            lambda tensor: jnp.asarray(tensor.detach().numpy()),
            (list(net.parameters()), tuple(tasks)),
        )

        def loss(params, x, y):
            prediction = predict(net, params, x)
            if jnp.issubdtype(y.dtype, jnp.integer):
                return optax.softmax_cross_entropy_with_integer_labels(prediction, y).mean()
            return jnp.mean((prediction - y) ** 2)

        def outer_loss(params, x, y, outer_x, outer_y):
            def step(carry, _):
                params, state = carry
                updates, state = optimizer.update(jax.grad(loss)(params, x, y), state)
                return (optax.apply_updates(params, updates), state), None

            carry = params, optimizer.init(params)
            if self._scan:
                carry, _ = jax.lax.scan(step, carry, length=steps)
            else:
                for _ in range(steps):
                    carry, _ = step(carry, None)
            return loss(carry[0], outer_x, outer_y)

        def mean_loss(params, *tasks):
            return jax.vmap(outer_loss, (None, 0, 0, 0, 0))(params, *tasks).mean()

        meta_gradient = jax.jit(jax.grad(mean_loss))

        def run():
            # JAX returns before the computation is done.
            gradient = jax.block_until_ready(meta_gradient(start, *tasks))
            return [torch.from_dlpack(part) for part in gradient]

        return run
