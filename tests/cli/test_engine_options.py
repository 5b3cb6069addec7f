"""Mistakes in the options of an engine, found before anything is started."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from _team import by_team

import backends
import kernels
from backends.workers import ENGINES, Workers

pytest.importorskip("typer", reason="the command line needs array-api-kernels[cli]")
pytest.importorskip("rich", reason="the command line needs array-api-kernels[cli]")
from kernels.__main__ import main
from kernels.cli.common import CliError
from kernels.cli.train import workers
from kernels.cli.train.job import Job
from kernels.cli.train.settings import Options, Settings, with_engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 3", "--workers needs --engine"),
        ("--engine abacus", "expected --engine to be torch or jax or dask or mpi, got 'abacus'"),
        ("--engine jax --workers 0", "expected --workers of 1 or more, got 0"),
        ("--engine mpi --backend torch", "--engine mpi needs --backend numpy, got torch"),
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


@pytest.mark.parametrize("engine", ["torch", "jax", "dask", "mpi"])
@pytest.mark.parametrize("before", ["jax:cpu", "torch:cpu", "dask", "numpy"])
@pytest.mark.parametrize("compile", [False, True])
def test_any_engine_goes_on_with_what_another_began(engine, before, compile):
    """Only JAX's always compiles; torch's does so if it did before."""
    found = with_engine(Settings(backend=before, compile=compile), Options(engine=engine))
    again = compile and before == "torch:cpu" == f"{engine}:cpu"
    assert found.compile == (engine == "jax" or again)
    assert found.backend == ENGINES[engine]


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


@pytest.mark.parametrize(
    "other",
    [{}, {"data_sha256": "b"}, {"seed": 1}, {"drop": ("a",)}, {"hidden": (3,)}, {"data": "/there"}],
    ids=str,
)
def test_every_worker_has_the_same_options_and_data(other):
    first = Settings(data="/here", data_sha256="a")
    alike = not other.keys() - {"data"}
    assert told([first, first._replace(**other)]) == ([None] * 2 if alike else [OTHERS] * 2)
    assert told([first, first], seeds=[0, 1]) == [OTHERS] * 2


OTHERS = "expected the same options, data and network of every worker, got others"


def told(settings, seeds=(0, 0)):
    """What each of two workers is told, with networks of these seeds."""

    def told(member):
        layers = kernels.init((2, 1), like=np.zeros(0), seed=seeds[member.rank])
        team = Workers(
            backend=backends.get("numpy"),
            shard=lambda a: a,
            numerics=lambda numerics: replace(numerics, team=member),
            compile=None,
            count=2,
            first=member.rank == 0,
        )
        job = Job(SimpleNamespace(layers=layers), settings[member.rank], (), 1)
        try:
            return workers.check_alike(team, job)
        except CliError as error:
            return str(error)

    answers, _ = by_team(2, "even", np, told)
    return answers
