"""
Few samples of many features
============================

Sixty spectra of 1,841 numbers each are a wide matrix: nearly all the work of a training step is in
the first layer's weight. In dual form that weight is trained through coefficients of the sixty
samples. This is :doc:`the same algebra </dual>`, not an approximation.

The spectra are of coffee, from a file that chemotools ships.
"""

import time
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np

import kernels

data = files("chemotools") / "datasets" / "data"
spectra = np.loadtxt(data.joinpath("coffee_spectra.csv").open(), delimiter=",", skiprows=1)
names = np.loadtxt(data.joinpath("coffee_labels.csv").open(), dtype=str, skiprows=1)
countries, labels = np.unique(names, return_inverse=True)
x = (spectra - spectra.mean(axis=0)) / spectra.std(axis=0)
print(x.shape, *countries)

# %%
# The same network, trained in both forms.

layers = kernels.init((x.shape[1], 50, len(countries)), like=x)
settings = {
    "loss": kernels.softmax_cross_entropy,
    "optimizer": kernels.SGD(1e-3, momentum=0.9),
    "l2": 1e-4,
}
primal = kernels.fit(layers, x, labels, steps=300, dual=False, **settings)
dual = kernels.fit(layers, x, labels, steps=300, dual=True, **settings)
difference = max(
    float(np.max(np.abs(a.weight - b.weight)))
    for a, b in zip(primal.layers, dual.layers, strict=True)
)
print(f"loss {dual.losses[0]:.3f} -> {dual.losses[-1]:.3f}")
print(f"largest difference of any weight: {difference:.1e}")

# %%
# For each hidden unit a step in dual form takes n squared multiplications, however many features
# there are; in primal form it takes 2 n d. Below are the times of steps on the first d numbers of
# each spectrum, and on the spectra repeated n / 60 times.


def seconds(x, labels, in_dual, steps=50):
    """Time one step."""
    layers = kernels.init((x.shape[1], 50, len(countries)), like=x)
    begin = time.perf_counter()
    kernels.fit(layers, x, labels, steps=steps, dual=in_dual, **settings)
    return (time.perf_counter() - begin) / steps


features = [50, 100, 200, 400, 800, 1841]
copies = [1, 2, 4, 8, 16]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
for in_dual, label in ((False, "primal"), (True, "dual")):
    left.plot(
        features,
        [1e6 * seconds(np.ascontiguousarray(x[:, :d]), labels, in_dual) for d in features],
        "o-",
        label=label,
    )
    right.plot(
        [60 * k for k in copies],
        [1e6 * seconds(np.tile(x, (k, 1)), np.tile(labels, k), in_dual) for k in copies],
        "o-",
    )
left.set(xlabel="features, of 60 samples", ylabel="microseconds a step", xscale="log", yscale="log")
right.set(xlabel="samples, of 1,841 features", xscale="log", yscale="log")
left.legend()
plt.show()
