"""What users write with NumPy's arrays, which mypy checks as well."""

from pathlib import Path

import numpy as np

import backends
import kernels
from kernels import Array, Compiler, Layer, Loss, Numerics


def weighted(
    prediction: Array, target: Array, *, numerics: Numerics = kernels.NATIVE
) -> tuple[Array, Array]:
    value, gradient = kernels.squared_error(prediction, target, numerics=numerics)
    return 2.0 * value, 2.0 * gradient


def test_arrays_of_numpy_are_arrays() -> None:
    x, y = np.ones((5, 3), dtype=np.float32), np.zeros(5, dtype=np.int64)
    layers: tuple[Layer, ...] = kernels.init((3, 4, 2), like=x)
    loss: Loss = weighted
    compile: Compiler = backends.get("numpy").compile
    layers, losses, _ = kernels.fit(
        layers, x, x[:, :2], learning_rate=0.1, steps=2, loss=loss, compile=compile
    )
    assert float(losses[-1]) > 0.0
    prediction = kernels.forward(layers, x)[-1]
    assert kernels.softmax_cross_entropy(prediction, y)[1].shape == (5, 2)
    own = (Layer(np.ones((3, 2)), np.zeros(2)),)
    assert kernels.forward(own, np.ones((5, 3)))[-1].dtype == np.float64


def test_packages_say_that_they_are_typed() -> None:
    for package in (kernels, backends):
        assert Path(str(package.__file__)).with_name("py.typed").exists()
