"""Losses, weights of samples, and the targets that they take from a file."""

import importlib
import json

import numpy as np
import pytest

import kernels
from kernels.__main__ import main
from kernels.reference.problems import split

NEEDED = "the command line needs array-api-kernels[cli]"
for module in ("typer", "rich", "safetensors"):
    pytest.importorskip(module, reason=NEEDED)
arrays, table, problems, targets = (
    importlib.import_module(f"kernels.cli.{name}")
    for name in ("data.arrays", "data.table", "train.problem", "train.targets")
)

N = 40
X = np.random.default_rng(0).normal(size=(N, 3))
# Of each sample, so that one sees whose weight it is.
WEIGHT = np.round(np.abs(X[:, 0]), 3)
COUNTS = np.floor(np.exp(X[:, 1] + 1.0))
TWO = np.where(X[:, 2] > 0, "yes", "no")
LABELS = (X[:, :2] > 0).astype(int)
SMALL = ("--hidden", 4, "--numerics", "exact", "--steps", 3)


@pytest.fixture
def files(tmp_path):
    """A CSV file and an archive."""
    path = tmp_path / "d.csv"
    header = "a,b,c,count,two,w,zero,minus"
    rows = [
        f"{','.join(map(repr, map(float, x)))},{c},{t},{w},0,{-w}"
        for x, c, t, w in zip(X, COUNTS, TWO, WEIGHT, strict=True)
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    np.savez(tmp_path / "d.npz", x=X, labels=LABELS, w=WEIGHT, wrong=WEIGHT[1:], many=X)
    return tmp_path


@pytest.fixture
def train(files, capsys):
    def train(file, *arguments, status=0):
        given = ("--data", files / file, *arguments, *SMALL, "--json")
        got = main(["train", *map(str, given)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return json.loads(out) if status == 0 else err.removeprefix("Error: ").rstrip()

    return train


def problem(path, target, loss, weights=None):
    read = table.read_table(path, target, targets.task_for(loss, None), weights)
    return problems.make_problem(
        read, asarray=np.asarray, dtype="float32", hidden=(4,), loss=loss, seed=0
    )


@pytest.mark.parametrize(
    ("file", "target", "loss", "weights", "sizes"),
    [
        ("d.csv", "count", "poisson", "w", [4, 4, 1]),
        ("d.csv", "two", "logistic_cross_entropy", None, [5, 4, 1]),
        ("d.npz", "labels", "logistic_cross_entropy", "w", [3, 4, 2]),
    ],
)
def test_a_loss_is_that_of_fit(files, train, file, target, loss, weights, sizes):
    """With the weights of its samples, and in the scores that follow."""
    if file == "d.csv":
        # Other targets are no features.
        text = [line.split(",") for line in (files / file).read_text().splitlines()]
        keep = [i for i, name in enumerate(text[0]) if name not in {"count", "two"} - {target}]
        lines = [",".join(row[i] for i in keep) for row in text]
        (files / file).write_text("\n".join(lines))
    options = () if weights is None else ("--weights", weights)
    report = train(file, "--target", target, "--loss", loss, *options)
    assert report["sizes"] == sizes
    assert report["loss_name"] == targets.LOSS_NAMES[targets.LOSSES[loss]]
    assert report["weights"] == weights
    assert report["method"] == ("" if weights is None else "weights w")
    made = problem(files / file, target, loss, weights).problem
    fit = kernels.fit(
        made.layers,
        made.x,
        made.y,
        learning_rate=made.learning_rate,
        steps=3,
        batch_size=made.batch_size,
        loss=targets.LOSSES[loss],
        sample_weight=made.sample_weight,
        numerics=kernels.EXACT,
    )
    assert report["digest"] == kernels.digest(fit.layers)
    prediction = kernels.forward(fit.layers, made.x, numerics=kernels.EXACT)[-1]
    given = {"sample_weight": made.sample_weight, "numerics": kernels.EXACT}
    assert report["final_loss"] == float(made.loss(prediction, made.y, **given)[0])
    scores = {"poisson": {"rmse", "r2", "samples"}}.get(loss, {"accuracy", "samples"})
    assert set(report["held_out"]) == scores
    prediction = kernels.forward(fit.layers, made.held_out[0])[-1]
    target = made.held_out[1]
    if loss == "poisson":
        rmse = np.sqrt(np.mean((np.exp(prediction) - target) ** 2))
        assert report["held_out"]["rmse"] == pytest.approx(rmse, rel=1e-6)
    else:
        right = (prediction > 0) == (target.reshape(prediction.shape) == 1)
        assert report["held_out"]["accuracy"] == np.mean(right)


def test_weights_are_those_of_the_samples(files):
    """And are no features."""
    made, preparation, _ = problem(files / "d.npz", "many", "squared_error", "w")
    assert made.layers[0].weight.shape[0] == 3
    row = {tuple(np.round(x, 4)): w for x, w in zip(X, WEIGHT, strict=True)}
    deviation, mean = np.asarray([(c.deviation, c.mean) for c in preparation.columns]).T
    back = made.x * deviation + mean
    found = [row[tuple(np.round(x, 4))] for x in back.astype(float)]
    np.testing.assert_array_equal(made.sample_weight, np.asarray(found, "float32"))


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("d.csv", "--target two --weights u", "expected --weights to be a column of "),
        ("d.csv", "--target w --weights w", "expected --weights other than --target, got 'w' as"),
        ("d.csv", "--target a --weights two", "expected a number, got '"),
        ("d.csv", "--target a --weights minus", "expected weights of 0 or more, got -"),
        ("d.csv", "--target a --weights zero", "one above 0 among the samples trained on, in d.cs"),
        ("d.npz", "--target many --weights v", "expected --weights to be an array of "),
        ("d.npz", "--target many --weights wrong", "expected numbers of shape (40,) in the weight"),
        ("d.csv", "--target a --loss hinge", "or logistic_cross_entropy or poisson, got 'hinge'"),
        ("d.csv", "--target a --loss poisson", "--loss poisson needs counts, 0 or more, got -"),
        (
            "d.npz",
            "--target many --loss logistic_cross_entropy",
            "--loss logistic_cross_entropy needs labels 0 and 1, got ",
        ),
        (
            "d.csv",
            "--target count --loss logistic_cross_entropy --task classification",
            "--loss logistic_cross_entropy needs two classes, got ",
        ),
        (
            "d.csv",
            "--target a --loss poisson --task classification",
            "--loss poisson needs --task regression, got classification.",
        ),
        ("", "--weights w", "--weights needs --data FILE, got the folder "),
    ],
)
def test_what_is_refused(train, files, file, options, message):
    if file == "d.csv":
        text = (files / file).read_text()
        if "--target two" not in options and "--weights two" not in options:
            text = text.replace("yes", "1").replace("no,", "0,")
            (files / file).write_text(text)
    assert message in train(file, *options.split(), status=2)


def test_predictions_that_are_not_finite_have_no_score(tmp_path, capsys):
    """Such as counts of rows held out that are far from those trained on."""
    x = np.linspace(-1.0, 1.0, 60)
    _, held = split(60, seed=0)
    count = np.floor(np.exp(2.0 * x))
    x[held] = 1e6
    path = tmp_path / "d.npz"
    np.savez(path, x=x[:, None], y=count)
    command = ["train", "--data", str(path), "--target", "y", "--loss", "poisson"]
    command += ["--hidden", "none", "--learning-rate", "0.1", "--steps", "50"]
    for more in ([], ["--json"], ["--plot", str(tmp_path / "p.png")], ["--cv", "3"]):
        assert main([*command, *more]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        if more == ["--json"]:
            assert json.loads(out)["held_out"] == {"samples": 12}
        elif "--cv" not in more:
            assert "no score, as a prediction is not finite, on 12 samples\n" in out


def test_a_checkpoint_has_loss_and_weights(train, files, capsys):
    folder = files / "ck"
    options = ("--target", "labels", "--weights", "w", "--loss", "logistic_cross_entropy")
    whole = train("d.npz", *options)
    given = ("--data", files / "d.npz", *options, *SMALL[:-1], 2, "--checkpoint", folder)
    assert main(["train", *map(str, given)]) == 0
    capsys.readouterr()
    again = ["train", "--resume", str(folder), "--steps", "3", "--json"]
    assert main([*again, "--weights", "many"]) == 2
    assert "expected --weights w, as in the checkpoint" in capsys.readouterr().err
    assert main([*again, "--loss", "squared_error"]) == 2
    assert "expected --loss logistic_cross_entropy, as in" in capsys.readouterr().err
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == whole["digest"]


def test_a_folder_has_labels(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", LABELS)
    read = arrays.read_folder(tmp_path, targets.LABELS, "float32")
    assert targets.learned("logistic_cross_entropy", "d", read.y, read.classes) == (
        kernels.logistic_cross_entropy,
        2,
    )
    with pytest.raises(targets.CliError, match="expected class indices"):
        arrays.read_folder(tmp_path, "classification", "float32")
