"""
A sum in a thousand orders
==========================

One element of a matrix product, with its terms summed in a thousand orders. Another library, number
of threads or memory layout changes the order in the same way.

``python docs/examples/plot_orders.py docs/pictures/orders.svg`` draws the picture of the page on
exact numerics.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

import kernels

rng = np.random.default_rng(1)
a, b = rng.standard_normal((2, 1000)).astype(np.float32)
true = np.dot(a.astype(np.float64), b.astype(np.float64))

sums = {"native": [], "exact": []}
for _ in range(1000):
    order = rng.permutation(1000)
    row, column = a[order][None, :], b[order][:, None]
    sums["native"].append(kernels.NATIVE.matmul(row, column)[0, 0])
    sums["exact"].append(kernels.EXACT.matmul(row, column)[0, 0])

# %%
# Native results spread over several neighbouring float32 numbers; the exact result is always the
# same.

unit = np.spacing(np.float32(true))
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for (name, values), color in zip(sums.items(), ("tab:orange", "black"), strict=True):
    offsets, counts = np.unique(np.round((values - true) / unit), return_counts=True)
    label = f"{name}: {len(np.unique(values))} different"
    axes.bar(offsets, counts, width=0.9 if name == "native" else 0.4, color=color, label=label)
assert len(set(sums["exact"])) == 1
axes.set(yscale="log", xlabel="error of the sum, in float32 units", ylabel="orders, of 1000")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], metadata={"Date": None})
plt.show()
