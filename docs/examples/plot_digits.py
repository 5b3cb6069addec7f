"""
Train on handwritten digits
===========================

The data are NumPy arrays, so NumPy computes everything: the kernel takes the library from its
arguments.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import kernels

images, labels = load_digits(return_X_y=True)
x = images.astype(np.float32) / 16
train, test = slice(0, 1400), slice(1400, None)

# %%
# ``init`` draws the weights, ``fit`` trains them in minibatches and returns the loss before each
# step.

layers = kernels.init((64, 50, 10), like=x)
fit = kernels.fit(
    layers,
    x[train],
    labels[train],
    loss=kernels.softmax_cross_entropy,
    learning_rate=0.5,
    epochs=20,
    batch_size=64,
)

# %%
# The last of the activations is the prediction: a number for each class. The class with the largest
# number is the network's answer. Below are the losses, and the first held-out digits with their
# answers; wrong ones are red.

answers = kernels.forward(fit.layers, x[test])[-1].argmax(axis=1)
right = answers == labels[test]
print(f"accuracy on {right.size} held-out digits: {right.mean():.1%}")

figure = plt.figure(figsize=(9, 3.2), layout="constrained")
left, grid = figure.subfigures(1, 2)
axes = left.subplots()
axes.semilogy(fit.losses)
axes.set(xlabel="step", ylabel="mean cross-entropy")
for i, axes in enumerate(grid.subplots(4, 8).flat):
    axes.imshow(x[test][i].reshape(8, 8), cmap="gray_r")
    axes.set_title(answers[i], size=9, color="black" if right[i] else "red", pad=2)
    axes.axis("off")
plt.show()
