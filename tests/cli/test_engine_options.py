"""Mistakes in the options of an engine, found before anything is started."""

import sys

import pytest

pytest.importorskip("typer", reason="the command line needs array-api-kernels[cli]")
pytest.importorskip("rich", reason="the command line needs array-api-kernels[cli]")
from kernels.__main__ import main
from kernels.cli.train.settings import Options, Settings, with_engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 3", "--workers needs --engine"),
        ("--engine abacus", "expected --engine to be torch or jax or dask, got 'abacus'"),
        ("--engine jax --workers 0", "expected --workers of 1 or more, got 0"),
        ("--engine jax --backend torch", "--engine jax needs --backend jax, got torch"),
        (
            "--engine dask --compile",
            "--engine dask has arrays that --compile cannot compile",
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


@pytest.mark.parametrize("engine", ["torch", "jax", "dask"])
@pytest.mark.parametrize("before", ["jax:cpu", "torch:cpu", "dask", "numpy"])
@pytest.mark.parametrize("compile", [False, True])
def test_any_engine_goes_on_with_what_another_began(engine, before, compile):
    """Only JAX's always compiles; torch's does so if it did before."""
    found = with_engine(Settings(backend=before, compile=compile), Options(engine=engine))
    again = compile and before == "torch:cpu" == f"{engine}:cpu"
    assert found.compile == (engine == "jax" or again)
    assert found.backend == engine


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
