"""The file of `train --save`: what is in it, and what is refused."""

import hashlib
import json
import re

import numpy as np
import pytest

import kernels
from kernels import storage
from kernels.__main__ import main

for module in ("typer", "rich", "safetensors"):
    pytest.importorskip(module, reason="the command line needs array-api-kernels[cli]")

TRAIN = ("train", "--problem", "tutorial", "--hidden", 3, "--steps", 1, "--numerics", "exact")


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        got = main([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        return out if status == 0 else err.removeprefix("Error: ").rstrip()

    return run


@pytest.fixture
def path(run, tmp_path):
    """A model."""
    path = tmp_path / "model.safetensors"
    run(*TRAIN, "--activation", "tanh", "--save", path)
    return path


def test_a_model_says_what_it_is(run, path):
    tensors, texts = storage.read_tensors(path)
    layers = kernels.load(path, like=np.zeros(0, "float32"))
    assert texts == {
        "model_version": "1",
        "activation": "tanh",
        "loss": "squared_error",
        "numerics": "exact",
        "digest": kernels.digest(layers),
    }
    assert set(tensors) == {"layers.0.weight", "layers.1.weight"}


def test_equal_models_are_equal_files(run, path):
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    for _ in range(3):
        run(*TRAIN, "--activation", "tanh", "--save", path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_texts_of_any_characters(tmp_path):
    texts = {"b": 'quote " \\ \x01\n\x7f', "a": "é€😀 ' "}
    storage.write_tensors(tmp_path / "t", {"x": np.arange(3.0)}, texts)
    tensors, got = storage.read_tensors(tmp_path / "t")
    assert got == texts
    assert np.frombuffer(tensors["x"]["data"]).tolist() == [0.0, 1.0, 2.0]
    header = json.loads(path_header(tmp_path / "t"))
    assert list(header["__metadata__"]) == ["a", "b", "sha256_of_file"]


def path_header(path):
    data = path.read_bytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def rewritten(path, **texts):
    """Write the same network with other texts."""
    layers = kernels.load(path, like=np.zeros(0, "float32"))
    _, before = storage.read_tensors(path)
    storage.write_tensors(path, storage.tensors_of(layers), before | texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"model_version": "2"}, "expected a model of version 1, which this program knows, got ve"),
        ({"digest": "0" * 64}, "expected a network that fits its digest, got another in "),
        ({"loss": "hinge"}, "expected a loss of squared_error or softmax_cross_entropy or "),
        ({"numerics": "fast"}, "expected a numerics of native or exact in "),
        ({"activation": "swish"}, "expected one of the activations in "),
        ({"preparation": "{}"}, "expected a preparation of columns, got another text in "),
    ],
)
def test_refuses_other_texts(run, path, texts, message):
    rewritten(path, **texts)
    for command in (("predict", path, path.parent), (*TRAIN, "--resume", path)):
        assert message in run(*command, status=2)


def test_refuses_a_damaged_file(run, path):
    whole = path.read_bytes()
    place = whole.index(b"squared_error")
    path.write_bytes(whole[:place] + b"S" + whole[place + 1 :])
    assert "it has changed since" in run("predict", path, path.parent, status=2)
    path.write_bytes(whole[:-1])
    assert "expected a safetensors file, got " in run("predict", path, path.parent, status=2)
    path.unlink()
    message = f"cannot read {path}: No such file or directory."
    assert run("predict", path, path.parent, status=2) == message


def test_a_file_of_an_older_version_goes_on(run, path):
    """It has one text, or none with relu."""
    layers = kernels.load(path, like=np.zeros(0, "float32"))
    storage.write_tensors(path, storage.tensors_of(layers), {"activation": "tanh"})
    run(*TRAIN, "--activation", "tanh", "--resume", path)
    assert "expected --activation tanh, as in " in run(*TRAIN, "--resume", path, status=2)
    kernels.save(path, layers)
    run(*TRAIN, "--resume", path)


GROWN = "a,town,kind\n" + "".join(
    f"{i * i % 7},{'Bern' if i % 3 else 'Rome'},{'no' if i % 2 else 'yes'}\n" for i in range(20)
)


def test_refuses_a_target_of_other_outputs(run, tmp_path):
    pytest.importorskip("polars")
    file, path = tmp_path / "d.csv", tmp_path / "m"
    file.write_text(GROWN)
    run("train", "--data", file, "--target", "kind", "--steps", 1, "--save", path)
    whole = storage.read_tensors(path)[1]["preparation"]
    rewritten(path, preparation=whole)
    run("predict", path, file)
    text = whole.replace('["no", "yes"]', '["no", "yes", "maybe"]')
    for loss, preparation, got in (
        ("softmax_cross_entropy", text, "one of 3 classes and 0 scales in "),
        ("squared_error", whole, "one of 2 classes and 0 scales in "),
        ("logistic_cross_entropy", whole, "one of 2 classes and 0 scales in "),
    ):
        rewritten(path, loss=loss, preparation=preparation)
        said = run("predict", path, file, status=2)
        assert f"expected a target for 2 outputs and {loss}, as the network has, got {got}" in said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a,town", "b,town", "a column 'a', as the network in {} has, got none"),
        ("Bern", "Rome", "a column 'town', as the network in {} has, got one that is dropped: is"),
        ("Rome", "Paris", "'town' to be the categories 'Bern', 'Rome', as .*, got the categories"),
        (
            "yes",
            "maybe",
            "the target 'kind' of 'no', 'yes', as the .*, got 'kind' of 'maybe', 'no'",
        ),
        (",", ",x,", "no column 'x', as the network in {} has, got one"),
        ("a,town", "town,a", "columns in the order 'a', 'town', as .*, got 'town', 'a'"),
    ],
)
def test_what_is_resumed_sees_the_same_columns(run, tmp_path, old, new, message):
    """Or a sentence says what differs."""
    pytest.importorskip("polars", reason="the command line needs array-api-kernels[cli]")
    file, net = tmp_path / "d.csv", tmp_path / "net"
    options = ("train", "--data", file, "--target", "kind", "--steps", 2)
    file.write_text(GROWN)
    run(*options, "--save", net)
    run(*options, "--resume", net)
    content = GROWN.replace(old, new)
    if old == ",":
        rows = (line.split(",", 1) for line in GROWN.splitlines())
        content = "".join(
            f"{a},{'x' if i == 0 else i % 4},{rest}\n" for i, (a, rest) in enumerate(rows)
        )
    elif new == "town,a":
        rows = (line.split(",") for line in GROWN.splitlines())
        content = "".join(f"{b},{a},{c}\n" for a, b, c in rows)
    file.write_text(content)
    said = run(*options, "--resume", net, status=2)
    assert re.match(f"expected {message.format(re.escape(str(net)))}", said), said


def test_what_is_resumed_may_be_scaled_otherwise(tmp_path, capsys):
    """Other rows have other means, which is told; another loss is refused."""
    pytest.importorskip("polars", reason="the command line needs array-api-kernels[cli]")
    file, net = tmp_path / "d.csv", tmp_path / "net"
    options = ["train", "--data", str(file), "--target", "a", "--steps", "2", "--task"]
    file.write_text(GROWN)
    assert main([*options, "regression", "--save", str(net)]) == 0
    file.write_text(GROWN.replace("4,", "8,"))
    capsys.readouterr()
    assert main([*options, "regression", "--resume", str(net)]) == 0
    told = f"Scaled differently than for the network in {net}: 'a'.\n"
    assert capsys.readouterr().err == told
    assert main([*options, "regression", "--loss", "poisson", "--resume", str(net)]) == 2
    assert "expected the loss squared_error, as the network in" in capsys.readouterr().err
    assert main(["train", "--problem", "tutorial", "--steps", "1", "--resume", str(net)]) == 2
    assert "expected a file of columns, as the network in" in capsys.readouterr().err


def test_a_network_alone_does_not_predict(run, path):
    kernels.save(path, kernels.init((2, 1), like=np.zeros(0)))
    message = f"expected a model that `train --save` wrote, got a network alone in {path}."
    assert run("predict", path, path.parent, status=2) == message
