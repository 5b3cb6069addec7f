"""`python -m benchmarks.folds`: what it scores, what it prints, and what it refuses."""

import importlib
import json

import pytest

for module in ("typer", "rich", "sklearn"):
    pytest.importorskip(module, reason="benchmarks of estimators need the extras bench, estimators")
folds = importlib.import_module("benchmarks.folds")


def test_command(capsys):
    """Both are scored on the same folds, and are about as good."""
    command = ["--data", "wine", "--solver", "lbfgs", "--seeds", "1"]
    assert folds.main([*command, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["data"], row["solver"]) == ("wine", "lbfgs")
    assert len(row["these"]) == len(row["scikit-learn"]) == 5
    assert all(score > 0.85 for name in ("these", "scikit-learn") for score in row[name])
    assert folds.main(command) == 0
    assert "wine  lbfgs   0.9" in capsys.readouterr().out


def test_refused(capsys):
    assert folds.main(["--data", "iris"]) == 2
    assert "expected --data to be digits or wine or" in capsys.readouterr().err
