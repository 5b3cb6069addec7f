"""
A loss of your own
==================

A loss is a function that returns its value and its gradient. The Huber loss is quadratic near zero
and linear far away, so a few outliers count for less.
"""

import matplotlib.pyplot as plt
import numpy as np

import kernels


def huber(prediction, target, *, numerics):
    """Sum d**2 / 2 where abs(d) <= 1, and abs(d) - 1 / 2 elsewhere."""
    difference = numerics.subtract(prediction, target)
    gradient = np.clip(difference, -1.0, 1.0)
    rest = numerics.subtract(difference, 0.5 * gradient)
    value = numerics.sum(numerics.multiply(gradient, rest), axis=0)
    return value[0], gradient


# %%
# Arithmetic that rounds goes through ``numerics``, so the loss works with exact numerics as well.
# ``np.clip`` and a factor of 0.5 round nothing.

rng = np.random.default_rng(0)
x = np.linspace(-1, 1, 100)[:, None]
y = np.abs(x) + 0.05 * rng.standard_normal(x.shape)
y[rng.choice(100, 12, replace=False)] += 3.0

figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot(x, y, ".", color="0.6", label="samples, with 12 outliers")
for loss, rate in ((kernels.squared_error, 1e-3), (huber, 2e-3)):
    layers = kernels.init((1, 30, 1), like=x, seed=1)
    fit = kernels.fit(
        layers, x, y, learning_rate=rate, steps=800, loss=loss, numerics=kernels.EXACT
    )
    print(f"{loss.__name__:14} {kernels.digest(fit.layers)[:16]}")
    axes.plot(x, kernels.forward(fit.layers, x)[-1], label=loss.__name__)
axes.legend(frameon=False)
plt.show()
