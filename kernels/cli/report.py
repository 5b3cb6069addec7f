"""What a run did, as a table, JSON or a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from .problems import Preparation

if TYPE_CHECKING:
    from .backends import Found
    from .checkup import Checked
    from .verify import Verified

__all__ = [
    "Report",
    "as_json",
    "backends_table",
    "check_report",
    "duration",
    "make_table",
    "milestones",
    "model_table",
    "plot_losses",
    "print_table",
    "report_table",
    "verify_table",
]


# By their number in ONNX files.
_ONNX_DTYPES = {1: "float32", 7: "int64", 11: "float64"}


class Report(NamedTuple):
    """A training run.

    Attributes
    ----------
    problem, backend, device, version, dtype, numerics
        What was trained where, and the version of the array library.
    compiled
        Whether the step was compiled by the library's compiler.
    sizes
        Inputs, hidden units and outputs.
    samples
        How many were trained on.
    learning_rate, batch_size, seed
        Arguments of `kernels.fit`.
    resumed
        The file or folder that training started from.
    steps, steps_asked
        How many were done, and how many would have been without Ctrl-C.
    loss_name
        What the loss is.
    losses
        Some of the steps, from 1, and the loss of their batch before them.
    final_loss
        Over all training samples, after the last step.
    held_out
        The number of samples and their scores, or None.
    warm_up, warm_up_seconds, seconds_per_step
        How many of the first steps may have compiled something and the time they took together;
        the mean time of the others, None if a checkpoint had them all.
    digest
        `kernels.digest` of the weights.
    saved, plot
        Files written.
    preparation
        Of a user's own data.
    """

    problem: str
    backend: str
    device: str
    version: str
    dtype: str
    numerics: str
    compiled: bool
    sizes: tuple[int, ...]
    samples: int
    learning_rate: float
    batch_size: int | None
    seed: int
    resumed: str | None
    steps: int
    steps_asked: int
    loss_name: str
    losses: list[tuple[int, float | None]]
    final_loss: float
    held_out: dict[str, float] | None
    warm_up: int
    warm_up_seconds: float
    seconds_per_step: float | None
    digest: str
    saved: str | None
    plot: str | None
    preparation: Preparation | None


def as_json(report: Report) -> str:
    """Write a report as one JSON object."""
    preparation = report.preparation
    fields = report._asdict() | {
        "preparation": None if preparation is None else preparation._asdict()
    }
    return json.dumps(fields, indent=2, allow_nan=False)


def report_table(console: Console, report: Report) -> None:
    """Print a report: the loss on its way, then what there is to know about the run."""
    losses = make_table("step", f"{report.loss_name} before it")
    for step, loss in report.losses:
        losses.add_row(str(step), "not finite" if loss is None else f"{loss:.6g}")
    print_table(console, losses)
    console.print()
    # With labels this short a digest fits on a line of 80 characters.
    facts = make_table()
    for label, value in _facts(report):
        facts.add_row(label, value)
    print_table(console, facts)


def _facts(report: Report) -> Iterable[tuple[str, str]]:
    yield "problem", f"{report.problem}, {report.samples} training samples"
    yield "backend", report.backend
    yield "device", report.device
    yield "library", f"{report.backend.partition(':')[0]} {report.version}"
    yield "dtype", report.dtype
    yield "numerics", report.numerics + (", compiled" if report.compiled else "")
    yield "network", " > ".join(str(size) for size in report.sizes)
    batch = "all samples" if report.batch_size is None else f"batches of {report.batch_size}"
    of = "" if report.steps == report.steps_asked else f" of {report.steps_asked}"
    yield "steps", f"{report.steps}{of}, {batch}, learning rate {report.learning_rate:.4g}"
    yield "final loss", f"{report.final_loss:.6g}, {report.loss_name} over all training samples"
    if report.held_out is not None:
        yield "held out", _scores(report.held_out)
    first = "the first step" if report.warm_up == 1 else f"the first {report.warm_up} steps"
    warm_up = f" after {first} in {duration(report.warm_up_seconds)}" if report.warm_up else ""
    if report.seconds_per_step is not None:
        yield "time per step", f"{duration(report.seconds_per_step)}{warm_up}"
    yield "digest", report.digest
    for label, file in (("saved", report.saved), ("plot", report.plot)):
        if file is not None:
            yield label, file


def _scores(held_out: dict[str, float]) -> str:
    shown = {
        "accuracy": "accuracy {:.2%}",
        "r2": "R^2 {:.4f}",
        "rmse": "root mean squared error {:.4g}",
    }
    scores = [shown[name].format(value) for name, value in held_out.items() if name in shown]
    return f"{', '.join(scores)} on {held_out['samples']:.0f} samples"


def duration(seconds: float) -> str:
    """Write a time with three digits.

    Examples
    --------
    >>> duration(0.0012345)
    '1.23 ms'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def backends_table(console: Console, found: list[Found]) -> None:
    """Print what can run here, and below it why the rest cannot."""
    table = make_table("backend", "runs here", "version", "devices", "dtypes")
    for each in found:
        table.add_row(
            each.backend,
            "yes" if each.runs else "no",
            each.version or "",
            "\n".join(each.devices),
            ", ".join(each.dtypes),
        )
    print_table(console, table)
    notes = [(each.backend, note) for each in found for note in each.notes]
    if notes:
        console.print()
        reasons = make_table()
        for backend, note in notes:
            reasons.add_row(backend, note)
        print_table(console, reasons)


def verify_table(console: Console, rows: Sequence[Verified]) -> None:
    """Print what was trained where, and whether the digests are those expected."""
    table = make_table(
        "problem",
        "dtype",
        "backend",
        "device",
        "version",
        "mode",
        "steps",
        "per step",
        "digest",
        "result",
    )
    for row in rows:
        table.add_row(
            row.problem,
            row.dtype,
            row.backend,
            row.device,
            row.version,
            "compiled" if row.compiled else "eager",
            str(row.steps),
            "" if row.seconds_per_step is None else duration(row.seconds_per_step),
            "" if row.digest is None else row.digest[:12],
            row.result,
        )
    print_table(console, table)


def check_report(console: Console, checked: Checked) -> None:
    """Print what passed, what is in the way and in which program that shows."""
    facts = make_table()
    facts.add_row("namespace", checked.namespace)
    facts.add_row("version", checked.version)
    facts.add_row("device", checked.device or "the library's choice")
    print_table(console, facts)
    console.print()
    dtypes = tuple(dict.fromkeys(part.dtype for part in checked.parts))
    cells = {
        (each.part, each.dtype): each.result + (f": {each.function}" if each.function else "")
        for each in checked.parts
    }
    table = make_table("part", *dtypes)
    for part in dict.fromkeys(each.part for each in checked.parts):
        table.add_row(part, *(cells[part, dtype] for dtype in dtypes))
    print_table(console, table)
    for each in checked.differences:
        console.print()
        console.print(f"{each.function}: expected {each.expected}, got {each.got}.")
        console.print(f"First seen in {each.where}: {each.call}.")
        if each.program:
            console.print("This program shows it:")
        for line in each.program:
            console.print(f"    {line}", soft_wrap=True)
    console.print()
    if checked.flushes_subnormals:
        console.print("Subnormal numbers count as zero here, which changes no digest.")
    for dtype, digest in checked.digests.items():
        same = cells["committed digest", dtype] == "passed"
        verdict = "the committed one" if same else "not the committed one"
        console.print(f"Digest after {checked.steps} exact steps, {dtype}: {digest}, {verdict}.")


def model_table(console: Console, path: Path, model: Any) -> None:
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
    print_table(console, facts)


def milestones(losses: Any) -> list[tuple[int, float | None]]:
    """Choose the first step and each fifth of the way, as the tutorial prints; None if not finite.

    Parameters
    ----------
    losses
        A NumPy array of shape (steps,).

    Examples
    --------
    >>> import numpy as np
    >>> milestones(np.asarray([8.0, 4.0, 2.0, np.inf]))
    [(1, 8.0), (2, 4.0), (3, 2.0), (4, None)]
    """
    import numpy as np

    steps = sorted({1} | {max(1, round(len(losses) * i / 5)) for i in range(1, 6)})
    return [
        (step, float(losses[step - 1]) if np.isfinite(losses[step - 1]) else None) for step in steps
    ]


def plot_losses(path: Path, losses: Any, *, title: str, loss_name: str) -> None:
    """Draw the loss of every step into a file of a format that matplotlib knows by its suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, linewidth=0.8)
    if (losses > 0).all():
        axes.set_yscale("log")
    axes.set(title=title, xlabel="step", ylabel=f"{loss_name} of the batch")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def print_table(console: Console, table: Table) -> None:
    """Print a table without spaces at the ends of lines."""
    with console.capture() as captured:
        console.print(table)
    # Rich pads every cell to the width of its column.
    for line in captured.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def make_table(*headers: str) -> Table:
    """Make an empty table with these headers, or one of labels and texts."""
    table = Table(
        *headers, box=None, show_header=bool(headers), pad_edge=False, padding=(0, 2, 0, 0)
    )
    if not headers:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    return table
