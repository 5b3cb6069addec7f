"""The file of `train --save`: what is in it, and what is refused."""

import hashlib
import json

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
        ({"digest": "0" * 64}, "expected the network that its digest is of, got another in "),
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


def test_a_network_alone_does_not_predict(run, path):
    kernels.save(path, kernels.init((2, 1), like=np.zeros(0)))
    message = f"expected a model that `train --save` wrote, got a network alone in {path}."
    assert run("predict", path, path.parent, status=2) == message
