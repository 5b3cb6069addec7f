"""
A number cut into slices
========================

Exact numerics cut each number of a matrix into slices of a few bits, so that sums of products of
slices never round. The picture shows which bits of four numbers each slice holds.

``python docs/examples/plot_slices.py docs/pictures/slices.svg`` draws the picture of the page on
exact numerics.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np

import kernels

a = np.asarray([[7.3146, -0.0562, 3.0e-4, 2.7183]])
operand = kernels.EXACT.prepare(a)
# The second slice has the other sign.
slices = [sign * slice_[0] for sign, slice_ in zip((1, -1, 1), operand.slices, strict=True)]
print("left out:", a[0] - sum(slices))

# %%
# Each bar is a bit that is 1. The slices of all numbers of a row have the same places, which depend
# on the largest number. Each slice has its own sign.

HIGHEST, LOWEST = 3, -54
places = np.arange(HIGHEST, LOWEST, -1)
figure, grid = plt.subplots(a.size, 1, figsize=(8, 3.2), layout="constrained", sharex=True)
for axes, number, *parts in zip(grid, a[0], *slices, strict=True):
    for i, part in enumerate(parts):
        bits = np.floor(abs(part) * 2.0**-places) % 2
        axes.bar(places[bits == 1], 1, width=0.9, color=f"C{i}", label=f"slice {i}")
    axes.set_ylabel(f"{number:g}", rotation=0, ha="right", va="center")
    axes.set(yticks=[], xlim=(HIGHEST + 1, LOWEST), ylim=(0, 1))
    axes.spines[["top", "right", "left"]].set_visible(False)
axes.set_xlabel("place of the bit: 2 to the power of")
grid[0].legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], metadata={"Date": None})
plt.show()
