"""Training that was killed, stopped or out of space goes on as if nothing had happened."""

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from _params import where

import kernels
from kernels import storage
from kernels.__main__ import main

NEEDED = "the command line needs array-api-kernels[cli]"
for module in ("typer", "rich", "safetensors", "sklearn"):
    pytest.importorskip(module, reason=NEEDED)
checkpoint, running, settings = (
    importlib.import_module(f"kernels.cli.train.{name}")
    for name in ("checkpoint", "running", "settings")
)
Settings, newest = settings.Settings, checkpoint.newest

EXACT = ("--numerics", "exact")
# Where a run is, and how long it took, are no part of its result.
CIRCUMSTANCES = {"resumed", "backend", "device", "version"}
TIMES = {"warm_up", "warm_up_seconds", "seconds_per_step"}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the command line sets in the environment ends with each test."""
    monkeypatch.setenv("JAX_ENABLE_X64", os.environ.get("JAX_ENABLE_X64", "1"))


@pytest.fixture
def train(capsys):
    """Run `train --json`; return the report, or the only line of an error."""

    def train(*arguments, status=0, warning=""):
        got = main(["train", *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert got == status, (out, err)
        if status in (0, 130):
            assert err.count("\n") == (1 if warning else 0), err
            assert warning in err
            return json.loads(out)
        assert out == ""
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
        return err

    return train


@pytest.fixture
def own(tmp_path):
    """Options to train on 41 samples of a user's own, 33 of them in 5 batches of up to 8."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(41, 3))
    return data_options(tmp_path / "own.csv", x)


def data_options(path, x):
    labels = (x.sum(axis=1) > 0).astype(int)
    rows = [",".join([*map(repr, row), str(y)]) for row, y in zip(x.tolist(), labels, strict=True)]
    path.write_text("\n".join(["a,b,c,y", *rows]) + "\n")
    return ("--data", path, "--target", "y", "--batch-size", 8, "--hidden", 6)


TUTORIAL = ("--problem", "tutorial", "--hidden", 7)


def steps_in(folder):
    """List the steps of the checkpoints in a folder, and see that nothing else is there."""
    names = sorted(os.listdir(folder))
    assert all(name == f"step-{name[5:13]}.safetensors" for name in names)
    return [int(name[5:13]) for name in names]


def result(report):
    return {name: value for name, value in report.items() if name not in CIRCUMSTANCES | TIMES}


def assert_same_end(folder, other):
    """The last checkpoints are of the same network, losses and settings, bit by bit."""
    a, b = newest(folder), newest(other)
    assert kernels.digest(a.layers) == kernels.digest(b.layers)
    assert a.losses.dtype == b.losses.dtype
    assert a.losses.tobytes() == b.losses.tobytes()
    free = {"every": 0, "backend": "", "compile": False}
    assert a.settings._replace(**free) == b.settings._replace(**free)


@pytest.fixture
def undisturbed(train, tmp_path):
    """Train in one go, with one checkpoint at the end; return the report and that folder."""

    def undisturbed(*arguments):
        folder = tmp_path / "undisturbed"
        report = train(*arguments, "--checkpoint", folder, "--every", 10**9)
        assert steps_in(folder) == [report["steps"]]
        return report, folder

    return undisturbed


# Going on


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("numerics", ["native", "exact"])
@pytest.mark.parametrize("problem", ["own", "tutorial"])
def test_the_result_is_that_of_one_run(problem, numerics, dtype, request, train, undisturbed):
    options = request.getfixturevalue("own") if problem == "own" else TUTORIAL
    options = (*options, "--numerics", numerics, "--dtype", dtype)
    expected, end = undisturbed(*options, "--steps", 17)
    folder = end.with_name("ck")
    plain = train(*options, "--steps", 17)
    assert result(plain) == result(expected)
    train(*options, "--steps", 7, "--checkpoint", folder, "--every", 3)
    assert steps_in(folder) == [6, 7]
    # Seven steps end in the middle of an epoch.
    got = train("--resume", folder, "--steps", 17)
    assert steps_in(folder) == [15, 17], "every third step, counted from the first"
    assert result(got) == result(expected)
    assert got["resumed"] == str(folder)
    assert (got["dtype"], got["numerics"]) == (dtype, numerics)
    assert_same_end(folder, end)


def test_epochs_are_raised(own, train, undisturbed):
    expected, end = undisturbed(*own, *EXACT, "--epochs", 3)
    folder = end.with_name("ck")
    train(*own, *EXACT, "--epochs", 1, "--checkpoint", folder)
    assert result(train("--resume", folder, "--epochs", 3)) == result(expected)
    assert_same_end(folder, end)


@pytest.mark.parametrize(
    "name",
    [
        "array-api-strict",
        *where(pytest.mark.library("torch"), "torch:cpu"),
        *where((pytest.mark.library("jax"), pytest.mark.thorough("numpy")), "jax:cpu"),
    ],
)
def test_another_backend_goes_on(name, own, train, undisturbed):
    expected, end = undisturbed(*own, *EXACT, "--steps", 9)
    folder = end.with_name("ck")
    train(*own, *EXACT, "--steps", 4, "--checkpoint", folder, "--every", 2)
    got = train("--resume", folder, "--steps", 7, "--backend", name)
    assert got["backend"] == name
    # And back again, since the checkpoint now names the other.
    assert newest(folder).settings.backend == name
    got = train("--resume", folder, "--steps", 9, "--backend", "numpy")
    assert result(got) == result(expected)
    assert_same_end(folder, end)


def test_a_finished_run_is_reported_again(own, train, tmp_path):
    folder, net, plot = (tmp_path / name for name in ("ck", "net", "loss.png"))
    expected = train(*own, "--steps", 5, "--checkpoint", folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    got = train("--resume", folder, "--save", net, "--plot", plot)
    assert {**result(got), "saved": None, "plot": None} == result(expected)
    assert got["seconds_per_step"] is None
    assert kernels.digest(kernels.load(net, like=np.zeros(0, "float32"))) == got["digest"]
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["train", "--resume", str(folder)]) == 0


def test_the_checkpoint_has_the_options(own, train, tmp_path, monkeypatch):
    folder = tmp_path / "ck"
    monkeypatch.chdir(tmp_path)
    data, *rest = own[1:]
    options = ("--data", data.name, *rest, "--seed", 2**64 - 1, "--learning-rate", 0.1)
    train(*options, "--steps", 2, "--checkpoint", folder, "--every", 2)
    assert newest(folder).settings == Settings(
        data=str(data),
        data_sha256=newest(folder).settings.data_sha256,
        target="y",
        task="classification",
        loss="softmax_cross_entropy",
        hidden=(6,),
        steps=2,
        batch_size=8,
        learning_rate=0.1,
        seed=2**64 - 1,
        every=2,
    )
    # From another folder, and given once more.
    monkeypatch.chdir("/")
    train("--resume", folder, *options[2:], "--data", data, "--task", "classification")
    train("--resume", folder, "--steps", 4, "--every", 1)
    assert steps_in(folder) == [3, 4]


def test_the_data_may_move(own, train, tmp_path):
    folder, moved = tmp_path / "ck", tmp_path / "moved.csv"
    train(*own, "--steps", 2, "--checkpoint", folder)
    os.rename(own[1], moved)
    assert "cannot read" in train("--resume", folder, "--steps", 3, status=2)
    got = train("--resume", folder, "--steps", 3, "--data", moved)
    assert got["steps"] == 3


def test_a_network_starts_a_run_with_checkpoints(own, train, undisturbed, tmp_path):
    net, folder = tmp_path / "net", tmp_path / "ck"
    train(*own, "--steps", 3, "--save", net)
    expected, end = undisturbed(*own, "--steps", 4, "--resume", net)
    train(*own, "--steps", 2, "--resume", net, "--checkpoint", folder)
    assert result(train("--steps", 4, "--resume", folder)) == result(expected)
    assert_same_end(folder, end)


def test_a_checkpoint_from_before_an_option_has_its_default(tmp_path):
    class Before:
        def _asdict(self):
            known = Settings(hidden=(2,), drop=("a",), separator=";")._asdict()
            return {name: known[name] for name in known if name not in ("drop", "separator")}

    layers = kernels.init((1, 2, 1), like=np.zeros(0, "float32"))
    losses = np.zeros(3, "float32")
    checkpoint.write(tmp_path, checkpoint.Checkpoint(layers, losses, Before()))
    assert newest(tmp_path).settings == Settings(hidden=(2,))


def test_checkpoints_go_into_another_folder(own, train, tmp_path):
    first, second = tmp_path / "first", tmp_path / "deep" / "second"
    train(*own, "--steps", 4, "--checkpoint", first, "--every", 2)
    train("--resume", first, "--steps", 6, "--checkpoint", second)
    assert (steps_in(first), steps_in(second)) == ([2, 4], [6])
    assert "with one of step 6" in train("--resume", first, "--checkpoint", second, status=2)
    # The same folder by another name is the same folder.
    train("--resume", first, "--steps", 5, "--checkpoint", first / ".." / "first")
    assert steps_in(first) == [4, 5]


# Mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--seed", 1), "expected --seed 0, as in the checkpoint in {}, got 1."),
        (("--dtype", "float64"), "expected --dtype float32, as in the checkpoint in {}, got float"),
        (("--numerics", "exact"), "expected --numerics native, as .*, got exact."),
        (("--batch-size", 9), "expected --batch-size 8, as .*, got 9."),
        (("--learning-rate", 0.25), r"expected --learning-rate 0\.1, as .*, got 0\.25."),
        (("--hidden", "6,5"), "expected --hidden 6, as .*, got 6,5."),
        (("--hidden", "none"), "expected --hidden 6, as .*, got none."),
        (("--target", "a"), "expected --target y, as .*, got a."),
        (("--task", "regression"), "expected --task classification, as .*, got regression."),
        (("--problem", "digits"), "expected no --problem, as .*, got digits."),
        (("--steps", 3), "expected 4 steps or more, which the checkpoint in {} has done, got 3."),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_refuses_other_settings(given, message, own, train, tmp_path, monkeypatch):
    folder = tmp_path / "ck"
    train(*own, "--steps", 4, "--checkpoint", folder)
    monkeypatch.setattr("kernels.cli.train.workers.fit", pytest.fail)
    got = train("--resume", folder, *given, status=2)
    with pytest.raises(ValueError, match=message.format(folder)):
        raise ValueError(got)
    assert steps_in(folder) == [4]


def test_refuses_other_data(own, train, tmp_path):
    folder, other = tmp_path / "ck", tmp_path / "other.csv"
    train(*own, "--steps", 2, "--checkpoint", folder)
    data_options(other, np.random.default_rng(1).normal(size=(41, 3)))
    got = train("--resume", folder, "--data", other, status=2)
    assert f"expected the data that the checkpoint in {folder} was trained on, got others" in got
    assert f"in {other}." in got
    shutil.copy(other, own[1])
    assert f"got others in {own[1]}." in train("--resume", folder, status=2)


def test_refuses_data_instead_of_a_problem(own, train, tmp_path):
    folder = tmp_path / "ck"
    train(*TUTORIAL, "--steps", 1, "--checkpoint", folder)
    got = train("--resume", folder, *own[:4], status=2)
    assert f"expected no --data, as in the checkpoint in {folder}, got " in got
    got = train("--resume", folder, "--batch-size", 8, status=2)
    assert f"expected no --batch-size, as in the checkpoint in {folder}, got 8." in got


def test_refuses_to_mix_runs(own, train, tmp_path):
    folder = tmp_path / "ck"
    train(*own, "--steps", 2, "--checkpoint", folder)
    for resume in ((), ("--resume", tmp_path / "net")):
        if resume:
            train(*own, "--steps", 1, "--save", tmp_path / "net")
        got = train(*own, *resume, "--steps", 9, "--checkpoint", folder, status=2)
        assert got == (
            f"Error: expected a folder without checkpoints as --checkpoint, got {folder} with one "
            f"of step 2: go on from it with --resume {folder}.\n"
        )
    assert steps_in(folder) == [2]


def test_a_folder_has_one_run_at_a_time(own, train, tmp_path):
    """Until that run has ended, however it ends."""
    folder = tmp_path / "kept"
    train(*own, "--steps", "2", "--checkpoint", folder)
    with checkpoint.owned(folder, resumed=True):
        message = train("--resume", folder, "--steps", "3", status=2)
        assert message == f"Error: another run writes checkpoints into {folder}.\n"
    holder = (
        "import sys, time, pathlib; from kernels.cli.train.checkpoint import owned\n"
        "with owned(pathlib.Path(sys.argv[1]), resumed=True): print(flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, folder], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert train("--resume", folder, "--steps", "3", status=2) == message
        other.kill()
        other.wait()
    assert train("--resume", folder, "--steps", "3")["steps"] == 3


def test_torchrun_starts_again(own, train, tmp_path, monkeypatch):
    """From its own checkpoints, and not from those of a run with another seed."""
    options = (*own, "--checkpoint", tmp_path / "kept")
    train(*options, "--steps", "2")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    report = train(*options, "--steps", "3")
    assert (report["steps"], report["resumed"]) == (3, str(tmp_path / "kept"))
    assert "expected --seed" in train(*options, "--steps", "3", "--seed", "1", status=2)
    other = tmp_path / "other"
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    train(*own, "--steps", "2", "--seed", "1", "--checkpoint", other)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert "expected --seed 1" in train(*own, "--steps", "3", "--checkpoint", other, status=2)


def test_refuses_what_is_no_folder_of_checkpoints(own, train, tmp_path, monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    got = train(*own, "--every", 3, status=2)
    assert got == "Error: --every needs --checkpoint DIR.\n"
    (tmp_path / "empty").mkdir()
    got = train("--resume", tmp_path / "empty", status=2)
    assert got.endswith(f"expected a checkpoint to go on from in {tmp_path / 'empty'}, got none.\n")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.iterdir", forbidden)
        got = train("--resume", tmp_path / "empty", status=2)
    assert got == f"Error: cannot read {tmp_path / 'empty'}: [Errno 13] Permission denied.\n"
    (tmp_path / "file").touch()
    got = train(*own, "--checkpoint", tmp_path / "file", status=2)
    assert got.startswith(f"Error: cannot write into {tmp_path / 'file'}: ")
    assert "--every" in train(*own, "--checkpoint", tmp_path / "new", "--every", 0, status=2)
    assert not (tmp_path / "new").exists()


def test_a_diverging_run_leaves_its_last_good_checkpoint(train, tmp_path):
    folder = tmp_path / "ck"
    options = ("--problem", "tutorial", "--learning-rate", 1, "--checkpoint", folder)
    got = train(*options, "--every", 1, status=1)
    assert "training diverged and nothing was saved: the loss is not finite after" in got
    (*_, last) = steps_in(folder)
    assert 0 < last < 20
    assert all(np.isfinite(layer.weight).all() for layer in newest(folder).layers)


# Damage


@pytest.fixture
def two(tmp_path):
    """Two small checkpoints, of 3 and of 5 steps."""
    folder = tmp_path / "two"
    folder.mkdir()
    # Without a zero, whose sign the digest does not see.
    layers = tuple(
        kernels.Layer(layer.weight, layer.bias + np.float32(0.5))
        for layer in kernels.init((3, 2, 2), like=np.zeros(0, "float32"))
    )
    for steps in (3, 5):
        losses = np.linspace(1.0, 2.0, steps, dtype="float32")
        checkpoint.write(
            folder, checkpoint.Checkpoint(layers, losses, Settings(hidden=(2,), steps=9))
        )
    return folder


def test_what_is_written_is_read(two):
    got = newest(two)
    assert steps_in(two) == [3, 5]
    assert got.settings == Settings(hidden=(2,), steps=9)
    assert got.losses.dtype == np.float32
    np.testing.assert_array_equal(got.losses, np.linspace(1.0, 2.0, 5, dtype="float32"))


def test_losses_need_not_be_finite(two):
    losses = np.asarray([1.0, np.inf, np.nan, -0.0, 2.0, 1.0], "float32")
    checkpoint.write(two, newest(two)._replace(losses=losses))
    assert newest(two).losses.tobytes() == losses.tobytes()


def test_a_checkpoint_put_together_from_others(two):
    """A file that is as it was written, with the hashes of other losses."""
    (path,) = two.glob("step-*5.safetensors")
    layers, losses, *_ = newest(two)
    _, texts = storage.read_tensors(path)
    storage.write_tensors(path, {**storage.tensors_of(layers), "losses": losses}, texts)
    assert newest(two).losses.tobytes() == losses.tobytes()
    storage.write_tensors(path, {**storage.tensors_of(layers), "losses": -losses}, texts)
    with pytest.raises(
        ValueError, match="expected content that fits its hashes, got other content"
    ):
        checkpoint._read(path)


def assert_falls_back(folder, capsys):
    assert len(newest(folder).losses) == 3
    err = capsys.readouterr().err
    path = folder / "step-00000005.safetensors"
    assert err.startswith("Damaged checkpoint: expected ")
    assert str(path) in err
    assert err.endswith("; going on from step 3.\n")
    assert err.count("\n") == 1


def test_every_damaged_byte_is_seen(two, capsys):
    path = two / "step-00000005.safetensors"
    whole = path.read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << i % 8
        path.write_bytes(damaged)
        assert_falls_back(two, capsys)


def test_every_cut_is_seen(two, capsys):
    path = two / "step-00000005.safetensors"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert_falls_back(two, capsys)


def test_other_files_are_seen(two, capsys):
    path = two / "step-00000005.safetensors"
    kernels.save(path, newest(two).layers)
    assert_falls_back(two, capsys)
    path.unlink()
    path.mkdir()
    assert len(newest(two).losses) == 3
    assert capsys.readouterr().err == (
        f"Damaged checkpoint: cannot read {path}: Is a directory; going on from step 3.\n"
    )


def test_training_goes_on_from_the_one_before(own, train, undisturbed):
    expected, end = undisturbed(*own, *EXACT, "--steps", 9)
    folder = end.with_name("ck")
    train(*own, *EXACT, "--steps", 6, "--checkpoint", folder, "--every", 2)
    (folder / "step-00000006.safetensors").write_bytes(b"")
    got = train("--resume", folder, "--steps", 5, warning="; going on from step 4.")
    assert got["steps"] == 5
    assert steps_in(folder) == [4, 5], "the damaged one is no longer there to be chosen"
    assert result(train("--resume", folder, "--steps", 9)) == result(expected)
    assert_same_end(folder, end)


def test_damaged_ones_push_out_none_that_are_whole(two, capsys):
    """A whole one is kept until there are two."""
    (two / "step-00000005.safetensors").write_bytes(b"")
    for steps, kept in ((6, [3, 6]), (7, [3, 7]), (8, [7, 8])):
        last = newest(two)
        losses = np.ones(steps, "float32")
        checkpoint.write(two, last._replace(losses=losses))
        assert steps_in(two) == kept
        if steps == 6:
            path = two / "step-00000006.safetensors"
            path.write_bytes(path.read_bytes()[:-1])
    assert "going on from step 3." in capsys.readouterr().err


def test_nothing_whole_is_an_error(two, train):
    for path in two.iterdir():
        path.write_bytes(b"")
    got = train("--resume", two, status=2)
    assert got.startswith(f"Error: expected a whole checkpoint in {two}, got none: expected a safe")
    assert all(path.name in got for path in two.iterdir())
    assert steps_in(two) == [3, 5]


# Interruptions


def test_ctrl_c_writes_a_last_checkpoint(own, train, undisturbed, monkeypatch):
    expected, end = undisturbed(*own, *EXACT, "--steps", 20)
    folder = end.with_name("ck")
    fit = kernels.fit

    def interrupted(*arguments, start, progress, **settings):
        def count(done, loss):
            if start + done in (3, 11):
                signal.raise_signal(signal.SIGINT)
            progress(done, loss)

        return fit(*arguments, start=start, progress=count, **settings)

    monkeypatch.setattr("kernels.cli.train.workers.fit", interrupted)
    options = (*own, *EXACT, "--steps", 20, "--checkpoint", folder, "--every", 4)
    after = f"the network so far is in a checkpoint: go on with --resume {folder}."
    got = train(*options, status=130, warning=f"Interrupted after 3 of 20 steps; {after}")
    assert (got["steps"], steps_in(folder)) == (3, [3])
    train("--resume", folder, status=130, warning=f"Interrupted after 11 of 20 steps; {after}")
    assert steps_in(folder) == [8, 11]
    assert result(train("--resume", folder)) == result(expected)
    assert_same_end(folder, end)


PROGRAM = """
import itertools, os, pathlib, signal, sys
count = itertools.count(1)
def dying(function, number):
    def call(*arguments, **keywords):
        if next(count) == number:
            last(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call
{0}
from kernels.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def start(*arguments, program="", wrapper=()):
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", PROGRAM.format(program), "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


KILLS = {
    # The folder too is synchronised, so that this is the third file.
    "half written": (
        "last = lambda file: os.truncate(file, 100); os.fsync = dying(os.fsync, 5)",
        [2, 4],
        True,
    ),
    "before the rename": ("last = print; os.replace = dying(os.replace, 3)", [2, 4], True),
    "after the rename": ("last = os.replace; os.replace = dying(os.replace, 3)", [2, 4, 6], False),
    "before the first": ("last = print; os.replace = dying(os.replace, 1)", [], True),
}


@pytest.mark.parametrize("moment", KILLS)
def test_killed_while_writing(moment, own, train, undisturbed):
    program, left, unfinished = KILLS[moment]
    expected, end = undisturbed(*own, *EXACT, "--steps", 9)
    folder = end.with_name("ck")
    options = (*own, *EXACT, "--steps", 9, "--every", 2, "--checkpoint", folder)
    process = start(*options, program=program)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, (out, err)
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert len(hidden) == unfinished
    names = [f"step-{step:08}.safetensors" for step in left]
    assert sorted(path.name for path in folder.glob("step*")) == names
    (folder / ".keep").touch()
    got = train("--resume", folder) if left else train(*options)
    assert result(got) == result(expected)
    (folder / ".keep").unlink()
    assert steps_in(folder) == [8, 9]
    assert_same_end(folder, end)


# So that no disk is fast enough to end before the last kill.
SLOW = """
import time
replace = os.replace
os.replace = lambda *names: (time.sleep(0.003), replace(*names))
"""


def test_killed_at_any_moment(own, train, undisturbed):
    options = (*own, *EXACT, "--steps", 200)
    expected, end = undisturbed(*options)
    folder = end.with_name("ck")
    rng = random.Random(0)
    seen = set()
    for kill in range(4):
        if kill == 0:
            process = start(*options, "--checkpoint", folder, "--every", 1, program=SLOW)
        else:
            process = start("--resume", folder, program=SLOW)
        begin = time.monotonic()
        while not folder.exists() or {path.name for path in folder.glob("step*")} <= seen:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() - begin < 60
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.02))
        process.kill()
        out, err = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, (out, err)
        seen |= {path.name for path in folder.glob("step*")}
    assert len(newest(folder).losses) < 200
    assert result(train("--resume", folder)) == result(expected)
    assert steps_in(folder) == [199, 200]
    assert_same_end(folder, end)


# Space


def assert_goes_on_after_a_full_disk(process, folder, train, expected, end, reason):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, (out, err)
    assert out == ""
    assert err.startswith("Error: cannot write a checkpoint into ")
    assert reason in err
    assert err.count("\n") == 1
    assert steps_in(folder) == [2, 4], "the last good ones stay, and nothing half written"
    assert result(train("--resume", folder)) == result(expected)
    assert_same_end(folder, end)


@pytest.mark.parametrize("compiling", [(), ("--compile",)])
def test_a_file_that_may_not_grow(compiling, train, undisturbed):
    pytest.importorskip("resource", reason="this system has no file-size limits")
    expected, end = undisturbed(*TUTORIAL, *EXACT, "--steps", 9)
    folder = end.with_name("ck")
    options = (*TUTORIAL, *EXACT, *compiling, "--every", 2, "--checkpoint", folder)
    # The losses make each checkpoint a little larger than the one before.
    train(*options, "--steps", 4)
    limit = (folder / "step-00000004.safetensors").stat().st_size
    shutil.rmtree(folder)
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    process = start(*options, "--steps", 9, program=program)
    assert_goes_on_after_a_full_disk(process, folder, train, expected, end, "File too large")


def test_a_full_disk(train, undisturbed, tmp_path):
    disk, folder = tmp_path / "disk", tmp_path / "ck"
    disk.mkdir()
    # A file system with room for two, in a namespace that ends with the process.
    wrapper = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    mount = f"mount -t tmpfs -o size=80k tmpfs {disk}"
    try:
        subprocess.run([*wrapper, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system can be mounted here: {error}")
    script = f'{mount} && "$0" "$@"; status=$?; cp -r {disk}/ck {folder}; exit $status'
    options = (*TUTORIAL, *EXACT, "--steps", 9)
    expected, end = undisturbed(*options)
    process = start(*options, "--every", 2, "--checkpoint", disk / "ck", wrapper=(*wrapper, script))
    reason = "No space left on device"
    assert_goes_on_after_a_full_disk(process, folder, train, expected, end, reason)


# The loop


def recorded():
    """A `fit` that takes no time, and the arguments of its calls."""
    calls = []

    def fit(layers, x, y, *, start, state, steps, progress, seed):
        # It goes from run to run.
        assert state == (start if calls else None)
        calls.append((layers, start, steps, seed))
        losses = []
        for i in range(start, start + steps):
            losses.append(float(i))
            try:
                progress(i + 1 - start, losses[-1])
            except StopIteration:
                break
        return kernels.training.Fit((*layers, len(losses)), np.asarray(losses), start + len(losses))

    return fit, calls


def test_runs_end_at_multiples():
    fit, calls = recorded()
    kept, seen = [], []
    train = running.in_runs(fit, every=4, keep=lambda *now: kept.append(now))
    x = np.zeros((1, 1))
    layers, losses, state = train(
        (), x, x, start=3, steps=10, seed=5, progress=lambda *now: seen.append(now)
    )
    assert calls == [((), 3, 1, 5), ((1,), 4, 4, 5), ((1, 4), 8, 4, 5), ((1, 4, 4), 12, 1, 5)]
    assert layers == (1, 4, 4, 1)
    assert state == 13
    assert losses.tolist() == list(range(3, 13))
    assert seen == [(i + 1, 3.0 + i) for i in range(10)]
    assert [layers for layers, *_ in kept] == [(1,), (1, 4), (1, 4, 4), (1, 4, 4, 1)]
    assert [losses.tolist() for _, losses, _ in kept] == [[3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]
    assert [state for *_, state in kept] == [4, 8, 12, 13]


@pytest.mark.parametrize("last", [2, 4, 6])
def test_a_stop_ends_all_runs(last):
    fit, calls = recorded()
    kept = []

    def progress(done, loss):
        if done == last:
            raise StopIteration

    train = running.in_runs(fit, every=4, keep=lambda *now: kept.append(now))
    x = np.zeros((1, 1))
    _, losses, _ = train((), x, x, steps=10, seed=5, progress=progress)
    assert losses.tolist() == list(range(last))
    assert [loss for _, losses, _ in kept for loss in losses.tolist()] == list(range(last))
    assert len(calls) == (2 if last > 4 else 1)
