"""
Any array library
=================

A program that names no library runs on every library that follows the standard, whether or not this
package knows it.
"""

import array_api_strict
import matplotlib.pyplot as plt
import numpy as np
import torch

import kernels


def fit_sine(xp):
    """Fit a sine with the array library whose namespace `xp` is."""
    x = xp.reshape(xp.linspace(-1, 1, 101, dtype=xp.float32), (-1, 1))
    y = xp.sin(3 * x)
    layers = kernels.init((1, 50, 1), like=x)
    layers = kernels.fit(layers, x, y, learning_rate=1e-3, steps=1000).layers
    return x, y, kernels.forward(layers, x)[-1]


# %%
# ``array_api_strict`` has only what the standard promises, so a program that runs on it relies on
# nothing else.

figure, grid = plt.subplots(1, 3, figsize=(9, 3), layout="constrained", sharey=True)
for axes, xp in zip(grid, (np, torch, array_api_strict), strict=True):
    x, y, prediction = (np.asarray(a) for a in fit_sine(xp))
    axes.plot(x, y, color="0.7", lw=5, label="target")
    axes.plot(x, prediction, label="prediction")
    axes.set(title=xp.__name__, xlabel="x")
grid[0].legend(frameon=False)
plt.show()
