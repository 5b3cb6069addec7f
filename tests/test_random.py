"""The generator: known answers, an independent oracle, and the same bits on every backend."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from _assert import fetch
from _params import brain, half, thorough, where
from hypothesis import given, strategies

import kernels
from kernels import random

# Made with this file's own oracle and NumPy, not with the package.
DIGESTS = json.loads((Path(__file__).parent / "digests_random.json").read_text())

ONES = 0xFFFFFFFF
# Of the authors' library Random123, file kat_vectors: key, counter, result of threefry2x32 with
# 20 rounds. https://github.com/DEShawResearch/random123/blob/main/tests/kat_vectors
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
WORDS = strategies.integers(0, ONES)


def halves(words):
    return tuple((word >> 16, word & 0xFFFF) for word in words)


def join(half_words):
    return tuple((high << 16) | low for high, low in half_words)


def threefry_oracle(key, counter):
    """Compute Threefry-2x32-20 as the paper has it, in integers: the key enters every 4 rounds."""
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDA]
    a, b = counter
    for r in range(20):
        if r % 4 == 0:
            s = r // 4
            a = (a + keys[s % 3]) % 2**32
            b = (b + keys[(s + 1) % 3] + s) % 2**32
        a = (a + b) % 2**32
        d = rotations[r % 8]
        b = ((b << d) | (b >> (32 - d))) % 2**32 ^ a
    return (a + keys[5 % 3]) % 2**32, (b + keys[6 % 3] + 5) % 2**32


@pytest.mark.parametrize(("key", "counter", "result"), KNOWN)
def test_known_answers(key, counter, result):
    assert threefry_oracle(key, counter) == result
    assert join(random.threefry2x32(halves(key), halves(counter))) == result


@pytest.mark.parametrize(("key", "counter", "result"), KNOWN)
def test_known_answers_in_arrays(asarray, key, counter, result):
    arrays = tuple(
        tuple(asarray(np.full(3, half, dtype=np.int32)) for half in word)
        for word in halves(counter)
    )
    for (high, low), word in zip(random.threefry2x32(halves(key), arrays), result, strict=True):
        assert high.dtype == low.dtype == arrays[0][0].dtype
        np.testing.assert_array_equal(fetch(high), [word >> 16] * 3)
        np.testing.assert_array_equal(fetch(low), [word & 0xFFFF] * 3)


@given(key=strategies.tuples(WORDS, WORDS), counter=strategies.tuples(WORDS, WORDS))
def test_threefry(key, counter):
    assert join(random.threefry2x32(halves(key), halves(counter))) == threefry_oracle(key, counter)


def draws(n, seed, stream):
    return np.asarray(
        [threefry_oracle((seed % 2**32, seed >> 32), (i, stream)) for i in range(n)],
        dtype=np.uint64,
    ).reshape(n, 2)


SEEDS = [(0, 0), (1, 7), (2**64 - 1, 2**32 - 1), (0x0123456789ABCDEF, 2**31 + 5)]


@pytest.mark.parametrize(("seed", "stream"), SEEDS)
def test_uniform(asarray, seed, stream):
    words = draws(24, seed, stream)
    # 24 bits, and 53: the first word and the top 21 bits of the second.
    single = (words[:, 0] >> np.uint64(8)).astype(np.float32) / np.float32(2**24)
    double = (words[:, 0] << np.uint64(21) | words[:, 1] >> np.uint64(11)).astype(float) / 2**53
    for dtype, desired in (("float32", single), ("float64", double)):
        like = asarray(np.zeros(0), dtype)
        draw = random.uniform((2, 3, 4), seed=seed, stream=stream, like=like)
        assert draw.dtype == like.dtype
        np.testing.assert_array_equal(fetch(draw), desired.reshape(2, 3, 4), strict=True)


def test_float32_is_float64_cut_to_24_bits(asarray):
    single, double = (
        fetch(random.uniform((10_000,), seed=3, stream=4, like=asarray(np.zeros(0), dtype)))
        for dtype in ("float32", "float64")
    )
    np.testing.assert_array_equal(single.astype(float), np.floor(double * 2**24) / 2**24)


def test_uniform_moments(like):
    n = 100_000
    draw = fetch(random.uniform((n,), seed=0, stream=0, like=like)).astype(float)
    assert draw.min() >= 0.0
    assert draw.max() < 1.0
    # Within 4 standard errors, which a fixed seed either is or is not.
    assert abs(draw.mean() - 1 / 2) < 4 * np.sqrt(1 / 12 / n)
    assert abs(draw.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)
    counts = np.bincount((draw * 100).astype(int), minlength=100)
    assert abs(((counts - n / 100) ** 2 / (n / 100)).sum() - 99) < 4 * np.sqrt(2 * 99)


def test_normal(like):
    """The sum of twelve numbers of 16 bits: the halves of three counters' words, less the mean."""
    words = draws(3 * 10, 5, 6)
    halves = np.stack([words >> np.uint64(16), words & np.uint64(0xFFFF)]).astype(int)
    total = halves.sum(axis=(0, 2)).reshape(-1, 3).sum(axis=1)
    desired = (total - 12 * (2**16 - 1) / 2) / 2**16
    draw = random.normal((5, 2), seed=5, stream=6, like=like)
    assert draw.dtype == like.dtype
    np.testing.assert_array_equal(fetch(draw), desired.reshape(5, 2))


def test_normal_moments(like):
    n = 100_000
    draw = fetch(random.normal((n,), seed=0, stream=0, like=like)).astype(float)
    assert np.abs(draw).max() < 6.0
    assert abs(draw.mean()) < 4 / np.sqrt(n)
    assert abs(draw.var() - 1) < 4 * np.sqrt(2 / n)
    # The density of a normal number falls to this within one standard deviation; of a uniform one
    # with variance 1 it would be 0.577.
    assert abs(np.mean(np.abs(draw) < 1) - 0.683) < 0.01


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_permutation(like, n):
    order = fetch(random.permutation(n, seed=1, stream=2, like=like))
    assert order.dtype.kind in "iu"
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    np.testing.assert_array_equal(order, np.argsort(draws(n, 1, 2)[:, 0], kind="stable"))


@pytest.mark.thorough("ndonnx")
def test_equal_draws_keep_their_order(asarray):
    """Of so many samples some have one draw, and a sort that is not stable would differ."""
    n = 300_000
    index = np.arange(n, dtype=np.uint64)
    draw, _ = threefry_oracle((3, 0), (index, np.full_like(index, 9)))
    assert np.unique(draw).size < n
    like = asarray(np.zeros(0), "float32")
    order = fetch(random.permutation(n, seed=3, stream=9, like=like))
    np.testing.assert_array_equal(order, np.argsort(draw, kind="stable"))


@pytest.mark.parametrize("draw", [random.uniform, random.normal])
@pytest.mark.parametrize("kind", [*where(half, "float16"), *where(brain, "bfloat16"), "int64"])
def test_dtypes_that_are_refused(asarray, xp, draw, kind):
    like = xp.astype(asarray(np.zeros(1), "float32"), getattr(xp, kind))
    with pytest.raises(TypeError, match=f"expected `like` of dtype float32 or float64, .*{kind}"):
        draw((2,), seed=0, stream=0, like=like)


def test_numbers_of_numpy(like):
    shape, numbers = (np.int8(100), np.int8(3)), {"seed": np.int8(5), "stream": np.uint8(200)}
    np.testing.assert_array_equal(
        fetch(random.normal(shape, **numbers, like=like)),
        fetch(random.normal((100, 3), seed=5, stream=200, like=like)),
    )
    order = random.permutation(np.int8(100), **numbers, like=like)
    assert order.shape == (100,)


def test_seeds_and_streams_differ(like):
    seen = {
        fetch(random.uniform((4,), seed=seed, stream=stream, like=like)).tobytes()
        for seed in (0, 1, 2**32, 2**63)
        for stream in (0, 1, 2**16, 2**31)
    }
    assert len(seen) == 16


DRAWS = {
    "uniform": lambda **k: random.uniform((2,), **k),
    "normal": lambda **k: random.normal((2,), **k),
    "permutation": lambda **k: random.permutation(2, **k),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("seed", "stream", "message"),
    [
        (-1, 0, r"expected a seed in \[0, 2\*\*64\), got -1"),
        (2**64, 0, r"expected a seed in \[0, 2\*\*64\), got 18446744073709551616"),
        (0, -1, r"expected a stream in \[0, 2\*\*32\), got -1"),
        (0, 2**32, r"expected a stream in \[0, 2\*\*32\), got 4294967296"),
    ],
)
def test_seed_or_stream_out_of_range(like, draw, seed, stream, message):
    with pytest.raises(ValueError, match=message):
        DRAWS[draw](seed=seed, stream=stream, like=like)


def test_too_many_draws(like):
    with pytest.raises(ValueError, match=r"expected from 0 to 2\*\*31 - 1 draws, got 2147483648"):
        random.uniform((2**16, 2**15), seed=0, stream=0, like=like)


def test_uniform_of_integers(asarray):
    with pytest.raises(
        TypeError, match=r"expected `like` of dtype float32 or float64, got .*int32"
    ):
        random.uniform((2,), seed=0, stream=0, like=asarray(np.zeros(0, np.int32)))


INITS = {
    f"sizes={','.join(map(str, sizes))} seed={seed} {dtype} bias={bias}": (sizes, seed, dtype, bias)
    for sizes, seed in (((1000, 100, 10), 0), ((64, 33, 10), 2**64 - 1), ((1, 1), 7))
    for dtype in ("float32", "float64")
    for bias in (True, False)
}


WITH_BIAS, WITHOUT = ([name for name in INITS if INITS[name][-1] == bias] for bias in (True, False))


@pytest.mark.parametrize("name", [*WITH_BIAS, *thorough(*WITHOUT)])
def test_initial_weights_are_the_same_everywhere(asarray, name):
    sizes, seed, dtype, bias = INITS[name]
    layers = kernels.init(sizes, like=asarray(np.zeros(0), dtype), seed=seed, bias=bias)
    assert kernels.digest(layers) == DIGESTS["init"][name]


def test_initial_weights(like):
    layers = kernels.init((50, 200, 3), like=like, seed=9)
    for i, layer in enumerate(layers):
        n_in, n_out = ((50, 200), (200, 3))[i]
        limit = np.sqrt(6 / n_in)
        draw = fetch(random.uniform((n_in, n_out), seed=9, stream=i, like=like))
        weight = fetch(layer.weight)
        desired = (2 * draw - 1) * draw.dtype.type(limit)
        np.testing.assert_array_equal(weight, desired, strict=True)
        np.testing.assert_array_equal(fetch(layer.bias), np.zeros(n_out, draw.dtype), strict=True)
        assert abs(weight.var() * n_in / 2 - 1) < 0.2


ORDERS = {
    f"n={n} seed={seed} stream={stream}": (n, seed, stream)
    for n, seed, stream in ((1438, 0, 2**31), (1438, 0, 2**31 + 29), (70_000, 12345678901234567, 0))
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_samples_is_the_same_everywhere(like, name):
    n, seed, stream = ORDERS[name]
    order = fetch(random.permutation(n, seed=seed, stream=stream, like=like)).astype("<i8")
    assert hashlib.sha256(order.tobytes()).hexdigest() == DIGESTS["order"][name]


def test_every_digest_is_used():
    assert DIGESTS.keys() == {"init", "order"}
    assert DIGESTS["init"].keys() == INITS.keys()
    assert DIGESTS["order"].keys() == ORDERS.keys()
