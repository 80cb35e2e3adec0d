"""Networks of torch as functions of JAX arrays, in what is fast with XLA on a CPU.

Images have their channels last, and convolutions are matrix products: the derivatives of
``jax.lax.conv`` take nine times as long on one core.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from torch import nn


def predict(net: nn.Sequential, params: list[jax.Array], x: jax.Array) -> jax.Array:
    """Return ``net(x)``, with ``params`` in place of ``net.parameters()``."""
    if x.ndim == 4:
        x = jnp.moveaxis(x, 1, -1)
    rest = iter(params)
    for layer in net:
        x = LAYERS[type(layer)](layer, x, *(next(rest) for _ in layer.parameters()))
    return x


def _linear(layer: nn.Linear, x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ weight.T + bias


def _convolution(layer: nn.Conv2d, x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
    assert layer.stride == (1, 1)
    sides = [(0, 0), *((pixels, pixels) for pixels in layer.padding), (0, 0)]
    x = jnp.pad(x, sides)
    rows, columns = layer.kernel_size
    height, width = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    shifted = [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    kernel = weight.transpose(2, 3, 1, 0).reshape(-1, layer.out_channels)
    return jnp.concatenate(shifted, -1) @ kernel + bias


def _normalization(
    layer: nn.BatchNorm2d, x: jax.Array, weight: jax.Array, bias: jax.Array
) -> jax.Array:
    mean, variance = (of(x, (0, 1, 2)) for of in (jnp.mean, jnp.var))
    return (x - mean) * jax.lax.rsqrt(variance + layer.eps) * weight + bias


def _pooling(layer: nn.MaxPool2d, x: jax.Array) -> jax.Array:
    # Maxima of slices, or of a reshaped array, have a wrong gradient once JAX 0.10.2 compiles them.
    window = (1, layer.kernel_size, layer.kernel_size, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, 'VALID')


def _flat(layer: nn.Flatten, x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1).reshape(len(x), -1)


LAYERS = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _normalization,
    nn.ReLU: lambda _, x: jax.nn.relu(x),
    nn.MaxPool2d: _pooling,
    nn.Flatten: _flat,
}
