"""
A prediction that does not depend on the batch
==============================================

A server computes the predictions of several requests as one batch. With most libraries the bits of
one prediction then depend on the size of the batch.
"""

import matplotlib.pyplot as plt
import torch

import kernels

like = torch.zeros(0)
x = kernels.random.normal((32, 1000), seed=0, stream=2, like=like)
layers = kernels.init((1000, 100, 10), like=like)


def predict(x, numerics):
    """Compute the predictions of the network."""
    return kernels.forward(layers, x, numerics=numerics)[-1]


# %%
# Predict each sample alone, and all samples together.

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for numerics, name, marker in ((kernels.NATIVE, "native", "x"), (kernels.EXACT, "exact", ".")):
    together = predict(x, numerics)
    alone = torch.cat([predict(x[i : i + 1], numerics) for i in range(len(x))])
    same = int((together == alone).all(dim=1).sum())
    print(f"{name}: {same} of {len(x)} rows have the same bits")
    axes.plot((together - alone).abs().amax(dim=1), marker, label=name)
axes.set(xlabel="sample", ylabel="largest change\nof its prediction")
axes.legend(frameon=False)
plt.show()
