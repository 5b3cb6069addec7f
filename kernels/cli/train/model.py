"""A trained network with what it takes to predict: one safetensors file, which runs no code.

The texts of the file, beside the seal of `kernels.storage`, say how the network was trained, and
what is to be done to new rows before it sees them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ... import activations
from ..._host import dtype_name
from ...activations import Activation
from ...digest import digest
from ...layer import Layer
from ...storage import layers_of, read_tensors, tensors_of, write_tensors
from ..common import NUMERICS, CliError
from ..data.preparation import Preparation, from_json, to_json, width
from .targets import LOSSES

__all__ = ["Model", "read_model", "save_model"]

# Of the texts. Another number is of a program that this one cannot know.
_VERSION = "1"

_DTYPES = {"F32": "float32", "F64": "float64"}


class Model(NamedTuple):
    """A network, and what is known of it.

    Attributes
    ----------
    layers
        The network.
    activation
        Between the layers, one of `kernels.activations` by its name.
    loss
        One of `LOSSES` by its name, or None in a file of `kernels.save` or of an older version.
    numerics
        One of `NUMERICS` by its name, or None likewise.
    preparation
        Of rows, or None if the network takes them as they are.
    """

    layers: tuple[Layer, ...]
    activation: str
    loss: str | None = None
    numerics: str | None = None
    preparation: Preparation | None = None

    @property
    def dtype(self) -> str:
        """Name the dtype of the network."""
        return dtype_name(self.layers[0].weight)

    @property
    def function(self) -> Activation:
        """Find the activation."""
        found: Activation = getattr(activations, self.activation)
        return found


def save_model(path: Path, model: Model) -> None:
    """Write a model, whose arrays may be of any library; raise OSError if that fails."""
    assert model.loss is not None
    assert model.numerics is not None
    texts = {
        "model_version": _VERSION,
        "activation": model.activation,
        "loss": model.loss,
        "numerics": model.numerics,
        "digest": digest(model.layers),
    }
    if model.preparation is not None:
        texts["preparation"] = to_json(model.preparation)
    write_tensors(path, tensors_of(model.layers), texts)


def read_model(path: Path) -> Model:
    """Read what `save_model` or `kernels.save` wrote, as arrays of NumPy.

    Raises
    ------
    CliError
        If there is no such file, or if it is damaged, of another version or no network.
    """
    import numpy as np

    try:
        tensors, texts = read_tensors(path)
        version = texts.get("model_version", _VERSION)
        if version != _VERSION:
            raise CliError(
                f"expected a model of version {_VERSION}, which this program knows, got version "
                f"{version} in {path}"
            )
        kind = tensors.get("layers.0.weight", {"dtype": "F32"})["dtype"]
        layers = layers_of(tensors, path, like=np.zeros(0, _DTYPES.get(kind, "float32")))
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CliError(str(error).splitlines()[0]) from error
    activation = texts.get("activation", "relu")
    if not isinstance(getattr(activations, activation, None), Activation):
        raise CliError(f"expected one of the activations in {path}, got {activation!r}")
    if "model_version" not in texts:
        return Model(layers, activation)
    return _described(path, Model(layers, activation), texts)


def _described(path: Path, model: Model, texts: dict[str, str]) -> Model:
    """Put in what the texts say; raise `CliError` if they are not those of `save_model`."""
    if texts.get("digest") != digest(model.layers):
        raise CliError(f"expected the network that its digest is of, got another in {path}")
    for name, known in (("loss", LOSSES), ("numerics", NUMERICS)):
        if texts.get(name) not in known:
            raise CliError(
                f"expected a {name} of {' or '.join(known)} in {path}, got {texts.get(name)!r}"
            )
    preparation = None
    if "preparation" in texts:
        try:
            preparation = from_json(texts["preparation"])
        except ValueError as error:
            raise CliError(f"{error} in {path}") from error
        inputs = model.layers[0].weight.shape[0]
        if width(preparation) != inputs:
            raise CliError(
                f"expected a preparation for {inputs} inputs, as the network has, got one for "
                f"{width(preparation)} in {path}"
            )
    return model._replace(loss=texts["loss"], numerics=texts["numerics"], preparation=preparation)
