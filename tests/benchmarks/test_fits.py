"""`python -m benchmarks.fits`: what it fits, what it prints, and what it refuses."""

import importlib
import json

import numpy as np
import pytest

for module in ("typer", "rich", "sklearn"):
    pytest.importorskip(module, reason="benchmarks of estimators need the extras bench, estimators")
fits = importlib.import_module("benchmarks.fits")


@pytest.fixture
def small(monkeypatch):
    def make():
        x = np.random.default_rng(0).standard_normal((20, 3))
        return x, x[:, 0] > 0

    settings = {"solver": "adam", "max_iter": 2, "hidden_layer_sizes": 4}
    monkeypatch.setitem(fits.FITS, "digits-adam", fits.Fit("MLPClassifier", make, settings))


def test_command(small, capsys):
    """Each program once in each round, and ratios to scikit-learn's."""
    command = ["--case", "digits-adam", "--rounds", "1"]
    assert fits.main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["program"] for row in rows] == ["scikit-learn", "native", "exact"]
    assert {row["epochs"] for row in rows} == {2}
    assert rows[0]["ratio"]["median"] == 1.0
    assert fits.main(command) == 0
    assert "/ scikit-learn" in capsys.readouterr().out


def test_refused(small, capsys):
    assert fits.main(["--case", "iris"]) == 2
    assert "expected --case to be digits-sgd or" in capsys.readouterr().err
