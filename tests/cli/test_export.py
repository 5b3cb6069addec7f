"""`python -m kernels export`: the models in onnxruntime, and what is refused."""

import re

import numpy as np
import pytest

import kernels
from backends.export.onnx import forward_model
from kernels.__main__ import main
from kernels.reference import training as reference
from kernels.reference.problems import tutorial

for module in ("typer", "rich", "safetensors"):
    pytest.importorskip(module, reason="the command line needs array-api-kernels[cli]")
EXTRA = "export needs array-api-kernels[ndonnx]"
pytest.importorskip("ndonnx", reason=EXTRA)
onnx = pytest.importorskip("onnx", reason=EXTRA)
onnxruntime = pytest.importorskip("onnxruntime", reason=EXTRA)

# It warns of constants that it could fold and did not.
QUIET = onnxruntime.SessionOptions()
QUIET.log_severity_level = 3

NUMERICS = {"native": kernels.NATIVE, "exact": kernels.EXACT}
STEP = ("--what", "step", "--learning-rate", 1e-6, "--batch-size", 64)

numerics = pytest.mark.parametrize("numerics", NUMERICS)


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        got = main(["export", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out, err

    return run


@pytest.fixture
def export(run, tmp_path):
    """(layers, *options) -> the model, checked, and a session of onnxruntime's own making."""

    def export(layers, *options):
        kernels.save(tmp_path / "net.safetensors", layers)
        path = tmp_path / "net.onnx"
        run(path, "--network", tmp_path / "net.safetensors", *options)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        return model, onnxruntime.InferenceSession(path)

    return export


def network(sizes, dtype):
    """Draw weights and biases that are not zero."""
    like = np.zeros(0, dtype)
    return tuple(
        layer._replace(bias=kernels.random.normal(layer.bias.shape, seed=1, stream=i, like=like))
        for i, layer in enumerate(kernels.init(sizes, like=like))
    )


def draw(shape, dtype, seed):
    return kernels.random.normal(shape, seed=seed, stream=0, like=np.zeros(0, dtype))


def described(values):
    """Name, dtype and shape of each input or output of a session."""
    return [(value.name, value.type, value.shape) for value in values]


def values_of(layers):
    """Name the parameters, as an input of the step."""
    return {
        f"layers.{i}.{field}": a
        for i, layer in enumerate(layers)
        for field, a in layer._asdict().items()
        if a is not None
    }


def layers_of(values):
    """Make a network of what `values_of` returned."""
    count = sum(name.endswith("weight") for name in values)
    return tuple(
        kernels.Layer(values[f"layers.{i}.weight"], values.get(f"layers.{i}.bias"))
        for i in range(count)
    )


def step(session, layers, x, y):
    """Run a step; the new layers and the loss."""
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, values_of(layers) | {"x": x, "y": y}), strict=True))
    loss = values.pop("loss")
    return layers_of({name.removeprefix("new."): a for name, a in values.items()}), loss


@pytest.mark.parametrize(
    "name",
    [
        "tanh",
        *(
            pytest.param(name, marks=pytest.mark.thorough("numpy"))
            for name in ("logistic", "softplus", "elu", "leaky_relu")
        ),
    ],
)
def test_exact_activation_of_one_unit(name):
    """ndonnx would broadcast a single column."""
    layers, activation = network((3, 1, 2), "float32"), getattr(kernels.activations, name)
    settings = {"activation": activation, "numerics": kernels.EXACT}
    model = forward_model(layers, **settings)
    session = onnxruntime.InferenceSession(model.SerializeToString(), QUIET)
    x = draw((5, 3), "float32", 5)
    (got,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(got, kernels.forward(layers, x, **settings)[-1], strict=True)


@pytest.mark.parametrize(
    ("dtype", "sizes", "bias"),
    [
        ("float32", (3, 1, 2), True),
        ("float32", (1, 1, 1), False),
        ("float32", (3, 4, 1), True),
        ("float64", (3, 1, 2), True),
        *(
            pytest.param("float64", *network, marks=pytest.mark.thorough("numpy"))
            for network in (((1, 1, 1), False), ((3, 4, 1), True))
        ),
    ],
)
def test_exact_forward_of_one_unit_and_of_small_numbers(dtype, sizes, bias):
    """The bits of NumPy; onnxruntime drops sums with constants that are 0 in float32."""
    small = {"float32": 1e-31, "float64": 1e-140}[dtype]
    for scale in (1.0, small):
        first, *rest = network(sizes, dtype)
        layers = (first._replace(weight=(first.weight * scale).astype(dtype)), *rest)
        if not bias:
            layers = tuple(layer._replace(bias=None) for layer in layers)
        model = forward_model(layers, numerics=kernels.EXACT)
        session = onnxruntime.InferenceSession(model.SerializeToString(), QUIET)
        for n in (1, 5):
            x = draw((n, sizes[0]), dtype, n)
            (got,) = session.run(None, {"x": x})
            expected = kernels.forward(layers, x, numerics=kernels.EXACT)[-1]
            assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
            assert got.tobytes() == expected.tobytes()


@numerics
def test_forward(export, dtype, numerics):
    """The kernel's prediction for any number of samples, with and without biases."""
    first, *rest = network((3, 1100, 5, 2), dtype)
    layers = (first._replace(bias=None), *rest)
    model, session = export(layers, "--numerics", numerics)
    kind = {"float32": "tensor(float)", "float64": "tensor(double)"}[dtype]
    assert described(session.get_inputs()) == [("x", kind, ["batch", 3])]
    assert described(session.get_outputs()) == [("prediction", kind, ["batch", 2])]
    inside = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for name, a in values_of(layers).items():
        np.testing.assert_array_equal(inside[name], a, strict=True)
    for n in (1, 2, 7, 64):
        x = draw((n, 3), dtype, n)
        (got,) = session.run(None, {"x": x})
        expected = kernels.forward(layers, x, numerics=NUMERICS[numerics])[-1]
        if numerics == "exact":
            np.testing.assert_array_equal(got.view("u1"), expected.view("u1"), strict=True)
        else:
            # Sums of 1100 terms of magnitude 1.
            tolerance = 1100 * np.finfo(dtype).eps
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
            assert got.dtype == expected.dtype


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.thorough("numpy"))]
)
def test_exact_step_gives_the_committed_digests(export, dtype, thorough):
    """Steps of the tutorial, in onnxruntime as it comes."""
    problem = tutorial(like=np.zeros(0, dtype))
    _, session = export(problem.layers, *STEP, "--numerics", "exact")
    last = 500 if thorough else 10
    committed = reference.committed()["tutorial"][dtype]
    committed = {number: digest for number, digest in committed.items() if number <= last}
    layers, digests = problem.layers, {}
    for number in range(last + 1):
        if number in committed:
            digests[number] = kernels.digest(layers)
        layers, _ = step(session, layers, problem.x, problem.y)
    assert digests == committed


@pytest.mark.parametrize("loss", ["squared_error", "softmax_cross_entropy"])
def test_native_step(export, dtype, loss):
    """Names and shapes of all inputs and outputs, and the kernel's values."""
    layers = network((5, 4, 3), dtype)
    options = ("--what", "step", "--learning-rate", 0.125, "--batch-size", 6, "--loss", loss)
    _, session = export(layers, *options)
    kind = {"float32": "tensor(float)", "float64": "tensor(double)"}[dtype]
    weights = [(name, kind, list(a.shape)) for name, a in values_of(layers).items()]
    labels = loss == "softmax_cross_entropy"
    target = ("y", "tensor(int64)", [6]) if labels else ("y", kind, [6, 3])
    assert described(session.get_inputs()) == [*weights, ("x", kind, [6, 5]), target]
    assert described(session.get_outputs()) == [
        *((f"new.{name}", kind, shape) for name, kind, shape in weights),
        ("loss", kind, []),
    ]
    x = draw((6, 5), dtype, 1)
    y = np.asarray([0, 2, 1, 1, 0, 2]) if labels else draw((6, 3), dtype, 2)
    new, value = step(session, layers, x, y)
    expected = kernels.step(layers, x, y, learning_rate=0.125, loss=getattr(kernels, loss))
    # Sums of at most 18 terms.
    tolerance = 200 * np.finfo(dtype).eps
    np.testing.assert_allclose(value, expected[1], rtol=tolerance)
    for name, a in values_of(expected[0]).items():
        got = values_of(new)[name]
        assert got.dtype == a.dtype
        np.testing.assert_allclose(got, a, rtol=tolerance, atol=tolerance)


def test_what_is_printed(run, tmp_path):
    kernels.save(tmp_path / "net.safetensors", kernels.init((3, 2), like=np.zeros(0)))
    out, err = run(tmp_path / "a.onnx", "--network", tmp_path / "net.safetensors")
    assert err == ""
    facts = [line.split(None, 1) for line in out.splitlines()]
    assert facts[0] == ["model", str(tmp_path / "a.onnx")]
    assert ["opset", "21"] in facts
    assert ["input", "x float64 (batch, 3)"] in facts
    assert ["output", "prediction float64 (batch, 2)"] in facts


# Mistakes


@pytest.fixture
def refuse(run, tmp_path):
    """(*options, model, network) -> one sentence; nothing is written."""
    kernels.save(tmp_path / "net.safetensors", kernels.init((3, 2), like=np.zeros(0)))

    def refuse(*options, model="net.onnx", network="net.safetensors"):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        out, err = run(tmp_path / model, "--network", tmp_path / network, *options, status=2)
        assert out == ""
        assert err.startswith("Error: ")
        assert err.endswith((".\n", '"\n'))
        assert err.count("\n") == 1
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        return err.replace(str(tmp_path), "FOLDER")

    return refuse


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--what", "both"), "expected --what to be forward or step, got 'both'"),
        (("--numerics", "fast"), "expected --numerics to be native or exact, got 'fast'"),
        ((*STEP, "--loss", "l1"), "--loss to be squared_error or softmax_cross_entropy, got 'l1'"),
        (STEP[:4], "--what step needs --batch-size"),
        ((*STEP[:2], *STEP[4:]), "--what step needs --learning-rate"),
        ((*STEP, "--learning-rate", "-1"), "expected a positive --learning-rate, got -1.0"),
        ((*STEP, "--learning-rate", "nan"), "expected a positive --learning-rate, got nan"),
        ((*STEP, "--batch-size", "0"), "Invalid value for '--batch-size': "),
        (STEP[2:], "--learning-rate needs --what step"),
        (STEP[4:], "--batch-size needs --what step"),
        (("--loss", "l1"), "--loss needs --what step"),
    ],
)
def test_wrong_options(refuse, options, message):
    assert message in refuse(*options)


def test_files_that_are_not_networks(refuse, tmp_path):
    from safetensors.numpy import save_file

    message = "Error: cannot read FOLDER/none: No such file or directory.\n"
    assert refuse(network="none") == message
    assert refuse(network=".") == "Error: cannot read FOLDER: Is a directory.\n"
    (tmp_path / "text").write_text("weights")
    assert "expected a safetensors file, got FOLDER/text: " in refuse(network="text")
    save_file({"a": np.zeros(1)}, tmp_path / "other")
    assert "expected a network of tensors layers.0.weight, " in refuse(network="other")


def test_files_that_cannot_be_written(refuse, tmp_path):
    message = "cannot write the model FOLDER/none/net.onnx: there is no folder FOLDER/none"
    assert message in refuse(model="none/net.onnx")
    (tmp_path / "folder").mkdir()
    assert "cannot write the model FOLDER/folder: it is a folder" in refuse(model="folder")
    message = "expected the model to be a file of its own, got FOLDER/net.safetensors"
    assert message in refuse(model="net.safetensors")


def test_network_that_is_too_large(refuse, monkeypatch):
    monkeypatch.setattr("backends.export.onnx._MAX_WEIGHTS", 63)
    message = "expected weights of at most 63 bytes, the most that fit in an ONNX file, got 64"
    assert message in refuse()


def test_disk_that_is_full(run, tmp_path):
    kernels.save(tmp_path / "net.safetensors", kernels.init((3, 2), like=np.zeros(0)))
    _, err = run("/dev/full", "--network", tmp_path / "net.safetensors", status=1)
    assert re.fullmatch("Error: cannot write /dev/full: .*No space left on device.\n", err)


@pytest.mark.parametrize("module", ["ndonnx", "onnxruntime"])
def test_library_that_is_missing(refuse, monkeypatch, module):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    assert refuse() == (
        f"Error: export needs {module}, which is not installed: "
        'pip install "array-api-kernels[ndonnx]"\n'
    )


# The preparation of a file's columns

N = 30
COLUMNS = np.random.default_rng(0).normal(size=(N, 2))
DAYS = np.arange(N) % 9


@pytest.fixture
def trained(tmp_path, capsys):
    """(target, columns, *options) -> a model that was trained on a file, and the file."""
    pl = pytest.importorskip("polars", reason="the command line needs array-api-kernels[cli]")

    def trained(target, columns, *options):
        frame = pl.DataFrame(columns)
        path, saved = tmp_path / "d.parquet", tmp_path / "m.safetensors"
        frame.write_parquet(path)
        given = ("--steps", 3, "--data", path, "--target", target, "--hidden", "none", *options)
        assert main(["train", *map(str, given), "--numerics", "exact", "--save", str(saved)]) == 0
        capsys.readouterr()
        return saved, path

    return trained


def predicted(saved, path, capsys, *options):
    """Run `predict`; what it writes, as text."""
    assert main(["predict", str(saved), str(path), *options]) == 0
    return [line.split(",") for line in capsys.readouterr().out.splitlines()[1:]]


@pytest.mark.parametrize(
    ("target", "options"),
    [("price", ()), ("count", ("--loss", "poisson"))],
)
def test_numbers_and_dates_are_prepared_inside(run, trained, tmp_path, capsys, target, options):
    """From the cells of a file to the target's own unit, with the bits of `predict`."""
    import datetime

    empty = [None if i == 4 else a for i, a in enumerate(COLUMNS[:, 0].tolist())]
    days = [datetime.date(1970, 1, 1 + int(day)) for day in DAYS]
    y = {"price": 1e6 + 100.0 * COLUMNS[:, 1], "count": DAYS * 1.0}[target]
    columns = {"a": empty, "b": 1e-9 * COLUMNS[:, 1], "day": days, target: y}
    saved, path = trained(target, columns, *options)
    # By default as it was trained.
    out, _ = run(tmp_path / "m.onnx", "--network", saved)
    assert "numerics  exact\n" in out
    assert "x         the columns 'a', 'b', 'day', with NaN for empty cells\n" in out
    assert "dates     days since 1970\n" in out
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", QUIET)
    assert described(session.get_inputs()) == [("x", "tensor(double)", ["batch", 3])]
    kind = "tensor(float)" if target == "count" else "tensor(double)"
    assert described(session.get_outputs()) == [("prediction", kind, ["batch", 1])]
    x = np.stack([np.asarray(empty, float), columns["b"], DAYS], axis=1)
    (got,) = session.run(None, {"x": x})
    expected = np.asarray(predicted(saved, path, capsys), got.dtype)
    np.testing.assert_array_equal(got, expected, strict=True)


def test_columns_of_text_are_prepared_outside(run, trained, tmp_path):
    colour = np.where(COLUMNS[:, 0] > 0.0, "red", "blue")
    kind = np.where(COLUMNS[:, 1] > 0.0, "yes", "no")
    saved, _ = trained("kind", {"a": COLUMNS[:, 0], "colour": colour, "kind": kind})
    out, _ = run(tmp_path / "m.onnx", "--network", saved)
    assert "input     x float32 (batch, 3)\n" in out
    assert "x         prepared features, as `predict` makes them of the columns 'a', 'colou" in out
    assert "classes   'no', 'yes'\n" in out
