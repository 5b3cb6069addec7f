"""Options of how to train: what they do, what checkpoints keep of them, and what is refused."""

import importlib
import json
import signal

import numpy as np
import pytest

import kernels
from kernels import activations, schedules
from kernels.__main__ import main
from kernels.reference.problems import tutorial

NEEDED = "the command line needs array-api-kernels[cli]"
for module in ("typer", "rich", "safetensors", "sklearn"):
    pytest.importorskip(module, reason=NEEDED)
command_method = importlib.import_module("kernels.cli.train.method")

EXACT = ("--problem", "tutorial", "--hidden", 7, "--numerics", "exact", "--every", 100)
ADAM = ("--optimizer", "adam", "--activation", "tanh", "--weight-decay", 0.1, "--l2", 0.01)
SGD = ("--momentum", 0.9, "--nesterov", "--learning-rate", 1e-6, "--max-norm", 100)


@pytest.fixture
def train(capsys, tmp_path):
    """Run `train --json`, with checkpoints; return the report, or the only line of an error."""

    def train(*arguments, status=0, folder="ck", command="train"):
        if command == "train":
            more = () if "--resume" in arguments else ("--checkpoint", tmp_path / folder)
            arguments = (*arguments, *more, "--json")
        got = main([command, *map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        if status == 0:
            assert err == ""
            return json.loads(out)
        assert out == ""
        assert err.count("\n") == 1
        return err

    return train


def test_options_are_arguments_of_fit(train):
    report = train(*EXACT, *ADAM, "--schedule", "cosine", "--steps", 4)
    problem = tutorial(like=np.zeros(0, "float32"), hidden=(7,), seed=0)
    fit = kernels.fit(
        problem.layers,
        problem.x,
        problem.y,
        optimizer=kernels.Adam(schedules.cosine(1e-3, steps=4), weight_decay=0.1),
        activation=activations.tanh,
        l2=0.01,
        steps=4,
        numerics=kernels.EXACT,
    )
    assert report["digest"] == kernels.digest(fit.layers)
    prediction = kernels.forward(
        fit.layers, problem.x, activation=activations.tanh, numerics=kernels.EXACT
    )[-1]
    value, _ = kernels.squared_error(prediction, problem.y, numerics=kernels.EXACT)
    assert report["final_loss"] == float(value)
    named = {"optimizer": "adam", "schedule": "cosine", "activation": "tanh", "l2": 0.01}
    assert {name: report[name] for name in named} == named
    assert report["learning_rate"] == 1e-3
    expected = "optimizer adam, schedule cosine, weight decay 0.1, activation tanh, l2 0.01"
    assert report["method"] == expected


def test_scores_are_computed_in_parts(train, monkeypatch):
    """Of few samples each, with the same bits."""
    options = ("--hidden", 7, "--numerics", "exact", "--steps", 1, "--batch-size", 5)
    whole = train(*options, folder="whole")
    monkeypatch.setattr("kernels.cli.train.running.MOST_ELEMENTS", 2000)
    parts = train(*options, folder="parts")
    for name in ("final_loss", "held_out", "digest"):
        assert parts[name] == whole[name]


def test_every_option_of_an_optimizer():
    """A schedule that falls to the last step begins to fall where a warm-up ends."""
    plain = command_method.Settings(learning_rate=0.5)
    for given, expected in (
        ({"momentum": 0.9, "nesterov": True}, kernels.SGD(0.5, 0.9, True)),
        (
            {"optimizer": "adam", "beta1": 0.8, "beta2": 0.9, "epsilon": 0.1},
            kernels.Adam(0.5, 0.8, 0.9, 0.1),
        ),
        (
            {"schedule": "exponential", "warmup": 2},
            kernels.SGD(schedules.warmup(schedules.exponential(0.5, 0.01, steps=8), steps=2)),
        ),
        (
            {"schedule": "linear", "final": 0.5},
            kernels.SGD(schedules.linear(0.5, final=0.25, steps=10)),
        ),
        ({"schedule": "inverse", "power": 1.0}, kernels.SGD(schedules.inverse(0.5, 1.0))),
        ({"warmup": 3}, kernels.SGD(schedules.warmup(schedules.constant(0.5), steps=3))),
    ):
        assert command_method.method_of(plain._replace(**given), 10)["optimizer"] == expected


@pytest.mark.parametrize("method", [ADAM, SGD], ids=["adam", "momentum"])
def test_what_is_resumed_ends_on_the_same_bits(train, tmp_path, method):
    options = (*EXACT, *method, "--schedule", "inverse", "--warmup", 1)
    whole = train(*options, "--steps", 5, folder="whole")
    train(*options, "--steps", 2)
    rest = train("--resume", tmp_path / "ck", "--steps", 5)
    assert rest["digest"] == whole["digest"]
    assert rest["losses"] == whole["losses"]
    assert rest["method"] == whole["method"] != ""


def test_a_plain_run_is_as_before(train, tmp_path):
    """Its checkpoint has no state."""
    report = train(*EXACT, "--steps", 2)
    assert report["method"] == ""
    train("--resume", tmp_path / "ck", "--steps", 3)
    tensors, _ = kernels.storage.read_tensors(tmp_path / "ck" / "step-00000003.safetensors")
    assert {name.partition(".")[0] for name in tensors} == {"layers", "losses"}


def test_a_changed_state_is_damage(train, tmp_path):
    """A checkpoint whose state is another's is not gone on from."""
    train(*EXACT, *SGD, "--steps", 2)
    from kernels.cli.train import checkpoint

    last = checkpoint.newest(tmp_path / "ck")
    path = tmp_path / "ck" / "step-00000002.safetensors"
    tensors, texts = kernels.storage.read_tensors(path)
    own = {**kernels.storage.tensors_of(last.layers), "losses": last.losses}
    assert len(tensors) > len(own)
    kernels.storage.write_tensors(path, own, texts)
    said = train("--resume", tmp_path / "ck", "--steps", 3, status=2)
    assert "expected content that fits its hashes, got other content" in said


def test_the_dual_form(train):
    """It is that of `fit`, and the report names it; its bits are its own."""
    report = train(*EXACT, *SGD, "--dual", "--steps", 3)
    problem = tutorial(like=np.zeros(0, "float32"), hidden=(7,), seed=0)
    optimizer = kernels.SGD(1e-6, momentum=0.9, nesterov=True, max_norm=100.0)
    settings = {"optimizer": optimizer, "steps": 3, "numerics": kernels.EXACT}
    fit = kernels.fit(problem.layers, problem.x, problem.y, dual=True, **settings)
    assert report["digest"] == kernels.digest(fit.layers)
    assert report["dual"] is True
    assert report["method"] == "momentum 0.9, nesterov, max norm 100.0, dual"
    primal = train(*EXACT, *SGD, "--steps", 3, folder="primal")
    assert primal["dual"] is False
    assert primal["digest"] != report["digest"]


@pytest.mark.parametrize("end", ["Ctrl-C", "the end"])
def test_what_is_resumed_in_dual_form_ends_on_the_same_bits(
    train, tmp_path, monkeypatch, capsys, end
):
    """From a multiple of 256 steps, whatever --every says and wherever training was stopped."""
    options = ("--problem", "tutorial", "--hidden", 2, "--every", 5, "--momentum", 0.5, "--dual")
    whole = train(*options, "--steps", 520, folder="whole")
    if end == "Ctrl-C":
        fit = kernels.fit

        def interrupted(*arguments, start, progress, **settings):
            def count(done, loss):
                if start + done == 300:
                    signal.raise_signal(signal.SIGINT)
                progress(done, loss)

            return fit(*arguments, start=start, progress=count, **settings)

        monkeypatch.setattr("kernels.cli.train.workers.fit", interrupted)
        folder = tmp_path / "ck"
        more = ["--steps", "520", "--checkpoint", str(folder)]
        assert main(["train", *map(str, options), *more]) == 130
        assert capsys.readouterr().err == (
            "Interrupted after 300 of 520 steps; the network so far is not saved, as --dual writes "
            "checkpoints at every 256th step only.\n"
        )
        monkeypatch.undo()
    else:
        train(*options, "--steps", 300)
    assert [path.name for path in (tmp_path / "ck").iterdir()] == ["step-00000256.safetensors"]
    said = train("--resume", tmp_path / "ck", "--no-dual", status=2)
    assert "expected --dual, as in the checkpoint" in said
    rest = train("--resume", tmp_path / "ck", "--steps", 520)
    assert (rest["digest"], rest["losses"]) == (whole["digest"], whole["losses"])
    assert rest["dual"] is True


REFUSED = [
    (("--optimizer", "rmsprop"), "expected --optimizer to be sgd or adam, got 'rmsprop'."),
    (("--activation", "swish"), "logistic or relu or softplus or tanh, got 'swish'."),
    (
        ("--schedule", "step"),
        "to be constant or inverse or exponential or linear or cosine, got 'step'.",
    ),
    (("--final", 0.1), "--final needs --schedule exponential or linear or cosine, got constant."),
    (("--schedule", "cosine", "--final", 1.5), "expected --final from 0 to 1, got 1.5."),
    (("--schedule", "exponential", "--final", 0), "expected --final above 0 to 1, got 0.0."),
    (("--power", 0.3), "--power needs --schedule inverse, got constant."),
    (("--schedule", "inverse", "--power", -1), "expected --power of 0 or more, got -1.0."),
    (("--warmup", 1), "expected --warmup below the 1 steps in all, got 1."),
    (("--nesterov",), "--nesterov needs --momentum."),
    (("--beta1", 0.5), "--beta1 needs --optimizer adam, got sgd."),
    (
        ("--optimizer", "adam", "--beta2", 1),
        "expected --beta2 of 0 or more and below 1, got 1.0.",
    ),
    (("--optimizer", "adam", "--epsilon", 0), "expected a positive --epsilon, got 0.0."),
    (("--loss", "poisson"), "--loss needs --data FILE."),
    (("--weights", "w"), "--weights needs --data FILE."),
    (("--momentum", 1), "expected --momentum of 0 or more and below 1, got 1.0."),
    (("--momentum", 0.9, "--optimizer", "adam"), "--momentum needs --optimizer sgd, got adam."),
    (("--weight-decay", -1), "expected --weight-decay of 0 or more, got -1.0."),
    (("--l2", "nan"), "expected --l2 of 0 or more, got nan."),
    (("--max-norm", 0), "expected a positive --max-norm, got 0.0."),
    (("--dual", "--optimizer", "adam"), "--dual needs --optimizer sgd, got adam."),
    (("--dual", "--engine", "dask"), "expected no --engine with --dual, got --engine dask."),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda given: str(given)[:30])
def test_what_is_refused(train, given, message):
    assert train(*given, "--steps", 1, status=2).endswith(f"{message}\n")


def test_what_a_checkpoint_decides(train, tmp_path):
    train(*EXACT, *ADAM, "--schedule", "linear", "--steps", 3)
    for given, expected in (
        (("--optimizer", "sgd"), "expected --optimizer adam, as in the checkpoint"),
        (("--l2", 0.1), "expected --l2 0.01, as in the checkpoint"),
        # To an end that was 3 steps away.
        (("--steps", 5), "expected --steps 3, over which the schedule linear of the checkpoint"),
        (("--epochs", 3), "falls, got --epochs 3."),
    ):
        assert expected in train("--resume", tmp_path / "ck", *given, status=2)


def test_a_file_knows_its_activation(train, tmp_path):
    net = tmp_path / "net.safetensors"
    train(*EXACT, *ADAM, "--steps", 1, "--save", net)
    options = ("--problem", "tutorial", "--hidden", 7, "--steps", 1, "--resume", net)
    said = train(*options, status=2)
    assert said == f"Error: expected --activation tanh, as in {net}, got relu.\n"
    train(*options, "--activation", "tanh")


@pytest.mark.parametrize("what", ["forward", "step"])
def test_a_model_has_the_activation_of_the_file(train, tmp_path, capsys, what):
    """With exact numerics the bits of the kernel; it takes the file's word."""
    for module in ("ndonnx", "onnxruntime"):
        pytest.importorskip(module)
    import onnxruntime

    net, model = tmp_path / "net.safetensors", tmp_path / "m.onnx"
    train(*EXACT, *ADAM, "--steps", 1, "--save", net)
    options = ["--network", str(net), "--what", what, "--numerics", "exact"]
    if what == "step":
        options += ["--learning-rate", "1e-6", "--batch-size", "64"]
    assert main(["export", str(model), *options]) == 0
    assert "prediction" in capsys.readouterr().out or what == "step"
    session = onnxruntime.InferenceSession(model)
    problem = tutorial(like=np.zeros(0, "float32"), hidden=(7,), seed=0)
    layers = kernels.load(net, like=problem.x)
    given = {"activation": activations.tanh, "numerics": kernels.EXACT}
    if what == "forward":
        (got,) = session.run(["prediction"], {"x": problem.x})
        expected = kernels.forward(layers, problem.x, **given)[-1]
    else:
        inputs = kernels.storage.tensors_of(layers) | {"x": problem.x, "y": problem.y}
        (got,) = session.run(["new.layers.0.weight"], inputs)
        new, _ = kernels.step(layers, problem.x, problem.y, learning_rate=1e-6, **given)
        expected = new[0].weight
    np.testing.assert_array_equal(got.view("u4"), expected.view("u4"))


def test_an_unknown_activation_in_a_file(train, tmp_path):
    pytest.importorskip("ndonnx")
    net = tmp_path / "net.safetensors"
    tensors = kernels.storage.tensors_of(kernels.init((2, 1), like=np.zeros(0)))
    kernels.storage.write_tensors(net, tensors, {"activation": "swish"})
    said = train(tmp_path / "m.onnx", "--network", net, status=2, command="export")
    assert said == f"Error: expected one of the activations in {net}, got 'swish'.\n"


def test_the_table_names_the_method(capsys):
    assert main(["train", *map(str, EXACT[:-2]), *map(str, SGD), "--steps", "1"]) == 0
    assert "momentum 0.9, nesterov, max norm 100.0" in capsys.readouterr().out
