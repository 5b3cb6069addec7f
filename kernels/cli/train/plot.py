"""A run as a figure: the loss of every step, and predictions for the samples held out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .running import Scores

__all__ = ["draw"]

# A confusion matrix of more classes cannot be read, and of far more does not fit in memory.
_MOST_CLASSES = 100

# Up to so many classes there is room for the number in each cell and for names.
_MOST_NAMES = 20

# Characters.
_LONGEST_TITLE, _LONGEST_NAME = 80, 20


def draw(
    path: Path,
    losses: Any,
    scores: Scores,
    classes: tuple[str, ...],
    *,
    title: str,
    loss_name: str,
) -> None:
    """Draw into a file of a format that matplotlib knows by its suffix.

    Beside the losses it shows, for the samples held out, a confusion matrix of classes, or
    predicted against true numbers.

    Parameters
    ----------
    path
        The file.
    losses
        The loss before each step, a NumPy array of shape (steps,).
    scores
        With the predictions for the samples held out, if any were.
    classes
        The label of each class; empty for labels in several columns, and for numbers.
    title, loss_name
        What was trained, and what the loss is.
    """
    from matplotlib.figure import Figure

    held_out = scores.target is not None and len(classes) <= _MOST_CLASSES
    panels = 2 if held_out else 1
    figure = Figure(figsize=(6.4 * panels, 4.0 if panels == 1 else 5.0), layout="constrained")
    figure.suptitle(_plain(title, _LONGEST_TITLE))
    left, *rest = figure.subplots(1, panels, squeeze=False)[0]
    _draw_losses(left, losses, loss_name)
    for right in rest:
        if scores.target.dtype.kind == "f":
            _draw_numbers(right, scores.target, scores.predicted)
        else:
            _draw_classes(right, scores.target, scores.predicted, classes or ("0", "1"))
        right.set_title(f"{len(scores.target)} samples held out")
    figure.savefig(path, dpi=150)


def _draw_losses(axes: Any, losses: Any, loss_name: str) -> None:
    axes.plot(range(1, len(losses) + 1), losses, linewidth=0.8)
    if (losses > 0).all():
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=f"{loss_name} of the batch")
    axes.grid(alpha=0.3)


def _draw_classes(axes: Any, target: Any, predicted: Any, classes: tuple[str, ...]) -> None:
    """Draw a confusion matrix; labels in several columns are counted together."""
    from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

    counts = confusion_matrix(target.ravel(), predicted.ravel(), labels=range(len(classes)))
    shown = len(classes) <= _MOST_NAMES
    display = ConfusionMatrixDisplay(
        counts, display_labels=[_plain(label, _LONGEST_NAME) for label in classes]
    )
    long = max(map(len, classes)) > 3
    display.plot(
        ax=axes,
        include_values=shown,
        cmap="Blues",
        colorbar=not shown,
        xticks_rotation="vertical" if long else "horizontal",
    )
    if not shown:
        axes.set(xticks=[], yticks=[])


def _plain(text: str, longest: int) -> str:
    """Cut a long text, and keep matplotlib from taking it for a formula."""
    cut = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return cut.replace("$", r"\$")


def _draw_numbers(axes: Any, target: Any, predicted: Any) -> None:
    """Draw predicted against true numbers, all targets together."""
    from sklearn.metrics import PredictionErrorDisplay

    # Rasterized, since a vector file would have a shape for every sample.
    points = {"s": 12, "alpha": 0.5, "rasterized": True}
    display = PredictionErrorDisplay(y_true=target.ravel(), y_pred=predicted.ravel())
    display.plot(ax=axes, kind="actual_vs_predicted", scatter_kwargs=points)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(alpha=0.3)
