"""
One training on several libraries
=================================

Libraries add in different orders, so after the first step a few weights differ in their last bit.
Training amplifies that. With exact numerics there is nothing to amplify.

``python docs/examples/plot_drift.py docs/pictures/drift.svg`` draws the picture of the README with
the libraries that are installed.
"""

import os
import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import backends
import kernels

# Exact numerics need float64 inside, which JAX has only where it is enabled.
os.environ["JAX_ENABLE_X64"] = "1"
images, labels = load_digits(return_X_y=True)
images, labels = images[:600], labels[:600]
STEPS = np.unique(np.geomspace(1, 300, 20).astype(int))


def weights(backend, numerics):
    """Train on the digits, and fetch the weights of the first layer after each of STEPS."""
    x, y = backend.asarray(images / 16, "float32"), backend.asarray(labels, "int64")
    layers = kernels.init((64, 32, 10), like=x)
    seen = []
    for steps in np.diff(STEPS, prepend=0):
        layers, _, _ = kernels.fit(
            layers,
            x,
            y,
            loss=kernels.softmax_cross_entropy,
            learning_rate=1.0,
            steps=int(steps),
            numerics=numerics,
            compile=backend.compile if backend.name.startswith(("jax", "mlx")) else None,
        )
        seen.append(backend.to_numpy(layers[0].weight))
    return np.stack(seen)


# %%
# Train with the same data, network and learning rate on every library that is installed.

NAMES = {"numpy": "NumPy", "torch:cpu": "PyTorch", "jax:cpu": "JAX", "mlx": "MLX"}
found = {title: backends.get(name) for name, title in NAMES.items() if name in backends.available()}
native, exact = (
    {title: weights(backend, numerics) for title, backend in found.items()}
    for numerics in (kernels.NATIVE, kernels.EXACT)
)


def drift(runs):
    """Find the largest difference of any weight to NumPy's, for each of STEPS."""
    return {
        title: np.max(np.abs(run - runs["NumPy"]), axis=(1, 2))
        for title, run in runs.items()
        if title != "NumPy"
    }


figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
for (title, values), marker in zip(drift(native).items(), "osv", strict=False):
    axes.plot(STEPS, values, marker=marker, ms=4, label=f"{title}, native")
for values in drift(exact).values():
    assert np.all(values == 0.0)
axes.plot(STEPS, 0.0 * STEPS, color="black", lw=2.5, label=f"exact: all {len(found)}, every bit")
axes.set_xscale("log")
axes.set_yscale("symlog", linthresh=1e-8)
axes.set_ylim(-4e-9, 1e-2)
axes.set_yticks([0, 1e-8, 1e-6, 1e-4, 1e-2])
axes.set(xlabel="step of training", ylabel="largest difference\nto NumPy's weights")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="upper left")
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], metadata={"Date": None})
plt.show()
