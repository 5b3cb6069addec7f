"""
The same weights on three libraries
===================================

The tutorial's network, trained with NumPy, PyTorch and JAX, and the differences of its weights.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import torch

import kernels

# Exact numerics need float64 inside, which JAX has only where it is enabled.
jax.config.update("jax_enable_x64", True)

# An array of each library, and a compiler where single operations are slow.
LIBRARIES = {
    "NumPy": (np.zeros(0, "float32"), None),
    "PyTorch": (torch.zeros(0), None),
    "JAX": (jnp.zeros(0, "float32"), jax.jit),
}


def train(like, compile, numerics):
    """Train on random data with the library of the array `like`."""
    x = kernels.random.normal((64, 1000), seed=0, stream=2, like=like)
    layers = kernels.init((1000, 100, 10), like=like)
    options = {"learning_rate": 1e-4, "steps": 20, "numerics": numerics, "compile": compile}
    return kernels.fit(layers, x, x[:, :10], **options).layers


# %%
# White means that a weight is the same. The pictures show the first 200 of 1000 inputs.

figure, grid = plt.subplots(2, 2, figsize=(8, 4.2), layout="constrained", sharex=True, sharey=True)
for row, (numerics, name) in zip(
    grid, ((kernels.NATIVE, "native"), (kernels.EXACT, "exact")), strict=True
):
    trained = {title: train(*library, numerics) for title, library in LIBRARIES.items()}
    for title, layers in trained.items():
        print(f"{name}, {title:7}  digest {kernels.digest(layers)[:16]}")
    first, *others = ((title, np.asarray(layers[0].weight)) for title, layers in trained.items())
    for axes, (title, weight) in zip(row, others, strict=True):
        difference = (weight - first[1]).T
        image = axes.imshow(difference[:, :200], cmap="RdBu", vmin=-1e-8, vmax=1e-8, aspect="auto")
        share = np.mean(difference != 0)
        axes.set_title(f"{name}: {title} - {first[0]}, {share:.0%} differ", size=10)
figure.supxlabel("input")
figure.supylabel("hidden unit")
figure.colorbar(image, ax=grid, label="difference of the weights", shrink=0.8)
plt.show()
