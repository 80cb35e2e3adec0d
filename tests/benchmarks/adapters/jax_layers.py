"""Networks of torch as functions of JAX arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from torch import nn


def predict(net: nn.Sequential, params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Return ``net(x)``, with ``params`` in place of ``net.parameters()``."""
    rest = iter(params)
    for layer in net:
        x = LAYERS[type(layer)](layer, x, *(next(rest) for _ in layer.parameters()))
    return x


def _linear(layer: nn.Linear, x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ weight.T + bias


def _convolution(layer: nn.Conv2d, x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    padding = [(pixels, pixels) for pixels in layer.padding]
    return jax.lax.conv(x, weight, layer.stride, padding) + bias[:, None, None]


def _normalization(
    layer: nn.BatchNorm2d, x: jax.Array, weight: jax.Array, bias: jax.Array
) -> jax.Array:
    mean, variance = (of(x, (0, 2, 3), keepdims=True) for of in (jnp.mean, jnp.var))
    normal = (x - mean) * jax.lax.rsqrt(variance + layer.eps)
    return normal * weight[:, None, None] + bias[:, None, None]


def _pooling(layer: nn.MaxPool2d, x: jax.Array) -> jax.Array:
    window = (1, 1, layer.kernel_size, layer.kernel_size)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, 'VALID')


LAYERS = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _normalization,
    nn.ReLU: lambda _, x: jax.nn.relu(x),
    nn.MaxPool2d: _pooling,
    nn.Flatten: lambda _, x: x.reshape(len(x), -1),
}
