"""The command line as a user meets it: what it prints, what it refuses, and what it writes."""

import json
import os
import pydoc
import signal
import subprocess
import sys

import numpy as np
import pytest
from _params import where

import backends
import kernels
from kernels.__main__ import main
from kernels.reference.problems import split

NEEDED = "the command line needs array-api-kernels[cli]"
for module in ("typer", "rich", "matplotlib", "safetensors"):
    pytest.importorskip(module, reason=NEEDED)
datasets = pytest.importorskip("sklearn.datasets", reason=NEEDED)

TORCH, JAX = pytest.mark.library("torch"), pytest.mark.library("jax")

# What CI services set to get colours even in pipes is not what a user's pipe sees.
PLAIN = {
    name: value
    for name, value in os.environ.items()
    if name not in ("FORCE_COLOR", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "JAX_ENABLE_X64")
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the command line sets in the environment ends with each test."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_ENABLE_X64", os.environ.get("JAX_ENABLE_X64", "1"))


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        got = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


@pytest.fixture
def report(run):
    def report(*arguments, status=0):
        out, _ = run("train", *arguments, "--json", status=status)
        return json.loads(out, parse_constant=pytest.fail)

    return report


@pytest.fixture
def refuse(run, tmp_path, monkeypatch):
    """Run a command that must fail: one sentence, status 2, no output, nothing written."""

    def refuse(*arguments):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        monkeypatch.setattr("kernels.cli.train.workers.fit", pytest.fail)
        out, err = run(*arguments, status=2)
        assert out == ""
        assert err.startswith("Error: ")
        assert err.endswith((".\n", '"\n'))
        assert err.count("\n") == 1
        assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        return err

    return refuse


def shell(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "kernels", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=PLAIN | environment,
        timeout=120,
    )


def write_csv(path, header, rows):
    lines = [",".join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def iris_csv(tmp_path):
    data = datasets.load_iris()
    names = data.target_names[data.target]
    return write_csv(
        tmp_path / "iris.csv",
        ["sepal length", "sepal width", "petal length", "petal width", "species"],
        [[*x, name] for x, name in zip(data.data.tolist(), names, strict=True)],
    )


@pytest.fixture
def small_csv(tmp_path):
    return write_csv(tmp_path / "small.csv", ["a", "b", "y"], [[i, i * i, i % 2] for i in range(9)])


# Problems


def test_digits_reach_95_percent(run):
    out, err = run("train")
    facts = dict(line.split(None, 1) for line in out.splitlines() if line)
    assert facts["library"] == f"numpy {np.__version__}"
    assert facts["dtype"] == "float32"
    assert facts["network"] == "64 > 100 > 10"
    assert facts["steps"].startswith("690, ")
    assert len(facts["digest"]) == 64
    accuracy, samples = facts["held"].removeprefix("out       accuracy ").split("% on ")
    assert samples.startswith("359 ")
    assert float(accuracy) >= 95.0
    assert err == ""


def test_tutorial_loss_falls_from_3e7(report):
    got = report("--problem", "tutorial")
    assert [step for step, _ in got["losses"]] == [1, 100, 200, 300, 400, 500]
    losses = [loss for _, loss in got["losses"]]
    assert 2e7 < losses[0] < 4e7
    assert losses == sorted(losses, reverse=True)
    assert got["final_loss"] < 1e-3
    assert got["held_out"] is None


def test_report_is_of_the_run(report, tmp_path):
    got = report("--problem", "tutorial", "--steps", 3, "--seed", 7, "--dtype", "float64")
    from kernels.reference.problems import tutorial

    problem = tutorial(like=np.zeros(0), seed=7)
    layers, losses, _ = kernels.fit(
        problem.layers, problem.x, problem.y, learning_rate=1e-6, steps=3, seed=7, dual=False
    )
    assert got["digest"] == kernels.digest(layers)
    assert got["losses"] == [[i + 1, loss] for i, loss in enumerate(losses.tolist())]
    prediction = kernels.forward(layers, problem.x)[-1]
    assert got["final_loss"] == float(kernels.squared_error(prediction, problem.y)[0])
    assert (got["steps"], got["steps_asked"], got["sizes"]) == (3, 3, [1000, 100, 10])


@pytest.mark.parametrize("name", [*where(TORCH, "torch:cpu"), *where(JAX, "jax:cpu")])
def test_other_libraries(name, report):
    options = ("--problem", "tutorial", "--steps", 3, "--dtype", "float64")
    # In a process of its own, where nothing but --dtype enables float64 in JAX.
    out = shell("train", "--backend", name, *options, "--json")
    got = json.loads(out.stdout or pytest.fail(out.stderr))
    assert got["backend"] == name
    assert got["dtype"] == "float64"
    assert got["final_loss"] == pytest.approx(report(*options)["final_loss"])


def test_time_per_step_leaves_out_what_may_compile(report, run):
    epochs = report("--epochs", 2)
    assert (epochs["steps"], epochs["warm_up"]) == (46, 23)
    assert 0 < epochs["seconds_per_step"] < epochs["warm_up_seconds"]
    short = report("--steps", 23)
    assert (short["warm_up"], short["warm_up_seconds"]) == (0, 0.0)
    assert short["seconds_per_step"] > 0
    out, _ = run("train", "--problem", "tutorial", "--steps", 2)
    assert " after the first step in " in out


def test_options(report):
    got = report(
        *("--hidden", "20, 10", "--steps", 5, "--batch-size", 8),
        *("--learning-rate", 0.1, "--numerics", "native", "--compile"),
    )
    assert got["sizes"] == [64, 20, 10, 10]
    assert (got["steps"], got["batch_size"], got["learning_rate"]) == (5, 8, 0.1)
    assert got["compiled"] is False, "NumPy has no compiler"


def test_linear_model(report):
    assert report("--hidden", "none", "--epochs", 1)["sizes"] == [64, 10]


# Own data


def test_csv_classification(report, iris_csv):
    got = report("--data", iris_csv, "--target", "species")
    assert got["problem"] == "iris.csv"
    assert got["sizes"] == [4, 100, 3]
    assert got["held_out"]["samples"] == 30
    assert got["held_out"]["accuracy"] >= 0.85
    assert got["preparation"]["target"]["classes"] == ["setosa", "versicolor", "virginica"]
    means = [column["mean"] for column in got["preparation"]["columns"]]
    np.testing.assert_allclose(means, datasets.load_iris().data.mean(axis=0), rtol=0.1)


def test_csv_regression(report, tmp_path):
    data = datasets.load_diabetes()
    rows = np.column_stack([data.data, data.target]).tolist()
    path = write_csv(tmp_path / "diabetes.CSV", [*data.feature_names, "progression"], rows)
    got = report("--data", path, "--target", "progression", "--epochs", 30)
    assert got["sizes"] == [10, 100, 1]
    assert got["held_out"]["r2"] > 0.3
    # In the target's own unit.
    assert got["held_out"]["rmse"] < data.target.std()


def test_csv_of_a_spreadsheet(report, tmp_path):
    path = tmp_path / "sheet.csv"
    rows = "".join(f'{i}, "{i / 3}", {"yes" if i % 2 else "no"}\r\n' for i in range(20))
    path.write_bytes(b"\xef\xbb\xbf" + f"id, size, good?\r\n\r\n{rows}".encode())
    got = report("--data", path, "--target", "good?", "--steps", 1)
    assert got["preparation"]["target"]["classes"] == ["no", "yes"]
    assert got["samples"] == 16


def test_npz_classification(report, tmp_path):
    data = datasets.load_wine()
    path = tmp_path / "wine.npz"
    np.savez(path, x=data.data, kind=data.target, unused=data.data)
    got = report("--data", path, "--target", "kind", "--epochs", 20)
    assert got["sizes"] == [13, 100, 3]
    assert got["held_out"]["accuracy"] >= 0.9


def test_npz_regression_of_two_targets(report, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5))
    path = tmp_path / "two.npz"
    np.savez(path, features=features, y=100 * features[:, :2] ** 2 + 5)
    got = report("--data", path, "--target", "y")
    assert got["sizes"] == [5, 100, 2]
    assert got["held_out"]["r2"] > 0.7


def test_task_overrides_the_guess(report, tmp_path):
    path = write_csv(tmp_path / "d.csv", ["a", "y"], [[i, i % 3] for i in range(30)])
    options = ("--data", path, "--target", "y", "--steps", 1)
    assert "accuracy" in report(*options)["held_out"]
    assert "rmse" in report(*options, "--task", "regression")["held_out"]
    path = write_csv(tmp_path / "d.csv", ["a", "y"], [[i, i % 3 / 2] for i in range(30)])
    assert "rmse" in report(*options)["held_out"]
    assert "accuracy" in report(*options, "--task", "classification")["held_out"]


def test_constant_columns_of_an_array_do_no_harm(report, tmp_path):
    x = np.stack([np.full(30, 0.1), np.zeros(30)], axis=1)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(30) % 2)
    got = report("--data", tmp_path / "d.npz", "--target", "y", "--steps", 5)
    assert [column["deviation"] for column in got["preparation"]["columns"]] == [1.0, 1.0]


def test_columns_far_from_1(report, tmp_path):
    """Their squares are infinite or 0; they train like other columns, but for the scale."""
    values = np.random.default_rng(0).normal(size=30)
    digests = []
    for scale in (1.0, 2.0**700, 2.0**-700):
        rows = [[repr(float(v) * scale), i % 2] for i, v in enumerate(values)]
        path = write_csv(tmp_path / "d.csv", ["a", "y"], rows)
        got = report("--data", path, "--target", "y", "--steps", 5, "--numerics", "exact")
        assert got["preparation"]["columns"][0]["deviation"] / scale == pytest.approx(1.0, rel=0.5)
        digests.append(got["digest"])
    assert digests == digests[:1] * 3


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["01", "1"], ["01", "1"]),
        (["9223372036854775808", "1"], ["1", "9223372036854775808"]),
        (["10", "9"], ["9", "10"]),
    ],
)
def test_classes_of_a_csv(report, tmp_path, labels, classes):
    """Integers of any size in their order, and text as it is written."""
    path = write_csv(tmp_path / "d.csv", ["a", "y"], [[i, labels[i % 2]] for i in range(30)])
    got = report("--data", path, "--target", "y", "--steps", 1)
    assert got["preparation"]["target"]["classes"] == classes


# Files written and read


def test_save_then_resume_gives_the_same_weights(report, tmp_path):
    path, last = tmp_path / "net.safetensors", tmp_path / "last.safetensors"
    first = report("--problem", "tutorial", "--steps", 4, "--save", path)
    assert kernels.digest(kernels.load(path, like=np.zeros(0, "float32"))) == first["digest"]
    second = report("--problem", "tutorial", "--steps", 6, "--resume", path, "--save", last)
    assert second["resumed"] == str(path)
    assert second["digest"] == report("--problem", "tutorial", "--steps", 10)["digest"]
    assert sorted(tmp_path.iterdir()) == [last, path]


def test_resume_takes_the_hidden_sizes_of_the_file(report, tmp_path):
    path = tmp_path / "net.safetensors"
    report("--hidden", "20,10", "--steps", 1, "--save", path)
    assert report("--steps", 1, "--resume", path)["sizes"] == [64, 20, 10, 10]
    again = report("--steps", 1, "--resume", path, "--save", path)
    assert kernels.digest(kernels.load(path, like=np.zeros(0, "float32"))) == again["digest"]


def test_plot_is_a_picture(run, tmp_path):
    path = tmp_path / "loss.png"
    out, _ = run("train", "--steps", 3, "--plot", path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"plot           {path}" in out


def test_a_diverged_network_is_not_saved(run, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"precious")
    out, err = run("train", "--problem", "tutorial", "--learning-rate", 1, "--save", path, status=1)
    assert out == ""
    assert err.startswith("Error: training diverged and nothing was saved: ")
    assert "try a lower --learning-rate" in err
    assert err.count("\n") == 1
    assert path.read_bytes() == b"precious"


def test_a_disk_that_fails_at_the_end_is_told(run, tmp_path, monkeypatch):
    def full(path, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kernels.cli.train.command.save_model", full)
    _, err = run("train", "--steps", 1, "--save", tmp_path / "net", status=1)
    assert err.startswith(f"Error: cannot write {tmp_path / 'net'}: ")
    assert "No space left" in err


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="there is no such device")
def test_a_device_in_a_folder_that_takes_no_files(report, monkeypatch):
    """As in /dev, where a user other than root can make no files."""

    def forbidden(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", forbidden)
    got = report("--problem", "tutorial", "--steps", 1, "--save", "/dev/null")
    assert got["saved"] == "/dev/null"


def test_a_link_is_to_a_file_in_another_folder(report, refuse, tmp_path):
    """What counts is whether files can be made there."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "net")
    report("--problem", "tutorial", "--steps", 1, "--save", tmp_path / "link")
    assert (tmp_path / "there" / "net").is_file()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere" / "net")
    got = refuse("train", "--steps", 1, "--save", tmp_path / "lost")
    assert_match("cannot write --save .*/lost: No such file or directory", got)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    got = refuse("train", "--steps", 1, "--save", tmp_path / "circle")
    assert_match("cannot write --save .*/circle: Too many levels of symbolic links", got)


# Mistakes in options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["train", "--speed", "3"], "No such option:? '?--speed"),
        (["train", "stray"], "stray"),
        (["train", "--backend", "abacus"], "expected a backend of numpy, .*, got 'abacus'"),
        (["train", "--backend", "numpy:cuda"], "'numpy' without a device, got 'cuda'"),
        (["train", "--backend", "torch:tpu"], "expected the backend 'torch:cpu' or 'torch:cuda'"),
        (["train", "--dtype", "float16"], "expected --dtype to be float32 or float64, got 'float1"),
        (["train", "--numerics", "magic"], "expected --numerics to be native.*, got 'magic'"),
        (["train", "--problem", "xor"], "--problem to be digits or tutorial, got 'xor'"),
        (["train", "--steps", "5", "--epochs", "2"], "--steps or --epochs, got both, 5 and 2"),
        (["train", "--steps", "0"], "'--steps': .*1"),
        (["train", "--epochs", "-3"], "'--epochs': .*1"),
        (["train", "--epochs", "many"], "'--epochs': .*integer"),
        (["train", "--batch-size", "0"], "'--batch-size': .*1"),
        (["train", "--seed", "-1"], "'--seed': .*0"),
        (["train", "--seed", str(2**64)], "'--seed': .*18446744073709551615"),
        (["train", "--learning-rate", "-0.1"], "positive --learning-rate, got -0.1"),
        (["train", "--learning-rate", "0"], "positive --learning-rate, got 0.0"),
        (["train", "--learning-rate", "nan"], "positive --learning-rate, got nan"),
        (["train", "--learning-rate", "inf"], "positive --learning-rate, got inf"),
        (["train", "--hidden", "10,,5"], "--hidden to be 'none' or .*, got '10,,5'"),
        (["train", "--hidden", "0"], "--hidden to be .* from 1 to 1000000, .*, got '0'"),
        (["train", "--hidden", "-5"], "--hidden to be .*, got '-5'"),
        (["train", "--hidden", "9999999"], "--hidden to be .*, got '9999999'"),
        (["train", "--hidden", ""], "--hidden to be .*, got ''"),
        (["train", "--target", "y"], "Error: --target needs --data FILE"),
        (["train", "--task", "regression"], "Error: --task needs --data FILE"),
        (["train", "--data", "no.csv", "--target", "y"], "cannot read no.csv: No such file"),
        (
            ["train", "--data", "no.xlsx", "--target", "y"],
            "a file that ends in .csv, .*, got 'no.xlsx'",
        ),
        (["train", "--data", "no.csv"], "Error: --data no.csv needs --target COLUMN"),
        (
            ["train", "--data", "no.csv", "--target", "y", "--problem", "digits"],
            "--problem or --data, got both, digits and no.csv",
        ),
        (
            ["train", "--data", "no.csv", "--target", "y", "--task", "magic"],
            "--task to be classification or regression, got 'magic'",
        ),
        (["train", "--save", "no/net.st"], "cannot write --save no/net.st: there is no folder no"),
        (["train", "--plot", "no/loss.png"], "cannot write --plot .*: there is no folder no"),
        (["train", "--plot", "loss.docx"], "--plot FILE.png, or another of .*, got 'loss.docx'"),
        (["train", "--save", "x.png", "--plot", "x.png"], "--plot to be a file of its own"),
        (["train", "--resume", "no.st"], "cannot read no.st: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refuses(arguments, message, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_match(message, refuse(*arguments))


@pytest.mark.skipif(os.name != "posix", reason="other systems have other limits")
def test_refuses_names_that_are_too_long(refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "x" * 300
    assert_match("cannot write --save x+: File name too long", refuse("train", "--save", long))
    got = refuse("train", "--data", f"{long}.csv", "--target", "y")
    assert_match("cannot read x+.csv: File name too long", got)


def assert_match(pattern, text):
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(text)


def test_refuses_a_backend_that_cannot_run(refuse, monkeypatch):
    def missing(name):
        raise backends.BackendUnavailable("CuPy is not installed: pip install cupy-cuda12x.")

    monkeypatch.setattr(backends, "get", missing)
    got = refuse("train", "--backend", "cupy")
    assert got == "Error: CuPy is not installed: pip install cupy-cuda12x.\n"


@pytest.mark.parametrize(
    ("module", "name"), [("data.reading", "read_text"), ("train.plan", "read_table")]
)
def test_refuses_data_that_change_while_they_are_read(module, name, refuse, small_csv, monkeypatch):
    read = f"kernels.cli.{module}.{name}"
    before = pydoc.locate(read)

    def changed(path, *arguments, **options):
        got = before(path, *arguments, **options)
        os.utime(path, ns=(0, 0))
        return got

    monkeypatch.setattr(read, changed)
    got = refuse("train", "--data", small_csv, "--target", "y")
    assert got == f"Error: expected {small_csv} to stay as it is while it is read, got a change.\n"


def test_refuses_outputs_that_cannot_be_written(refuse, tmp_path, small_csv, monkeypatch):
    assert_match("--save .*: it is a folder", refuse("train", "--save", tmp_path))
    own = ("train", "--data", small_csv, "--target", "y")
    assert_match("--save to be a file of its own, got", refuse(*own, "--save", small_csv))
    np.save(tmp_path / "x.npy", np.ones((9, 2)))
    np.save(tmp_path / "y.npy", np.ones(9))
    x = tmp_path / "x.npy"
    got = refuse("train", "--data", tmp_path, "--save", x)
    assert got == f"Error: expected --save to be a file of its own, got {x}.\n"
    both = tmp_path / "new.png"
    for option in ("--save", "--plot"):
        got = refuse("train", option, both, "--checkpoint", both)
        assert got == f"Error: expected {option} to be a file of its own, got {both}.\n"
    plot = tmp_path / "loss.png"
    plot.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_match("--plot .*: no permission to change it", refuse("train", "--plot", plot))

    def forbidden(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", forbidden)
    got = refuse("train", "--save", tmp_path / "net.st")
    assert_match("cannot write --save .*net.st: Permission denied", got)


# Mistakes in data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header row in .*d.csv, got an empty file"),
        ("a,b,y\n", "expected at least 5 rows of data in .*d.csv, got 0"),
        ("a,b,y\n1,2,3\n", "expected at least 5 rows of data in .*d.csv, got 1"),
        ("a,b,z\n1,2,3\n", "--target to be a column of .*d.csv \\('a', 'b', 'z'\\), got 'y'"),
        ("y\n1\n", "expected columns beside the target 'y'"),
        ("a,a,y\n1,2,3\n", "expected column names that differ, got 'a' twice"),
        ("a,y\n1,2\n\n1,2,3\n", r"2 cells in every row, .*, got 3 in row 2 \(line 4\)"),
        ("a,y\n1,2\nred,3\n" + "1,2\n" * 3, r"got 'red' in row 2 \(line 3\), column 'a'"),
        ("a,y\n1,2\n-inf,3\n", r"a finite number, got -inf in row 2 \(line 3\), column 'a'"),
        ("a,y\n1,2.5\n2,inf\n", r"a finite number, got inf in row 2 \(line 3\), column 'y'"),
        ("a,y\n1,2.5\n2,oops\n", r"a number in the target, got 'oops' in row 2 .*column 'y'"),
        ("a,y\n" + "1,2\n" * 4 + "2,\n", r"at least 5 rows of data in .*d.csv, got 4"),
        ("a,y\n" + "1,7\n" * 9, "two or more classes, got 1 in 9 rows of the target 'y'"),
        (
            "a,y\n" + "".join(f"1,{i}\n" for i in range(9)),
            "classes that occur more than once, got 9 in 9 rows .* give --task regression",
        ),
        ('a,y\n1,"2\n', r"a CSV file, got .*d.csv: line 2: unexpected end of data"),
        ("a,y\n1," + "2" * 2**17 + "3\n", r"a finite number, got inf in row 1 \(line 2\)"),
        (b"a,y\n1,\xff\n", "expected text in UTF-8, got another encoding in line 2 of"),
    ],
)
def test_refuses_csv(text, message, refuse, tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_match(message, refuse("train", "--data", path, "--target", "y"))


X, Y = np.ones((9, 2)), np.arange(9) % 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "--target to be an array of .*d.npz \\('x'\\), got 'y'"),
        ({"a": X, "b": X, "y": Y}, "in an array 'x', or in the only one beside .* 'a', 'b', 'y'"),
        ({"y": Y}, "in an array 'x', or in the only one beside"),
        ({"x": X[:, 0], "y": Y}, r"shape \(samples, features\) in 'x' .*, got float64 of shape \("),
        ({"x": X[:, :0], "y": Y}, r"shape \(samples, features\) in 'x' .* of shape \(9, 0\)"),
        ({"x": X.astype(str), "y": Y}, r"expected numbers of shape \(samples, features\)"),
        ({"x": X, "y": Y * 1j}, "numbers or text .* in the target 'y' .*, got complex128"),
        ({"x": X, "y": Y[:-1]}, "as many targets as samples .*, got 8 in 'y' and 9 in 'x'"),
        ({"x": X, "y": np.stack([Y, Y], 1)}, r"one class for each sample.* shape \(9, 2\)"),
        ({"x": np.where(np.eye(9)[:, :2] == 1, np.nan, 0), "y": Y}, "got nan in row 0, column 0"),
        ({"x": X, "y": np.where(Y == 1, np.inf, 0)}, "got inf in row 1 .* of 'y'"),
        ({"x": X, "y": Y.astype(object)}, "expected an .npz file .*, which NumPy cannot read"),
        ({"x": X[:3], "y": Y[:3]}, "expected at least 5 rows of data"),
    ],
)
def test_refuses_npz(arrays, message, refuse, tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    assert_match(message, refuse("train", "--data", path, "--target", "y"))


def write_folder(path, x, y):
    path.mkdir()
    np.save(path / "x.npy", x)
    np.save(path / "y.npy", y)


def test_folder_of_prepared_data(report, tmp_path):
    """They are not prepared: the bits are those of `fit` on the same arrays."""
    x = np.linspace(-1.0, 1.0, 40).reshape(10, 4)
    for name, y in (("classes", np.arange(10) % 3), ("real", x[:, 0])):
        write_folder(tmp_path / name, x, y)
        options = ("--data", tmp_path / name, "--hidden", "5", "--dtype", "float64", "--steps", 3)
        got = report(*options, "--learning-rate", 0.25)
        trained = kernels.fit(
            kernels.init((4, 5, 3 if name == "classes" else 1), like=x),
            x,
            y.astype(np.int32) if name == "classes" else y[:, None],
            learning_rate=0.25,
            steps=3,
            loss=kernels.softmax_cross_entropy if name == "classes" else kernels.squared_error,
        )
        assert got["digest"] == kernels.digest(trained.layers)
        assert (got["samples"], got["batch_size"], got["held_out"]) == (10, None, None)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones(3), np.ones(3), r"shape \(samples, features\) in .*x.npy, got float64 of shape"),
        (np.ones((3, 2), int), np.ones(3), "expected real numbers .* got int64 of shape"),
        (
            np.ones((3, 2)),
            np.ones(2),
            r"for each of 3 samples in .*y.npy, got float64 of shape \(2,",
        ),
        (np.ones((3, 2)), np.asarray(["a", "b", "c"]), "a target of numbers .*, got <U1 of shape"),
        (np.ones((3, 2)), np.asarray([0, 1, -1]), r"integers from 0 of shape \(3,\), in .*y.npy"),
        (
            np.ones((3, 2)),
            np.asarray([None] * 3),
            "array of numbers in .*y.npy, which NumPy cannot",
        ),
    ],
)
def test_refuses_folder(x, y, message, refuse, tmp_path):
    write_folder(tmp_path / "data", x, y)
    assert_match(message, refuse("train", "--data", tmp_path / "data"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("x", np.nan, r"finite as float32, got nan in row 3, column 1 \(from 0\) of .*x.npy"),
        ("x", np.inf, r"finite as float32, got inf in row 3, column 1 \(from 0\) of .*x.npy"),
        ("x", 1e200, r"finite as float32, got 1e\+200 in row 3, column 1 \(from 0\) of .*x.npy"),
        ("y", -np.inf, r"finite as float32, got -inf in row 3, column 0 \(from 0\) of .*y.npy"),
    ],
)
def test_refuses_folder_of_what_is_not_finite(place, value, message, refuse, tmp_path, monkeypatch):
    monkeypatch.setattr("kernels.cli.data.arrays._BLOCK", 4)
    x, y = np.ones((5, 2)), np.ones((5, 1))
    {"x": x, "y": y}[place][3, -1] = value
    write_folder(tmp_path / "data", x, y)
    assert_match(message, refuse("train", "--data", tmp_path / "data"))


def test_refuses_folder_with_another_task(refuse, tmp_path):
    write_folder(tmp_path / "data", np.ones((5, 2)), np.ones(5))
    got = refuse("train", "--data", tmp_path / "data", "--task", "bogus")
    assert_match("expected --task to be classification or regression, got 'bogus'", got)


def test_refuses_held_out_samples_far_from_all_others(refuse, tmp_path):
    """In deviations of the training samples they are infinite as float32."""
    x = np.ones((30, 1)) * np.arange(30.0)[:, None]
    held_out = split(30, seed=0)[1][0]
    x[held_out] = 1e60
    path = tmp_path / "d.npz"
    np.savez(path, x=x, y=np.arange(30) % 2)
    got = refuse("train", "--data", path, "--target", "y")
    assert_match(
        "standardised numbers that float32 holds, got .*e\\+5.* from the mean in row ", got
    )


def test_the_error_of_large_targets(report, tmp_path):
    """Their squares are infinite."""
    values = np.random.default_rng(0).normal(size=30)
    rmse = []
    for scale in (1.0, 2.0**700):
        np.savez(tmp_path / "d.npz", x=values[:, None], y=values * scale)
        got = report("--data", tmp_path / "d.npz", "--target", "y", "--steps", 2)
        rmse.append(got["held_out"]["rmse"] / scale)
    assert rmse[0] == pytest.approx(rmse[1], rel=1e-12)


def test_refuses_folder_with_a_class_that_is_none(refuse, tmp_path):
    write_folder(tmp_path / "data", np.ones((3, 2)), np.asarray([0, 1, 10**10]))
    message = "expected class indices below 65536 for 3 samples in .*y.npy, got 10000000000"
    assert_match(message, refuse("train", "--data", tmp_path / "data"))


def test_refuses_folder_with_target(refuse, tmp_path):
    write_folder(tmp_path / "data", np.ones((3, 2)), np.ones(3))
    message = "expected no --target with the folder .*data, whose target is y.npy, got y"
    assert_match(message, refuse("train", "--data", tmp_path / "data", "--target", "y"))


def test_refuses_npz_text_as_numbers(refuse, tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=Y.astype(str))
    got = refuse("train", "--data", path, "--target", "y", "--task", "regression")
    assert_match("numbers for --task regression, got text in the target 'y'", got)


def test_refuses_damaged_npz(refuse, tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    one = tmp_path / "one.npy"
    np.save(one, X)
    for content in (b"", b"not an archive", whole[:100], whole[:-30], one.read_bytes()):
        path.write_bytes(content)
        got = refuse("train", "--data", path, "--target", "y")
        assert_match("expected an .npz file of arrays .*, which NumPy cannot read", got)


def test_refuses_a_folder_of_damaged_files(refuse, tmp_path):
    write_folder(tmp_path / "data", np.ones((5, 2)), np.ones(5))
    path = tmp_path / "data" / "x.npy"
    whole = path.read_bytes()
    np.savez(tmp_path / "d.npz", x=X)
    for content in (b"", whole[:20], whole[:-8], (tmp_path / "d.npz").read_bytes()):
        path.write_bytes(content)
        got = refuse("train", "--data", tmp_path / "data")
        assert_match("expected an array of numbers in .*x.npy, which NumPy cannot read", got)


def test_refuses_a_folder_without_the_files(refuse, tmp_path):
    (tmp_path / "d.csv").mkdir()
    got = refuse("train", "--data", tmp_path / "d.csv")
    assert_match("cannot read .*d.csv/x.npy: No such file or directory", got)


# Mistakes in saved networks


def test_refuses_networks_that_do_not_fit(refuse, tmp_path):
    path = tmp_path / "net.safetensors"

    def saved(*sizes, dtype="float32"):
        kernels.save(path, kernels.init(sizes, like=np.zeros(0, dtype)))
        return ("train", "--resume", path)

    got = refuse(*saved(64, 20, 10), "--hidden", 30)
    assert_match("network of sizes 64,30,10 for digits, got 64,20,10 in .*net.safetensors", got)
    got = refuse(*saved(63, 20, 10))
    assert_match("network of sizes 64,20,10 for digits, got 63,20,10", got)
    got = refuse(*saved(64, 10, 10), "--problem", "tutorial")
    assert_match("network of sizes 1000,10,10 for tutorial, got 64,10,10", got)
    got = refuse(*saved(64, 20, 10, dtype="float64"))
    assert_match("network of float32, as --dtype, got float64 in .*net.safetensors", got)
    got = refuse(*saved(64, 20, 10), "--dtype", "float64")
    assert_match("network of float64, as --dtype, got float32", got)


def test_refuses_files_that_are_no_networks(refuse, tmp_path):
    path = tmp_path / "net.safetensors"
    kernels.save(path, kernels.init((64, 10), like=np.zeros(0, "float32")))
    for content in (b"", b"not a network at all", path.read_bytes()[:-8]):
        path.write_bytes(content)
        assert_match("expected a safetensors file, got", refuse("train", "--resume", path))


# The list of backends


def test_backends_table(run):
    out, err = run("backends")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["backend", "runs", "here", "version", "devices", "dtypes"]
    assert ["numpy", "yes", np.__version__, "cpu", "float32,", "float64"] in lines
    assert {line[0] for line in lines[1:] if line} == set(backends.names())
    assert err == ""


def test_backends_json(run):
    out, _ = run("backends", "--json")
    found = {each["backend"]: each for each in json.loads(out)}
    assert set(found) == set(backends.names())
    for name, each in found.items():
        assert each["runs"] == (name in backends.available())
        assert each["runs"] or each["notes"], "a backend that cannot run says why"
    assert found["numpy"]["dtypes"] == ["float32", "float64"]


def test_backends_that_break_do_not_hide_the_others(run, monkeypatch):
    get = backends.get

    def broken(name):
        if name == "cupy":
            raise OSError("libsomething.so: cannot open shared object file")
        return get(name)

    monkeypatch.setattr(backends, "get", broken)
    out, _ = run("backends")
    assert "libsomething.so" in out


@JAX
def test_jax_without_float64_is_told_how(tmp_path):
    got = shell("backends", JAX_ENABLE_X64="0")
    assert "no float64: " in got.stdout
    assert "JAX_ENABLE_X64=1" in got.stdout
    got = shell("train", "--backend", "jax", "--dtype", "float64", JAX_ENABLE_X64="0")
    assert got.returncode == 2
    assert got.stderr.startswith("Error: jax has no float64: ")
    assert "JAX_ENABLE_X64=1" in got.stderr
    assert got.stderr.count("\n") == 1


# As a program


def test_piped_output_is_plain(tmp_path):
    for arguments in (["train", "--steps", "3"], ["backends"], []):
        got = shell(*arguments)
        assert got.returncode == 0, got.stderr
        assert got.stdout
        for text in (got.stdout, got.stderr):
            assert all(char == "\n" or char.isprintable() for char in text), repr(text)


def test_mistakes_have_no_traceback():
    got = shell("train", "--hidden", "many")
    assert (got.returncode, got.stdout) == (2, "")
    assert got.stderr.startswith("Error: expected --hidden")
    assert got.stderr.count("\n") == 1


def test_version_and_help(run):
    out, _ = run("--version")
    assert out.startswith("array-api-kernels ")
    out, _ = run("train", "--help")
    for option in ("--data", "--backend", "--resume", "--checkpoint", "--every", "--json"):
        assert option in out
    out, _ = run()
    assert "backends" in out


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_typer_or_rich(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; from kernels.__main__ import main; "
    got = subprocess.run(
        [sys.executable, "-c", f"{program} sys.exit(main(['train']))"],
        capture_output=True,
        text=True,
    )
    assert got.returncode == 2
    assert got.stderr == (
        f"Error: the command line needs {missing}, which is not installed: "
        'pip install "array-api-kernels[cli]"\n'
    )


@pytest.mark.parametrize("module", ["sklearn", "matplotlib", "safetensors"])
def test_without_an_optional_dependency(module, refuse, monkeypatch, tmp_path):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m == module else find(m))
    got = refuse("train", "--plot", tmp_path / "a.png", "--save", tmp_path / "net")
    assert_match(r'needs .*, which is not installed: pip install "array-api-kernels\[cli\]"', got)


def start(*arguments, go):
    """Start training in a process of its own, and wait until it has begun."""
    program = (
        "import sys; import kernels.cli.train.workers as train; fit = train.fit\n"
        "def tell(*args, **keywords):\n"
        "    print('go', file=sys.stderr, flush=True)\n"
        f"    {go}\n"
        "    return fit(*args, **keywords)\n"
        "train.fit = tell\n"
        "from kernels.__main__ import main; sys.exit(main(sys.argv[1:]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
    )
    assert process.stderr.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    return process


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_was_learned(tmp_path):
    path = tmp_path / "net.safetensors"
    options = ("--steps", 10_000_000, "--json", "--save", path)
    process = start(*options, go="pass")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    got = json.loads(out)
    assert 1 <= got["steps"] < got["steps_asked"] == 10_000_000
    assert err == (
        f"Interrupted after {got['steps']} of 10000000 steps; the network so far is saved in "
        f"{path}.\n"
    )
    assert kernels.digest(kernels.load(path, like=np.zeros(0, "float32"))) == got["digest"]


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_without_save(tmp_path):
    process = start("--steps", 10_000_000, go="pass")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "digest" in out
    assert err.endswith("the network so far is not saved, as --save was not given.\n")


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    path = tmp_path / "net.safetensors"
    # The first is noted while this sleeps, which no step of training ends.
    process = start("--steps", 5, "--save", path, go="import time; time.sleep(60)")
    time_to_note_the_first = 0.3
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(time_to_note_the_first)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err == "Error: stopped by Ctrl-C.\n"
    assert not path.exists()


# Output that cannot be written


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_full_device_for_output_is_told(options, tmp_path):
    """After what was asked for is done."""
    path = tmp_path / "net.safetensors"
    command = ("train", "--problem", "tutorial", "--steps", "1", "--save", str(path), *options)
    with open("/dev/full", "w") as full:
        got = subprocess.run(
            [sys.executable, "-m", "kernels", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=PLAIN,
            check=False,
        )
    assert got.returncode == 1
    assert got.stderr == "Error: cannot write to standard output: No space left on device.\n"
    assert path.exists()


@pytest.mark.skipif(os.name != "posix", reason="no descriptors are inherited")
def test_closed_output_is_no_error(tmp_path):
    path = tmp_path / "net.safetensors"
    command = ("train", "--problem", "tutorial", "--steps", "1", "--save", str(path))
    got = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "kernels", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
        check=False,
    )
    assert (got.returncode, got.stderr) == (0, "")
    assert path.exists()


def test_a_reader_that_has_gone_is_no_error():
    read, write = os.pipe()
    os.close(read)
    got = subprocess.run(
        [sys.executable, "-m", "kernels", "train", "--problem", "tutorial", "--steps", "1"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
        check=False,
    )
    os.close(write)
    assert (got.returncode, got.stderr) == (1, "")


@pytest.mark.parametrize("name", ["bench", "record"])
def test_commands_that_went_elsewhere_say_where(run, name):
    out, err = run(name, "--quick", "results", "--case=all", status=2)
    assert out == ""
    assert "python -m benchmarks" in err
    assert err.count("\n") == 1
    assert name not in run("--help")[0].split()
