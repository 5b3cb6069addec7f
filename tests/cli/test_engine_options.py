"""Mistakes in the options of an engine, found before anything is started."""

import sys

import pytest

pytest.importorskip("typer", reason="the command line needs array-api-kernels[cli]")
pytest.importorskip("rich", reason="the command line needs array-api-kernels[cli]")
from kernels.__main__ import main


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 3", "--workers needs --engine"),
        ("--engine abacus", "expected --engine to be torch or jax or dask, got 'abacus'"),
        ("--engine jax --workers 0", "expected --workers of 1 or more, got 0"),
        ("--engine jax --backend torch", "--engine jax needs --backend jax, got torch"),
        (
            "--engine torch --compile",
            "--engine torch has arrays that --compile cannot compile",
        ),
        (
            "--engine jax --scheduler tcp://a:1",
            "--scheduler needs --engine dask, got jax",
        ),
        (
            "--scheduler tcp://a:1",
            "--scheduler needs --engine dask",
        ),
    ],
)
def test_mistake(options, message, capsys):
    assert main(["train", *options.split()]) == 2
    assert capsys.readouterr() == ("", f"Error: {message}.\n")


@pytest.mark.parametrize(
    ("engine", "library"), [("torch", "PyTorch"), ("jax", "JAX"), ("dask", "Dask")]
)
def test_engine_that_is_not_installed(engine, library, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == engine]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, engine, None)
    assert main(["train", "--engine", engine, "--workers", "2"]) == 2
    message = f'{library} is not installed: pip install "array-api-kernels[{engine}]"'
    assert capsys.readouterr() == ("", f"Error: {message}\n")
