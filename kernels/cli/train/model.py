"""A trained network with what prediction needs: one safetensors file, which runs no code.

The texts of the file, besides the hash of `kernels.storage`, say how the network was trained, and
how new rows are prepared for it.
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
from ..data.preparation import Column, Preparation, Target, from_json, to_json, width
from ..data.sheet import listed
from .targets import LOSSES

__all__ = ["Model", "check_resumed", "read_model", "save_model"]

# The version of the texts. A file with another was written by a later program.
_VERSION = "1"

_DTYPES = {"F32": "float32", "F64": "float64"}


class Model(NamedTuple):
    """A network, and what is known of it.

    Attributes
    ----------
    layers
        The network.
    activation
        The name of one of `kernels.activations`, between the layers.
    loss
        The name of one of `LOSSES`; None in a file of `kernels.save` or of an older version.
    numerics
        The name of one of `NUMERICS`; None likewise.
    preparation
        What is done to rows, or None if the network takes them as they are.
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
        If there is no such file, or it is damaged, of another version or not a network.
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
    """Add what the texts say; raise `CliError` if `save_model` did not write them."""
    if texts.get("digest") != digest(model.layers):
        raise CliError(f"expected a network that fits its digest, got another in {path}")
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
        _check_outputs(path, model, texts["loss"], preparation.target)
    return model._replace(loss=texts["loss"], numerics=texts["numerics"], preparation=preparation)


def _check_outputs(path: Path, model: Model, loss: str, target: Target) -> None:
    """Raise `CliError` unless the network has the outputs that its loss takes of the target."""
    outputs, classes = model.layers[-1].weight.shape[1], len(target.classes)
    # How many classes, and scales of numbers, there may be.
    known: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "squared_error": ((0,), (0, outputs)),
        "softmax_cross_entropy": ((outputs,), (0,)),
        "logistic_cross_entropy": ((0, 2) if outputs == 1 else (0,), (0,)),
        "poisson": ((0,), (0,)),
    }
    if classes not in known[loss][0] or len(target.mean) not in known[loss][1]:
        raise CliError(
            f"expected a target for {outputs} outputs and {loss}, as the network has, got one of "
            f"{classes} classes and {len(target.mean)} scales in {path}"
        )


def check_resumed(path: Path, model: Model, loss: str, now: Preparation | None) -> list[str]:
    """Check that data have the inputs and outputs of the model that training goes on from.

    Returns
    -------
    list of str
        The columns that are scaled differently, since other rows are trained on.

    Raises
    ------
    CliError
        If inputs, outputs or loss differ.
    """

    def refuse(expected: str, got: str) -> None:
        raise CliError(f"expected {expected}, as the network in {path} has, got {got}")

    if model.loss not in (None, loss):
        refuse(f"the loss {model.loss}", loss)
    before = model.preparation
    if before is None:
        return []
    if now is None:
        refuse("a file of columns", "data that are taken as they are")
        return []
    names, others = ([column.name for column in each.columns] for each in (before, now))
    for name in names:
        if name not in others:
            why = dict(now.dropped).get(name)
            refuse(f"a column {name!r}", "none" if why is None else f"one that is dropped: {why}")
    for name in others:
        if name not in names:
            refuse(f"no column {name!r}", "one")
    if names != others:
        refuse(f"columns in the order {listed(names)}", listed(others))
    for old, new in zip(before.columns, now.columns, strict=True):
        if _inputs(old) != _inputs(new):
            refuse(f"{old.name!r} to be {_inputs(old)}", _inputs(new))
    if _outputs(before.target) != _outputs(now.target):
        refuse(f"the target {_outputs(before.target)}", _outputs(now.target))
    pairs = zip(before.columns, now.columns, strict=True)
    scaled = [old.name for old, new in pairs if old != new]
    return [*scaled, *([now.target.name] if before.target != now.target else [])]


def _inputs(column: Column) -> str:
    """Say what inputs a column makes."""
    if column.kind != "category":
        return f"a {column.kind}"
    return f"the categories {listed(list(column.categories))}"


def _outputs(target: Target) -> str:
    return f"{target.name!r}" + (f" of {listed(list(target.classes))}" if target.classes else "")
