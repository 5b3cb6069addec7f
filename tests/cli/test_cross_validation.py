"""`train --cv`: which rows are held out when, what is trained, and what is told of it."""

import importlib
import json
import math

import numpy as np
import pytest

import kernels
from kernels.__main__ import main

for module in ("typer", "rich", "sklearn"):
    pytest.importorskip(module, reason="the command line needs array-api-kernels[cli]")
table_of, cross_validation, problem = (
    importlib.import_module(f"kernels.cli.{name}")
    for name in ("data.table", "train.cross_validation", "train.problem")
)

N = 23
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
# Of 12, 8 and 3 rows.
KIND = np.repeat(["a", "b", "c"], [12, 8, 3])
SMALL = ("--hidden", 4, "--numerics", "exact", "--steps", 3)


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, kind=KIND, number=X @ [1.0, 2.0, 3.0])
    return tmp_path / "d.npz"


@pytest.fixture
def train(path, capsys):
    def train(*arguments, status=0):
        got = main(["train", *map(str, ("--data", path, *arguments))])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return train


@pytest.mark.parametrize("target", ["kind", "number"])
def test_each_row_is_held_out_once(path, target):
    table = table_of.read_table(path, target, None)
    folds = list(cross_validation.folds_of(table, 3, seed=5))
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(N))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(N))
        assert len(test) in (7, 8)
        if target == "kind":
            counts = np.unique(KIND[test], return_counts=True)[1].tolist()
            assert counts[0] == 4
            assert counts[1] in (2, 3)
            assert counts[2] == 1
    again, others = (list(cross_validation.folds_of(table, 3, seed=seed)) for seed in (5, 6))
    assert [test.tolist() for _, test in again] == [test.tolist() for _, test in folds]
    assert [test.tolist() for _, test in others] != [test.tolist() for _, test in folds]


@pytest.mark.parametrize(("target", "score"), [("kind", "accuracy"), ("number", "rmse")])
def test_each_fold_has_a_network_and_a_preparation_of_its_own(path, train, target, score):
    options = ("--target", target, *SMALL, "--seed", 2**64 - 1, "--cv", 3)
    out, err = train(*options, "--json")
    got = json.loads(out)
    assert err == ""
    table = table_of.read_table(path, target, None)
    folds = cross_validation.folds_of(table, 3, seed=2**64 - 1)
    for i, (rows, report) in enumerate(zip(folds, got["folds"], strict=True)):
        seed = (2**64 - 1 + i) % 2**64
        made, preparation, _ = problem.make_problem(
            table, asarray=np.asarray, dtype="float32", hidden=(4,), seed=seed, rows=rows
        )
        settings = {name: getattr(made, name) for name in ("learning_rate", "batch_size", "loss")}
        fit = kernels.fit(
            made.layers, made.x, made.y, steps=3, seed=seed, numerics=kernels.EXACT, **settings
        )
        assert report["digest"] == kernels.digest(fit.layers)
        assert report["held_out"]["samples"] == len(rows[1])
        means = [column["mean"] for column in report["preparation"]["columns"]]
        assert means == [column.mean for column in preparation.columns]
        np.testing.assert_allclose(means, X[rows[0]].mean(axis=0), rtol=1e-12)
    values = [report["held_out"][score] for report in got["folds"]]
    assert got["mean"][score] == math.fsum(values) / 3
    assert got["deviation"][score] == pytest.approx(np.std(values), rel=1e-12)
    lines = train(*options)[0].splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["fold", "1", "2", "3", "mean"]
    assert " ± " in lines[4]
    assert "network   3 > 4 > " in "\n".join(lines)


def test_a_class_of_few_rows_is_told(train):
    _, err = train("--target", "kind", *SMALL, "--cv", 5)
    assert err == "A class has 3 rows, and is in fewer than 5 folds.\n"


def test_a_fold_of_targets_all_alike_has_no_r2(path, train):
    np.savez(path, x=X, number=np.where(np.arange(N) == 0, 1.0, 0.0))
    out, _ = train("--target", "number", *SMALL, "--cv", 5, "--json")
    assert set(json.loads(out)["mean"]) == {"rmse"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target kind --cv 1", "Invalid value for '--cv': "),
        ("--target kind --cv 13", "expected --cv of at most 12, the rows of the largest class of "),
        ("--target number --cv 24", "expected --cv of at most 23, the rows of d.npz, got 24."),
        ("--target kind --cv 3 --save x", "expected --cv or --save, got both: --cv keeps no netw"),
        ("--target kind --cv 3 --checkpoint x", "expected --cv or --checkpoint, got both"),
        ("--target kind --cv 3 --resume x", "expected --cv or --resume, got both"),
        ("--target kind --cv 3 --plot x.png", "expected --cv or --plot, got both"),
        ("--target kind --cv 3 --engine torch", "expected --cv or --engine, got both"),
        ("--target kind --cv 3 --steps 9 --learning-rate 1e30", "training diverged and nothing w"),
    ],
)
def test_what_is_refused(train, options, message):
    out, err = train(*options.split(), status=1 if "diverged" in message else 2)
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_needs_a_file(tmp_path, capsys):
    assert main(["train", "--cv", "3"]) == 2
    assert capsys.readouterr().err == "Error: --cv needs --data FILE.\n"
    assert main(["train", "--cv", "3", "--data", str(tmp_path)]) == 2
    assert "--cv needs --data FILE, got the folder " in capsys.readouterr().err
