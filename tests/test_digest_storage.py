"""The hash of a network and its file hold the same bits on every backend."""

import hashlib
import json
import math
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from _assert import assert_identical, assert_networks_identical, bits, fetch, parameters
from _params import half

import kernels
from kernels import Layer

NETWORKS = {"biases": (True, True), "no bias": (False, False), "one bias": (False, True)}


def network(asarray, dtype, biases=(True, True)):
    """Make a network of numbers that are hard to print: extremes, both zeros, random bits."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(3, 4)).astype(dtype)
    info = np.finfo(dtype)
    subnormal = info.smallest_subnormal
    first.flat[:7] = [0.0, -0.0, info.max, info.min, info.tiny, subnormal, -3 * subnormal]
    second = rng.normal(size=(4, 2)).astype(dtype)
    bias = [np.asarray([1.5, -0.0, 1 / 3, -2.0], dtype), np.asarray([0.1, -0.0], dtype)]
    return tuple(
        Layer(asarray(w, dtype), asarray(b, dtype) if has else None)
        for w, b, has in zip((first, second), bias, biases, strict=True)
    )


def documented_digest(layers):
    """Hash as the docstring of `kernels.digest` says, in NumPy."""
    sha = hashlib.sha256(b"%d layers\n" % len(layers))
    for i, layer in enumerate(layers):
        for field in ("weight", "bias"):
            if getattr(layer, field) is None:
                continue
            host = fetch(getattr(layer, field))
            shape = ",".join(map(str, host.shape))
            sha.update(f"layers.{i}.{field} {host.dtype.name} {shape}\n".encode("ascii"))
            sha.update((host + 0.0).astype(host.dtype.newbyteorder("<")).tobytes(order="C"))
    return sha.hexdigest()


@pytest.mark.parametrize("biases", NETWORKS)
def test_digest_is_the_documented_one(asarray, dtype, biases):
    layers = network(asarray, dtype, NETWORKS[biases])
    assert kernels.digest(layers) == documented_digest(layers)
    # The oracle's own zeros are all +0.
    assert bits(layers[0].weight).flat[1] != 0


def test_digest_is_the_same_everywhere(asarray, dtype):
    # From NumPy, by `documented_digest`.
    expected = {
        "float32": "6f174bc3789cdaf2ef905c61eac685ed5b2a4eeda35b2392de837101224d64e1",
        "float64": "d21f35fcc821e66708c1fb7736429e7a8c3abf8418ab6e81a1d4bf909dd72b1b",
    }
    assert kernels.digest(network(asarray, dtype)) == expected[dtype]


def with_weight(layers, host, asarray, dtype):
    return (Layer(asarray(host, dtype), layers[0].bias), *layers[1:])


def test_digest_takes_both_zeros_for_one(asarray, dtype):
    layers = network(asarray, dtype)
    host = fetch(layers[0].weight)
    host[host == 0.0] = 0.0
    positive = kernels.digest(with_weight(layers, host, asarray, dtype))
    host[host == 0.0] = -0.0
    negative = kernels.digest(with_weight(layers, host, asarray, dtype))
    assert positive == negative == kernels.digest(layers)


def test_digest_sees_every_bit(asarray, dtype):
    layers = tuple(
        Layer(layer.weight[:2, :2] * 1.0, layer.bias[:2] * 1.0)
        for layer in (network(asarray, dtype)[1],) * 2
    )
    seen = {kernels.digest(layers)}
    count = 1
    for i, layer in enumerate(layers):
        for field, a in zip(layer._fields, layer, strict=True):
            host = fetch(a)
            for index in np.ndindex(host.shape):
                if host[index] == 0.0:
                    continue
                for bit in range(8 * host.itemsize):
                    changed = host.copy()
                    changed.view(f"u{host.itemsize}")[index] ^= 1 << bit
                    if not np.isfinite(changed[index]):
                        continue
                    new = layer._replace(**{field: asarray(changed, dtype)})
                    seen.add(kernels.digest((*layers[:i], new, *layers[i + 1 :])))
                    count += 1
    # Ten numbers, of which a changed exponent makes a few infinite.
    assert count > 0.9 * 10 * 8 * host.itemsize
    assert len(seen) == count


def test_digest_sees_structure(asarray):
    def zeros(*shape, dtype="float32"):
        return asarray(np.zeros(shape), dtype)

    networks = [
        (Layer(zeros(2, 6)),),
        (Layer(zeros(6, 2)),),
        (Layer(zeros(3, 4)),),
        (Layer(zeros(2, 6, dtype="float64")),),
        (Layer(zeros(2, 3, dtype="float64")),),  # as many bytes as the first
        (Layer(zeros(2, 6), zeros(6)),),
        (Layer(zeros(2, 2)), Layer(zeros(2, 4))),
        (Layer(zeros(2, 2)), Layer(zeros(2, 3), zeros(3))),
        (Layer(zeros(2, 2), zeros(2)), Layer(zeros(2, 3))),
        (Layer(zeros(2, 2)), Layer(zeros(2, 2)), Layer(zeros(2, 2))),
        (Layer(zeros(0, 2)),),
        (Layer(zeros(2, 0)),),
    ]
    assert len({kernels.digest(layers) for layers in networks}) == len(networks)


def test_digest_takes_no_subnormal_for_zero(asarray, dtype):
    # JAX and TensorFlow compare them as equal.
    tiny = np.finfo(dtype).smallest_subnormal
    networks = [(Layer(asarray([[value]], dtype)),) for value in (0.0, tiny, -tiny, 2 * tiny)]
    assert len({kernels.digest(layers) for layers in networks}) == 4


@pytest.mark.parametrize("layout", ["transposed", "strided"])
def test_digest_does_not_see_the_layout(asarray, dtype, layout):
    layers = network(asarray, dtype)
    host = fetch(layers[1].weight)
    if layout == "transposed":
        weight = asarray(host.T.copy(), dtype).T
    else:
        weight = asarray(np.repeat(np.repeat(host, 2, axis=0), 2, axis=1), dtype)[::2, ::2]
    assert kernels.digest((layers[0], Layer(weight, layers[1].bias))) == kernels.digest(layers)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["layers.0.weight", "layers.1.bias"])
def test_digest_of_what_is_not_finite(asarray, dtype, bad, place):
    layers = list(network(asarray, dtype))
    _, i, field = place.split(".")
    host = fetch(getattr(layers[int(i)], field))
    host.flat[-1] = bad
    layers[int(i)] = layers[int(i)]._replace(**{field: asarray(host, dtype)})
    with pytest.raises(
        ValueError, match=f"expected finite weights, got infinity or NaN in {place}"
    ):
        kernels.digest(layers)


@half
def test_digest_of_another_dtype(asarray, xp):
    layers = (Layer(xp.astype(asarray(np.ones((2, 2)), "float32"), xp.float16)),)
    with pytest.raises(TypeError, match=r"expected float32 or float64 weights, got .*float16"):
        kernels.digest(layers)


@pytest.fixture
def path(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("biases", NETWORKS)
@pytest.mark.parametrize("as_text", [False, True], ids=["Path", "str"])
def test_what_is_saved_is_loaded(asarray, dtype, like, path, biases, as_text):
    layers = network(asarray, dtype, NETWORKS[biases])
    where = str(path) if as_text else path
    kernels.save(where, layers)
    again = kernels.load(where, like=like)
    # -0 too.
    assert_networks_identical(again, layers)
    assert os.listdir(path.parent) == [path.name]


def test_infinity_and_nan_are_saved(asarray, dtype, like, path):
    layers = (Layer(asarray([[math.inf, -math.inf, math.nan]], dtype)),)
    kernels.save(path, layers)
    assert_identical(kernels.load(path, like=like)[0].weight, layers[0].weight)


def test_every_bit_of_nan_is_saved(path):
    """Also of one that signals, where elements do not lie one after the other."""
    words = np.asarray([0x7FA00001, 0xFFC12345, 0x80000000, 1], "uint32")
    bias = np.repeat(words.view("float32"), 2)[::2]
    kernels.save(path, (Layer(np.zeros((1, 4), "float32"), bias),))
    (again,) = kernels.load(path, like=bias)
    np.testing.assert_array_equal(again.bias.view("uint32"), words)


def test_file_is_read_by_safetensors(asarray, dtype, path):
    layers = network(asarray, dtype, (True, False))
    kernels.save(path, layers)
    from safetensors.numpy import load_file

    tensors = load_file(path)
    assert tensors.keys() == {"layers.0.weight", "layers.0.bias", "layers.1.weight"}
    for name, tensor in tensors.items():
        _, i, field = name.split(".")
        np.testing.assert_array_equal(
            bits(tensor), bits(fetch(getattr(layers[int(i)], field))), strict=True
        )


def test_file_of_safetensors_is_read(asarray, dtype, like, path):
    pytest.importorskip("safetensors")
    from safetensors.numpy import save_file

    layers = network(asarray, dtype)
    names = [f"layers.{i}.{field}" for i in (0, 1) for field in Layer._fields]
    save_file(dict(zip(names, map(fetch, parameters(layers)), strict=True)), path)
    assert_networks_identical(kernels.load(path, like=like), layers)


def test_files_are_the_same_everywhere(asarray, dtype, path):
    layers = network(asarray, dtype)
    kernels.save(path, layers)
    other = path.with_name("other")
    kernels.save(other, tuple(Layer(*map(fetch, layer)) for layer in layers))
    assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("fault", ["write", "fsync", "replace", "interrupt"])
def test_crash_leaves_the_old_file_whole(asarray, dtype, like, path, monkeypatch, fault):
    old = network(asarray, dtype)
    kernels.save(path, old)
    before = path.read_bytes()
    error = KeyboardInterrupt if fault == "interrupt" else OSError

    def fail(*args, **kwargs):
        raise error("no space left on device")

    if fault == "write":
        monkeypatch.setattr("kernels.storage.open", _failing_open(fail), raising=False)
    else:
        monkeypatch.setattr(os, "fsync" if fault == "fsync" else "replace", fail)
    with pytest.raises(error, match="no space left"):
        kernels.save(path, kernels.init((5, 5), like=like))
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


def _failing_open(fail):
    def opened(*args, **kwargs):
        file = open(*args, **kwargs)  # noqa: SIM115

        class Failing:
            writelines = staticmethod(fail)
            name, fileno = file.name, file.fileno

            def __enter__(self):
                return self

            def __exit__(self, *args):
                file.close()

        return Failing()

    return opened


def test_killed_while_writing_leaves_the_old_file_whole(path):
    """End the process, with no chance to tidy up, before the rename."""
    code = """
import os, sys
import numpy as np
import kernels
kernels.save(sys.argv[1], kernels.init((3, 2), like=np.zeros(0)))
os.replace = lambda *args: os._exit(7)
kernels.save(sys.argv[1], kernels.init((3, 2), like=np.zeros(0), seed=1))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 7
    like = np.zeros(0)
    loaded = kernels.load(path, like=like)
    assert_networks_identical(loaded, kernels.init((3, 2), like=like))


NETWORK = network(np.asarray, "float32")
LIKE = np.zeros(0, "float32")


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("kind", ["finite", "not finite"])
def test_no_flipped_bit_is_loaded(path, kind):
    layers = NETWORK
    if kind == "not finite":
        layers = (Layer(np.asarray([[math.inf, math.nan, -0.0]], "float32")),)
    kernels.save(path, layers)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(ValueError, match=r"net\.safetensors"):
            kernels.load(path, like=LIKE)


def test_no_random_damage_is_loaded(path):
    """The name of the hash in the header is damaged too, in every fifth of these files."""
    kernels.save(path, (Layer(np.zeros((1, 1), "float32")),))
    whole = path.read_bytes()
    name = whole.index(b"sha256_of_file")
    rng = np.random.default_rng(0)
    for trial in range(1000):
        damaged = flipped(whole, int(rng.integers(8 * len(whole) - 32, 8 * len(whole))))
        for _ in range(trial % 4):
            damaged = flipped(damaged, int(rng.integers(8 * len(whole))))
        if trial % 5 == 0:
            damaged = flipped(damaged, 8 * (name + int(rng.integers(14))))
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net\.safetensors"):
            kernels.load(path, like=LIKE)


def test_damage_is_told_by_the_hashes(path):
    kernels.save(path, NETWORK)
    whole = path.read_bytes()
    damaged = flipped(whole, 8 * len(whole) - 1)
    path.write_bytes(damaged)
    at = whole.index(b'"sha256_of_file":"') + 18
    written = whole[at : at + 64].decode()
    # As the docstring of `save` says.
    found = [
        hashlib.sha256(data[:at] + b"0" * 64 + data[at + 64 :]).hexdigest()
        for data in (whole, damaged)
    ]
    assert found[0] == written
    message = f"SHA-256 {written} that .*net.safetensors was written with, got {found[1]}: "
    with pytest.raises(ValueError, match=message):
        kernels.load(path, like=LIKE)


@pytest.mark.parametrize("texts", [None, {"format": "pt"}, {"model": "a" * 64}])
def test_files_without_a_hash_are_read(path, texts):
    from safetensors.numpy import save_file

    names = [f"layers.{i}.{field}" for i in (0, 1) for field in Layer._fields]
    save_file(dict(zip(names, parameters(NETWORK), strict=True)), path, texts)
    assert_networks_identical(kernels.load(path, like=LIKE), NETWORK)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
def test_layers_without_weights(asarray, dtype, like, path, shape):
    layers = (Layer(asarray(np.zeros(shape), dtype), asarray(np.ones(shape[1]), dtype)),)
    kernels.save(path, layers)
    assert_networks_identical(kernels.load(path, like=like), layers)


def assert_saves(path):
    kernels.save(path, NETWORK)
    assert_networks_identical(kernels.load(path, like=LIKE), NETWORK)


@pytest.mark.parametrize("there", [True, False], ids=["there", "dangling"])
def test_symbolic_links_stay(path, there):
    folder = path.parent / "folder"
    folder.mkdir()
    target, link = folder / "target", path.parent / "link"
    link.symlink_to(os.path.join("folder", "target"))
    path.symlink_to("link")
    if there:
        target.write_bytes(b"older")
    assert_saves(path)
    assert os.readlink(path) == "link"
    assert os.readlink(link) == os.path.join("folder", "target")
    assert not target.is_symlink()
    assert os.listdir(folder) == ["target"]
    assert sorted(os.listdir(path.parent)) == ["folder", "link", path.name]


def test_links_that_lead_nowhere(path):
    path.symlink_to(path.name)
    with pytest.raises(OSError, match=r"symbolic links.*net\.safetensors"):
        kernels.save(path, NETWORK)
    assert path.is_symlink()


def test_a_pipe_is_written_to(path):
    expected = path.with_name("file")
    kernels.save(expected, NETWORK)
    os.mkfifo(path)
    # Writing does not wait: a pipe has room for more than this network.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as pipe:
        kernels.save(path, NETWORK)
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert pipe.read() == expected.read_bytes()


def test_a_device_is_written_to(path):
    # By a link, so that it is safe should this fail.
    path.symlink_to(os.devnull)
    kernels.save(path, NETWORK)
    assert path.is_symlink()
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        kernels.save(path, NETWORK)
    assert path.is_symlink()


def test_a_folder_is_not_written_to(path):
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=r"net\.safetensors"):
        kernels.save(path, NETWORK)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes_are_those_of_open(path):
    kernels.save(path, NETWORK)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o644, 0o600, 0o755):
        path.chmod(mode)
        kernels.save(path, NETWORK)
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_file_keeps_its_owner(path):
    path.touch()
    try:
        os.chown(path, 12345, 23456)
    except PermissionError:
        pytest.skip("only root gives files away")
    kernels.save(path, NETWORK)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_a_file_that_may_not_be_changed(path):
    path.write_bytes(b"precious")
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may change every file")
    with pytest.raises(PermissionError, match=r"net\.safetensors"):
        kernels.save(path, NETWORK)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["n", "n" * 250, "n" * 255, "\u20ac" * 85])
def test_every_legal_name(path, name):
    assert_saves(path.with_name(name))
    assert_saves(path.with_name(name))
    assert os.listdir(path.parent) == [name]


def test_save_into_a_folder_that_is_not_there(like, path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.net'"):
        kernels.save(path.parent / "nowhere" / "net", kernels.init((2, 2), like=like))


def test_save_of_what_is_no_network(asarray, dtype, path):
    with pytest.raises(ValueError, match="expected at least one layer, got an empty network"):
        kernels.save(path, ())
    with pytest.raises(ValueError, match=r"expected layers\[0\].weight of shape \(n_in, n_out\)"):
        kernels.save(path, (Layer(asarray(np.zeros(3), dtype)),))
    assert not os.listdir(path.parent)


def test_load_of_no_file(like, path):
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
        kernels.load(path, like=like)


@pytest.mark.parametrize("content", [b"", b"not a network", b"\xff" * 100, b"cut"])
def test_load_of_another_file(like, path, content):
    if content == b"cut":
        kernels.save(path, kernels.init((3, 2), like=like))
        content = path.read_bytes()[:-1]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a safetensors file, got .*net.safetensors: "):
        kernels.load(path, like=like)


def raw(tensors):
    """Write the format by hand: the header's length, the header, the bytes."""
    header, data = {}, b""
    for name, (dtype, a) in tensors.items():
        content = np.ascontiguousarray(a).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(a.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


ONES = np.ones((2, 2), "<f4")
WRONG = {
    "nothing": ({}, "expected a network of tensors .*, got no tensors"),
    "other names": ({"weight": ("F32", ONES)}, r"expected a network .*, got \['weight'\]"),
    "a layer missing": (
        {"layers.0.weight": ("F32", ONES), "layers.2.weight": ("F32", ONES)},
        r"expected a network .*, got \['layers.2.weight'\]",
    ),
    "a bias alone": ({"layers.0.bias": ("F32", ONES[0])}, r"got \['layers.0.bias'\]"),
    "more than a network": (
        {"layers.0.weight": ("F32", ONES), "step": ("F32", ONES)},
        r"expected a network .*, got \['step'\]",
    ),
    "integers": (
        {"layers.0.weight": ("I32", ONES)},
        "expected float32 weights, as `like`, got I32 for layers.0.weight",
    ),
    "another dtype": (
        {"layers.0.weight": ("F64", ONES.astype("<f8"))},
        "expected float32 weights, as `like`, got F64 for layers.0.weight",
    ),
    "a bias of another dtype": (
        {"layers.0.weight": ("F32", ONES), "layers.0.bias": ("F64", ONES[0].astype("<f8"))},
        "expected float32 weights, as `like`, got F64 for layers.0.bias",
    ),
    "a vector": (
        {"layers.0.weight": ("F32", ONES[0])},
        r"of shape \(n_in, n_out\), got shape \(2,\)",
    ),
    "a bias too long": (
        {"layers.0.weight": ("F32", ONES), "layers.0.bias": ("F32", ONES.reshape(-1))},
        r"expected layers\[0\].bias of shape \(2,\), got shape \(4,\)",
    ),
    "no chain": (
        {"layers.0.weight": ("F32", ONES), "layers.1.weight": ("F32", np.ones((3, 2), "<f4"))},
        r"expected layers\[1\].weight of shape \(2, n_out\), .* got shape \(3, 2\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_load_of_other_tensors(asarray, path, wrong):
    tensors, message = WRONG[wrong]
    path.write_bytes(raw(tensors))
    with pytest.raises(ValueError, match=rf"{message}.* in .*net\.safetensors"):
        kernels.load(path, like=asarray(np.zeros(0), "float32"))


def test_load_into_integers(asarray, path):
    path.write_bytes(raw({"layers.0.weight": ("F32", ONES)}))
    with pytest.raises(TypeError, match="expected like of a real floating dtype"):
        kernels.load(path, like=asarray(np.zeros(0, np.int32)))


def test_load_is_right_about_right_tensors(asarray, path):
    """The hand-made file of the tests above is read when nothing is wrong with it."""
    path.write_bytes(raw({"layers.0.weight": ("F32", ONES)}))
    (layer,) = kernels.load(path, like=asarray(np.zeros(0), "float32"))
    np.testing.assert_array_equal(fetch(layer.weight), ONES)
    assert layer.bias is None
