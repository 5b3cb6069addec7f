"""`train --plot`: what stands in the figure beside the losses."""

import importlib

import numpy as np
import pytest

from kernels.__main__ import main

for module in ("typer", "rich", "matplotlib", "sklearn"):
    pytest.importorskip(module, reason="the command line needs array-api-kernels[cli]")
Figure = importlib.import_module("matplotlib.figure").Figure
plot, running = (
    importlib.import_module(f"kernels.cli.train.{name}") for name in ("plot", "running")
)

LOSSES = np.asarray([4.0, 2.0, 1.0])


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """(target, predicted, classes) -> the axes of a figure that was written."""
    figures = []
    save = Figure.savefig

    def savefig(figure, path, **settings):
        figures.append(figure)
        save(figure, path, **settings | {"dpi": 30})

    monkeypatch.setattr(Figure, "savefig", savefig)

    def draw(target, predicted, classes=(), losses=LOSSES):
        path, scores = tmp_path / "p.png", running.Scores(1.0, {}, predicted, target)
        plot.draw(path, losses, scores, classes, title="$x$ on numpy", loss_name="loss")
        assert path.read_bytes().startswith(b"\x89PNG")
        return figures[-1].axes

    return draw


def test_losses_alone_where_nothing_is_held_out(draw):
    (axes,) = draw(None, None)
    assert axes.lines[0].get_xydata().tolist() == [[1, 4], [2, 2], [3, 1]]
    assert axes.get_yscale() == "log"
    (axes,) = draw(None, None, losses=LOSSES - 2.0)
    assert axes.get_yscale() == "linear"


def test_a_confusion_matrix_of_classes(draw):
    target, predicted = np.asarray([0, 1, 1, 2]), np.asarray([0, 1, 2, 2])
    classes = ("$1", "$2$", "three, which is a long name")
    _, axes = draw(target, predicted, classes)
    (picture,) = axes.images
    assert picture.get_array().tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    names = [r"\$1", r"\$2\$", "three, which is a..."]
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert axes.get_title() == "4 samples held out"
    assert len(axes.texts) == 9


def test_labels_in_several_columns_are_counted_together(draw):
    _, axes = draw(np.asarray([[0, 1], [1, 1]]), np.asarray([[0, 1], [0, 1]]))
    assert axes.images[0].get_array().tolist() == [[1, 0], [1, 2]]


def test_many_classes(draw):
    """Without numbers, and of very many none."""
    n = plot._MOST_NAMES + 1
    axes = draw(np.arange(n), np.arange(n), tuple(map(str, range(n))))
    assert axes[1].images[0].get_array().tolist() == np.eye(n).tolist()
    assert not axes[1].texts
    assert len(draw(np.arange(2), np.arange(2), ("a",) * (plot._MOST_CLASSES + 1))) == 1


def test_numbers_against_what_is_true(draw):
    target, predicted = np.asarray([[1.0], [2.0]]), np.asarray([[1.5], [2.5]])
    _, axes = draw(target, predicted)
    assert axes.collections[0].get_offsets().tolist() == [[1.5, 1.0], [2.5, 2.0]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_numbers_have_the_unit_of_the_file(tmp_path, monkeypatch, capsys):
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(tmp_path / "d.npz", x=x, y=1000.0 + 100.0 * x[:, 0])
    seen = []
    monkeypatch.setattr("kernels.cli.train.command.draw", lambda *given, **_: seen.append(given))
    options = ("--data", tmp_path / "d.npz", "--target", "y", "--plot", tmp_path / "p.png")
    assert main(["train", *map(str, options)]) == 0
    capsys.readouterr()
    ((_, losses, scores, classes),) = seen
    assert len(losses) == 100
    assert classes == ()
    true = np.sort(scores.target[:, 0])
    assert np.isin(np.round(true, 3), np.round(1000.0 + 100.0 * x[:, 0], 3)).all()
    rmse = np.sqrt(np.mean((scores.predicted - scores.target) ** 2))
    assert scores.held_out["rmse"] == pytest.approx(rmse, rel=1e-6)
