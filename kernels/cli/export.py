"""`python -m kernels export`: a saved network, or a step of its training, as an ONNX model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .._typing import Array
from ..losses import Loss, softmax_cross_entropy, squared_error
from .common import (
    NUMERICS,
    CliError,
    as_cli_error,
    check_output,
    choose,
    console,
    is_same,
    require,
)
from .data.sheet import listed
from .tables import make_table, print_table
from .traced import after_of, before_of
from .train.model import Model, read_model

__all__ = ["export"]

WHAT = ("forward", "step")
# By the numbers that ONNX has for them.
_ONNX_DTYPES = {1: "float32", 7: "int64", 11: "float64"}

LOSSES: dict[str, Loss] = {
    "squared_error": squared_error,
    "softmax_cross_entropy": softmax_cross_entropy,
}


def export(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="The file to write.", readable=False)
    ],
    network: Annotated[Path, typer.Option(help="The network: a FILE that `train --save` wrote.")],
    what: Annotated[
        str,
        typer.Option(
            help="forward: the prediction, with the weights inside the model. step: a step of "
            "training, which takes weights and returns new ones."
        ),
    ] = "forward",
    numerics: Annotated[
        str | None,
        typer.Option(
            help="native: the library's own arithmetic. exact: the same bits everywhere. "
            "Default: as trained."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(help=f"Loss of a step: {' or '.join(LOSSES)}. Default: squared_error."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of a step, which needs it; it is inside the model."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Samples of a step, which needs it; a prediction takes any number.", min=1
        ),
    ] = None,
) -> None:
    """Write a saved network, or a step of its training, as an ONNX model.

    ndonnx traces the kernel; with exact numerics the model gives the kernel's bits in onnxruntime.

    A prediction prepares columns of numbers and dates by itself. For a network with columns of text
    it takes features that are prepared already.
    """
    # Everything that can be wrong is found before anything is computed or written.
    choose("--what", what, WHAT)
    if numerics is not None:
        choose("--numerics", numerics, tuple(NUMERICS))
    of_a_step = {"--loss": loss, "--learning-rate": learning_rate, "--batch-size": batch_size}
    _check_step(what, of_a_step)
    require("numpy", "export")
    require("safetensors", "export")
    for module in ("ndonnx", "onnxruntime"):
        require(module, "export", extra="ndonnx")
    check_output("the model", model, in_place=True)
    if is_same(model, network):
        raise CliError(f"expected the model to be a file of its own, got {model}")
    source = read_model(network)
    layers, activation = source.layers, source.function
    # A file of `kernels.save` does not say how it was trained.
    numerics = numerics or source.numerics or "native"

    from backends.export.onnx import forward_model, step_model

    before = None

    # Exact numerics limit the terms of a sum, and ONNX the size of a file.
    with (
        Console(stderr=True).status("Tracing the kernel; exact numerics take a minute"),
        as_cli_error(ValueError),
    ):
        if what == "forward":
            before = before_of(source)
            made = forward_model(
                layers,
                activation=activation,
                numerics=NUMERICS[numerics],
                before=before,
                after=after_of(source, NUMERICS[numerics]),
            )
        else:
            assert learning_rate is not None
            assert batch_size is not None
            made = step_model(
                layers,
                batch_size=batch_size,
                learning_rate=learning_rate,
                loss=LOSSES[loss or "squared_error"],
                activation=activation,
                numerics=NUMERICS[numerics],
            )
    with as_cli_error(OSError, prefix=f"cannot write {model}: ", status=1):
        model.write_bytes(made.SerializeToString())
    _print_model(console(), model, made, {"numerics": numerics} | _meaning(source, before))


def _check_step(what: str, options: dict[str, Any]) -> None:
    """Raise `CliError` unless a step has what it needs, and a prediction has none of it."""
    if what != "step":
        for option, value in options.items():
            if value is not None:
                raise CliError(f"{option} needs --what step")
        return
    choose("--loss", options["--loss"] or "squared_error", tuple(LOSSES))
    for option in ("--learning-rate", "--batch-size"):
        if options[option] is None:
            raise CliError(f"--what step needs {option}")
    rate = options["--learning-rate"]
    if not 0.0 < rate < math.inf:
        raise CliError(f"expected a positive --learning-rate, got {rate}")


def _meaning(source: Model, before: Callable[[Array], Array] | None) -> dict[str, str]:
    """Say what the columns of x are, and the classes of the outputs."""
    if source.preparation is None:
        return {}
    columns, classes = source.preparation.columns, source.preparation.target.classes
    names = listed([column.name for column in columns])
    said = {"x": f"prepared features, as `predict` makes them of the columns {names}"}
    if before is not None:
        said = {"x": f"the columns {names}, with NaN for empty cells"}
        if any(column.kind == "date" for column in columns):
            said["dates"] = "days since 1970"
    return said | ({"classes": listed(list(classes))} if classes else {})


def _print_model(console: Console, path: Path, model: Any, meaning: dict[str, str]) -> None:
    """Print what an ONNX model takes and gives."""
    facts = make_table()
    facts.add_row("model", str(path))
    facts.add_row("opset", ", ".join(str(opset.version) for opset in model.opset_import))
    facts.add_row("nodes", str(len(model.graph.node)))
    for label, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            shape = ", ".join(str(size.dim_param or size.dim_value) for size in tensor.shape.dim)
            facts.add_row(label, f"{value.name} {_ONNX_DTYPES[tensor.elem_type]} ({shape})")
    for label, text in meaning.items():
        facts.add_row(label, text)
    print_table(console, facts)
