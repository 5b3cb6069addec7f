"""`python -m kernels predict`: the same rows in other files, messages, and what is refused."""

import csv
import datetime
import importlib
import io
import os
import re

import numpy as np
import pytest

import kernels
from kernels.__main__ import main

NEEDED = "the command line needs array-api-kernels[cli]"
for module in ("typer", "rich", "safetensors"):
    pytest.importorskip(module, reason=NEEDED)
pl = pytest.importorskip("polars", reason=NEEDED)
model, command = (
    importlib.import_module(f"kernels.cli.{name}") for name in ("train.model", "predict.command")
)

N = 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2))
COLOUR = np.asarray(["red", "green", "blue"])[RNG.integers(3, size=N)]
KIND = np.where(X[:, 0] + (COLOUR == "red") > 0.5, "yes", "no, never")
PRICE = 5000.0 + 100.0 * X[:, 1]
COUNT = np.floor(np.exp(X[:, 0]))
SMALL = ("--hidden", 4, "--numerics", "exact", "--steps", 5)


def frame(*names):
    """Make the columns of a file, one cell of which is empty."""
    a = [None if i == 7 else x for i, x in enumerate(X[:, 0].tolist())]
    day = [datetime.date(2024, 1, 1 + i % 28) for i in range(N)]
    columns = {"a": a, "b": X[:, 1], "colour": COLOUR, "day": day, "code": [1, 2] * (N // 2)}
    targets = {"kind": KIND, "price": PRICE, "count": COUNT}
    return pl.DataFrame(columns | {name: targets[name] for name in names})


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        got = main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


@pytest.fixture
def trained(run, tmp_path):
    """(target, *options) -> the path of a model, and that of the file it was trained on."""

    def trained(target, *options):
        path, saved = tmp_path / f"{target}.csv", tmp_path / f"{target}.safetensors"
        frame(target).write_csv(path)
        run("train", "--data", path, "--target", target, *SMALL, *options, "--save", saved)
        return saved, path

    return trained


@pytest.fixture
def refuse(run):
    """Run what must be refused: one sentence, and no output."""

    def refuse(*arguments, status=2):
        out, err = run("predict", *arguments, status=status)
        assert out == ""
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
        return err

    return refuse


def cells(text):
    header, *rows = csv.reader(io.StringIO(text))
    return header, rows


def outputs(saved, path):
    """Compute the network's outputs by the parts that the command is made of."""
    known = model.read_model(saved)
    reading, preparation = (
        importlib.import_module(f"kernels.cli.data.{name}") for name in ("reading", "preparation")
    )
    x = preparation.features(known.preparation, reading.read_sheet(path), "float32")
    return known, kernels.forward(known.layers, x, numerics=kernels.EXACT)[-1]


def test_classes(run, trained):
    saved, path = trained("kind")
    out, err = run("predict", saved, path)
    header, rows = cells(out)
    assert header == ["kind"]
    known, expected = outputs(saved, path)
    assert known.preparation.target.classes == ("no, never", "yes")
    labels = [known.preparation.target.classes[i] for i in expected.argmax(axis=1)]
    assert [label for (label,) in rows] == labels
    right = np.mean(np.asarray(labels) == KIND)
    assert err == f"accuracy {right:.2%} on 40 rows whose target is known.\n"


def test_no_name_of_a_file_is_written_over(trained, refuse, tmp_path):
    saved, path = trained("kind")
    before = path.read_bytes()
    other = tmp_path / "other.csv"
    os.link(path, other)
    assert f"--output to be a file of its own, got {other}." in refuse(
        saved, path, "--output", other
    )
    assert path.read_bytes() == before


def test_labels_that_are_written_otherwise(run, tmp_path):
    path, saved, other = (tmp_path / name for name in ("d.csv", "m", "other.csv"))

    def written(label, row=None, instead=None):
        labels = [instead if i == row else label(code) for i, code in enumerate([1, 2] * (N // 2))]
        return frame().drop("code").with_columns(code=pl.Series(labels, dtype=pl.String))

    written(str).write_csv(path)
    run("train", "--data", path, "--target", "code", *SMALL, "--save", saved)
    told = run("predict", saved, path)
    assert told[1].endswith(" on 40 rows whose target is known.\n")
    # As pandas writes whole numbers where one is missing.
    written(lambda code: f"{code}.0").write_csv(other)
    assert run("predict", saved, other) == told
    for nothing in ("NA", ""):
        written(str, 3, nothing).write_csv(other)
        assert run("predict", saved, other)[1].endswith(" on 39 rows whose target is known.\n")
    written(str, 3, "7").write_csv(other)
    first, last = run("predict", saved, other)[1].splitlines()
    assert first == f"Never trained on: '7' as the target in {other}."
    assert last.endswith(" on 40 rows whose target is known.")


def test_labels_of_arrays(run, refuse, tmp_path):
    file, saved = tmp_path / "d.npz", tmp_path / "m"
    y = (X > 0).astype(int)
    np.savez(file, x=X, y=y[:, 0])
    run("train", "--data", file, "--target", "y", *SMALL, "--save", saved)
    told = run("predict", saved, file)
    np.savez(file, x=X, y=y[:, 0].astype(float))
    assert run("predict", saved, file) == told
    np.savez(file, x=X, y=y)
    options = ("--target", "y", "--loss", "logistic_cross_entropy")
    run("train", "--data", file, *options, *SMALL, "--save", saved)
    np.savez(file, x=X, y=y * 0.5)
    assert f"expected labels 0 and 1 as the target in {file}, got 0.5." in refuse(saved, file)


def test_an_output_of_another_encoding_is_told(run, refuse, tmp_path, monkeypatch):
    path, saved = tmp_path / "d.csv", tmp_path / "m"
    kind = np.where(X[:, 0] > 0, "日本", "中国")
    frame().with_columns(kind=pl.Series(kind)).write_csv(path)
    run("train", "--data", path, "--target", "kind", *SMALL, "--save", saved)
    with io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True) as output:
        monkeypatch.setattr("sys.stdout", output)
        got = refuse(saved, path, status=1)
    assert got.startswith("Error: cannot write '")
    assert "to standard output, which is in cp1252: set the environment variable" in got
    assert got.endswith("PYTHONIOENCODING=utf-8.\n")


def test_probabilities(run, trained):
    saved, path = trained("kind")
    out, err = run("predict", saved, path, "--proba")
    assert err == ""
    header, rows = cells(out)
    assert header == ["no, never", "yes"]
    got = np.asarray(rows, dtype=np.float32)
    _, expected = outputs(saved, path)
    loss = kernels.softmax_cross_entropy
    expected = kernels.losses.expectation(loss, expected, numerics=kernels.EXACT)
    np.testing.assert_array_equal(got, expected, strict=True)
    np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=1e-6)


def test_two_classes_by_one_output(run, trained):
    saved, path = trained("kind", "--loss", "logistic_cross_entropy")
    header, rows = cells(run("predict", saved, path, "--proba")[0])
    assert header == ["no, never", "yes"]
    _, expected = outputs(saved, path)
    expected = kernels.EXACT.logistic(expected)[:, 0]
    got = np.asarray(rows, dtype=np.float32)
    np.testing.assert_array_equal(got[:, 1], expected, strict=True)
    np.testing.assert_array_equal(got[:, 0], np.float32(1.0) - expected, strict=True)
    _, rows = cells(run("predict", saved, path)[0])
    assert [label == "yes" for (label,) in rows] == (expected > 0.5).tolist()


def test_numbers_in_their_own_unit(run, trained):
    saved, path = trained("price")
    out, err = run("predict", saved, path)
    header, rows = cells(out)
    assert header == ["price"]
    known, expected = outputs(saved, path)
    (mean,), (deviation,) = known.preparation.target[2:]
    expected = expected[:, 0].astype(float) * deviation + mean
    assert [float(cell) for (cell,) in rows] == expected.tolist()
    assert [cell for (cell,) in rows] == [repr(value) for value in expected.tolist()]
    rmse = np.sqrt(np.mean((expected - PRICE) ** 2))
    r2 = 1.0 - rmse**2 / PRICE.var()
    said = f"R^2 {r2:.4f}, root mean squared error {rmse:.4g} on 40 rows whose target is known.\n"
    assert err == said


def test_counts(run, trained):
    saved, path = trained("count", "--loss", "poisson")
    _, rows = cells(run("predict", saved, path)[0])
    _, expected = outputs(saved, path)
    expected = kernels.EXACT.exp(expected)[:, 0]
    np.testing.assert_array_equal(np.asarray(rows, np.float32)[:, 0], expected, strict=True)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        # JAX compiles each operation, which takes seconds for an exponential.
        pytest.param("kind", ("--proba",), marks=pytest.mark.not_library("jax")),
        ("price", ()),
    ],
)
def test_one_file_on_every_library(backend, trained, tmp_path, run, target, options):
    """To the byte, whatever computes it, in batches of any size."""
    files = [tmp_path / name for name in ("numpy.csv", "other.csv")]
    saved, path = trained(target)
    run("predict", saved, path, *options, "--output", files[0])
    run("predict", saved, path, *options, "--output", files[1], "--backend", backend.name)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes().count(b"\n") == N + 1


def test_one_file_in_any_batches(run, trained, monkeypatch):
    saved, path = trained("price")
    whole, _ = run("predict", saved, path)
    monkeypatch.setattr(command, "MOST_ELEMENTS", 30)
    assert run("predict", saved, path)[0] == whole


def test_columns_in_another_order_and_others(run, trained, tmp_path):
    saved, path = trained("kind")
    whole, _ = run("predict", saved, path)
    table = frame("kind", "price").select("day", "price", "colour", "b", "a", "code", "kind")
    for name in ("other.tsv", "other.parquet"):
        if name == "other.tsv":
            table.write_csv(tmp_path / name, separator="\t")
        else:
            table.write_parquet(tmp_path / name)
        out, err = run("predict", saved, tmp_path / name)
        assert out == whole
        assert err.startswith(f"Ignored in {tmp_path / name}: 'price'.\n")
        assert ("accuracy " in err) == ("kind" in table.columns)
        table = table.drop("kind", strict=False)
    frame().write_csv(path)
    assert run("predict", saved, path) == (whole, "")


def test_categories_never_seen_are_told(run, trained):
    """And are 0 in all inputs, as in training."""
    saved, path = trained("price")
    mauve = pl.when(pl.int_range(N).is_in([2, 30])).then(pl.lit("mauve")).otherwise("colour")
    frame().with_columns(mauve.alias("colour")).write_csv(path)
    out, err = run("predict", saved, path)
    place = f"'mauve' in row 3 (line 4), column 'colour' of {path} and 1 more row"
    assert err == f"Never seen in training: {place}; its inputs are all 0.\n"
    known = model.read_model(saved)
    columns, x = known.preparation.columns, []
    for column in columns:
        cell = frame()[column.name][2]
        if column.kind == "category":
            x += [0.0] * len(column.categories)
        else:
            day = (cell - datetime.date(1970, 1, 1)).days if column.kind == "date" else cell
            x.append((day - column.mean) / column.deviation)
    x = np.asarray([x], "float32")
    expected = float(kernels.forward(known.layers, x)[-1][0, 0])
    ((mean,), (deviation,)) = known.preparation.target[2:]
    assert float(out.split()[3]) == pytest.approx(expected * deviation + mean, rel=1e-6)


def test_rows_whose_target_is_not_known(run, trained):
    saved, path = trained("price")
    table = frame("price").with_columns(
        price=pl.when(pl.int_range(N) < 10).then("price").otherwise(None)
    )
    table.write_csv(path)
    out, err = run("predict", saved, path)
    assert out.count("\n") == N + 1
    assert err.endswith(" on 10 rows whose target is known.\n")


def test_parquet(run, trained, tmp_path):
    for target, options in (("kind", ()), ("kind", ("--proba",)), ("price", ())):
        saved, path = trained(target)
        run("predict", saved, path, *options, "--output", tmp_path / "p.parquet")
        _, rows = cells(run("predict", saved, path, *options)[0])
        got = pl.read_parquet(tmp_path / "p.parquet")
        assert [[*map(str, row)] for row in got.rows()] == [
            [cell if target == "kind" and not options else str(float(cell)) for cell in row]
            for row in rows
        ] or got.dtypes == [pl.Float32] * 2
        assert got.height == N


def test_arrays(run, refuse, tmp_path):
    file, saved = tmp_path / "d.npz", tmp_path / "m"
    np.savez(file, x=X, y=X @ [[1.0, 2.0], [3.0, 4.0]])
    run("train", "--data", file, "--target", "y", *SMALL, "--save", saved)
    out, err = run("predict", saved, file)
    header, rows = cells(out)
    assert header == ["y_0", "y_1"]
    assert len(rows) == N
    assert err.startswith("R^2 ")
    np.savez(file, x=X)
    assert run("predict", saved, file) == (out, "")
    np.savez(file, x=np.ones((3, 5)))
    assert refuse(saved, file) == f"Error: expected samples of 2 features in {file}, got 5.\n"
    np.savez(file, x=X, y=X[:3])
    assert "expected as many targets as samples in " in refuse(saved, file)
    assert "--separator needs a file of columns, got 'd.npz'." in refuse(
        saved, file, "--separator", ";"
    )


@pytest.mark.parametrize("y", [np.arange(N) % 3, X[:, 0]])
def test_a_folder(run, tmp_path, y):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y)
    saved = tmp_path / "m"
    run("train", "--data", tmp_path, *SMALL, "--save", saved)
    out, err = run("predict", saved, tmp_path)
    _, rows = cells(out)
    found = model.read_model(saved).layers
    expected = kernels.forward(found, X.astype("f4"), numerics=kernels.EXACT)[-1]
    if y.dtype.kind == "f":
        assert [cell for (cell,) in rows] == expected[:, 0].astype(str).tolist()
        assert err.startswith("R^2 ")
    else:
        assert [int(cell) for (cell,) in rows] == expected.argmax(axis=1).tolist()
        assert err.startswith("accuracy ")


def test_refuses_rows_that_do_not_fit(trained, refuse, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "MOST_ELEMENTS", 1)
    saved, path = trained("kind")
    frame().drop("b").write_csv(path)
    assert f" in {path}, got a file without 'b'." in refuse(saved, path)
    said = refuse(saved, path, "--separator", "tab")
    assert "got a file without 'a', 'b', 'colour', 'day', 'code'." in said
    for column, cell, message in (
        ("b", "1e90", "deviations from the mean in row 3 (line 4), column 'b' of "),
        (
            "b",
            "much",
            "expected a number, as in other cells of the column, got 'much' in row 3 (line 4)",
        ),
        ("day", "soon", "expected a date, got 'soon' in row 3 (line 4)"),
    ):
        table = frame().cast({column: pl.String})
        changed = pl.when(pl.int_range(N) == 2).then(pl.lit(cell)).otherwise(column)
        table.with_columns(changed.alias(column)).write_csv(path)
        said = refuse(saved, path)
        assert message in said
        assert f"column {column!r} of {path}." in said
    frame().head(0).write_csv(path)
    assert f"expected at least one row of data in {path}, got 0." in refuse(saved, path)
    assert "expected a file of the columns that the model was trained on, got " in refuse(
        saved, tmp_path
    )


def test_refuses_folders_that_do_not_fit(run, refuse, tmp_path):
    saved = tmp_path / "m"
    run("train", "--problem", "tutorial", *SMALL, "--save", saved)
    said = refuse(saved, saved)
    assert "expected a folder with x.npy, since the model was trained on prepared data, got" in said
    assert "cannot read " in refuse(saved, tmp_path)
    for x, message in (
        (X, "expected real numbers of shape (samples, 1000) in "),
        (np.full((3, 1000), np.inf), "expected numbers that are finite as float32, got inf in row"),
    ):
        np.save(tmp_path / "x.npy", x)
        assert message in refuse(saved, tmp_path)


def test_refuses_predictions_that_are_not_finite(run, refuse, tmp_path):
    saved, x = tmp_path / "m", np.ones((3, 1000), "float32")
    run("train", "--problem", "tutorial", *SMALL, "--save", saved)
    x[1] = 3e38
    np.save(tmp_path / "x.npy", x)
    said = refuse(saved, tmp_path, status=1)
    assert said.startswith(
        "Error: expected finite predictions, got infinity or NaN for row 2, whose "
    )


def test_refuses_options(trained, refuse, tmp_path):
    saved, path = trained("price")
    for options, message in (
        (("--proba",), f"--proba needs a model of classes, got one of numbers in {saved}."),
        (("--output", "p.txt"), "expected --output FILE.csv or FILE.parquet, got 'p.txt'."),
        (("--output", path), "expected --output to be a file of its own, got "),
        (("--output", tmp_path / "no" / "p.csv"), "cannot write --output "),
        (("--numerics", "fast"), "expected --numerics to be native or exact, got 'fast'."),
        (("--backend", "abacus"), "expected a backend of numpy, "),
        (
            ("--separator", ";;"),
            "expected --separator to be one character, tab or space, got ';;'.",
        ),
    ):
        assert message in refuse(saved, path, *options)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")
def test_a_full_disk_is_told_of_parquet_too(trained, refuse, tmp_path):
    saved, path = trained("kind")
    (tmp_path / "full.parquet").symlink_to("/dev/full")
    err = refuse(saved, path, "--output", tmp_path / "full.parquet", status=1)
    assert re.search("cannot write .*full.parquet: .*No space left on device", err)
