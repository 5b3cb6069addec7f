"""A library that nothing here has heard of trains without a backend."""

import importlib
import operator

import array_api_compat
import numpy as np
import pytest
from _assert import assert_identical, parameters
from _params import where

import kernels
from kernels import Layer

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES += ("float32", "float64", "complex64", "complex128")

# The operators of the standard's array object.
BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
BINARY += ("and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("lt", "le", "eq", "ne", "ge", "gt")
UNARY = ("neg", "pos", "abs", "invert")


class Dtype:
    """A dtype, of which the standard promises only that it can be compared."""

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        if not isinstance(other, Dtype):
            raise AssertionError(f"compared to {other!r}, which is of another library")
        return self.name == other.name

    __hash__ = None

    def __repr__(self):
        return f"unheard_of.{self.name}"


class Device:
    """A device, of which the standard promises as little."""

    def __eq__(self, other):
        return isinstance(other, Device)

    __hash__ = None

    def __repr__(self):
        return "unheard_of.device"


class Unheard:
    """A namespace of the standard's functions and nothing else, which lists what it is asked for.

    The arithmetic is an engine's, so that the numbers have to be the engine's to the bit.
    """

    __name__ = "unheard_of"

    def __init__(self, engine, offered=None):
        self._engine = engine
        self._offered = offered
        self.asked = set()
        self.asked_of_arrays = set()

    def __getattr__(self, name):
        self.asked.add(name)
        if self._offered is not None and name not in self._offered:
            raise AttributeError(f"the standard has no {name}")
        if name in DTYPES:
            return Dtype(name)
        found = getattr(self._engine, name)
        if not callable(found):
            return found

        def function(*args, **kwargs):
            args = [self._unwrap(arg) for arg in args]
            kwargs = {key: self._unwrap(arg) for key, arg in kwargs.items()}
            return self._wrap(found(*args, **kwargs))

        return function

    def _unwrap(self, a):
        if isinstance(a, Array):
            return a._value
        if isinstance(a, Dtype):
            return getattr(self._engine, a.name)
        if isinstance(a, Device):
            return array_api_compat.device(self._engine.asarray(0.0))
        if isinstance(a, list | tuple):
            return type(a)(self._unwrap(item) for item in a)
        if array_api_compat.is_array_api_obj(a):
            raise AssertionError(f"got an array of {type(a)}")
        return a

    def _wrap(self, a):
        if array_api_compat.is_array_api_obj(a):
            return Array(self, a)
        if isinstance(a, list | tuple):
            return type(a)(self._wrap(item) for item in a)
        return a


class Array:
    """The standard's array object, without what changes it, as in JAX and TensorFlow.

    The standard gives it no length, no iteration and no buffer.
    """

    __slots__ = ("_value", "_xp")
    __hash__ = None
    # Python would iterate by `__getitem__`; NumPy would take the array for an object.
    __iter__ = None
    __array_ufunc__ = None

    def __init__(self, xp, value):
        self._xp = xp
        self._value = value

    def __array_namespace__(self, *, api_version=None):
        return self._xp

    def __getattr__(self, name):
        self._xp.asked_of_arrays.add(name)
        raise AttributeError(f"the standard's arrays have no {name}")

    @property
    def dtype(self):
        isdtype, value = self._xp._engine.isdtype, self._value
        return next(
            Dtype(name) for name in DTYPES if isdtype(value.dtype, getattr(self._xp._engine, name))
        )

    @property
    def device(self):
        return Device()

    @property
    def shape(self):
        return self._value.shape

    @property
    def ndim(self):
        return self._value.ndim

    @property
    def size(self):
        return self._value.size

    @property
    def T(self):
        assert self._value.ndim == 2, "the standard's T is that of matrices"
        return Array(self._xp, self._value.T)

    @property
    def mT(self):
        return self.T

    def to_device(self, device, /, *, stream=None):
        assert device == self.device
        assert stream is None
        return self

    def __getitem__(self, key):
        for item in key if isinstance(key, tuple) else (key,):
            assert item is None or item is Ellipsis or isinstance(item, int | slice | Array)
        assert not isinstance(key, tuple) or len(key) == self.ndim or Ellipsis in key
        return Array(self._xp, self._value[self._xp._unwrap(key)])

    def __bool__(self):
        return bool(self._value)

    def __int__(self):
        return int(self._value)

    def __float__(self):
        return float(self._value)

    def __index__(self):
        return operator.index(self._value)


def _kind(a):
    """Name the kind of an array or Python scalar: the standard lets only equal kinds be mixed."""
    if isinstance(a, Array):
        name = a.dtype.name
        return "bool" if name == "bool" else name.rstrip("0123456789").removeprefix("u")
    return type(a).__name__


def _operator(name, reflected=False):
    function = getattr(operator, name if hasattr(operator, name) else f"{name}_")

    def method(self, *others):
        for other in others:
            if not isinstance(other, Array) and type(other) not in (bool, int, float):
                return NotImplemented
            # A Python integer may meet a floating array; nothing else may change its kind.
            scalar = not isinstance(other, Array)
            assert _kind(other) == _kind(self) or (scalar and _kind(other) == "int")
        values = [self._value, *(self._xp._unwrap(other) for other in others)]
        return self._xp._wrap(function(*(reversed(values) if reflected else values)))

    return method


for _name in BINARY:
    setattr(Array, f"__{_name}__", _operator(_name))
    setattr(Array, f"__r{_name}__", _operator(_name, reflected=True))
for _name in COMPARISONS + UNARY:
    setattr(Array, f"__{_name}__", _operator(_name))
Array.__hash__ = None


# array-api-strict is not in the environments of other libraries.
strict = pytest.mark.library("array-api-strict")


@pytest.fixture(params=["numpy", *where(strict, "array_api_strict")])
def engine(request):
    """The namespace that computes."""
    if request.param == "numpy":
        return importlib.import_module("array_api_compat.numpy")
    return pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")


def standard_names():
    """List the names of the standard, without its extensions; None where nobody can tell."""
    try:
        import array_api_strict as strict
    except ModuleNotFoundError:
        return None
    own = {"Device", "ArrayAPIStrictFlags", "__version__", "fft", "linalg"}
    return {name for name in strict.__all__ if not name.endswith("_flags")} - own


@pytest.fixture
def library(engine):
    """The unknown library."""
    return Unheard(engine, standard_names())


def engine_array(engine, host):
    """Copy from NumPy, by what every library has."""
    return engine.asarray(host.tolist(), dtype=getattr(engine, host.dtype.name))


def host_data(dtype, target):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(22, 6)).astype(dtype)
    if target == "labels":
        return x, rng.integers(4, size=22).astype("int32"), kernels.softmax_cross_entropy
    if target == "probabilities":
        return x, rng.dirichlet(np.ones(4), size=22).astype(dtype), kernels.softmax_cross_entropy
    return x, rng.normal(size=(22, 4)).astype(dtype), kernels.squared_error


def train(x, y, loss):
    """Use everything as a program would: draw a network, try it, train it both ways."""
    layers = kernels.init((6, 8, 4), like=x, seed=1)
    activations = kernels.forward(layers, x)
    _, gradient = loss(activations[-1], y)
    gradients = kernels.backward(layers, activations, gradient)
    layers = kernels.update(layers, gradients, 0.001)
    layers, value = kernels.step(layers, x, y, learning_rate=0.001, loss=loss)
    seen = [float(value)]
    layers, losses, _ = kernels.fit(
        layers,
        x,
        y,
        learning_rate=0.01,
        epochs=3,
        batch_size=8,
        loss=loss,
        progress=lambda _, value: seen.append(float(value)),
    )
    layers, more, _ = kernels.fit(layers, x, y, learning_rate=0.001, steps=2, loss=loss)
    return layers, (*activations, *parameters(gradients), value, losses, more), seen


TARGETS = pytest.mark.parametrize("target", ["squared_error", "labels", "probabilities"])
NAMES = pytest.mark.parametrize("name", ["float32", "float64"])


def placed(library, engine, name, target):
    """Data of the engine, the same of the unknown library, and a loss."""
    *hosts, loss = host_data(name, target)
    own = [engine_array(engine, host) for host in hosts]
    return own, [Array(library, a) for a in own], loss


def test_nothing_has_heard_of_it(library, engine):
    a = Array(library, engine.zeros((2, 2)))
    assert array_api_compat.array_namespace(a) is library
    names = ("cupy", "dask", "jax", "ndonnx", "numpy", "pydata_sparse", "torch")
    known = [getattr(array_api_compat, f"is_{name}_array") for name in names]
    assert not any(is_known(a) for is_known in known)
    for attempt in (memoryview, iter, len, lambda a: a.tolist()):
        with pytest.raises((TypeError, AttributeError)):
            attempt(a)


@NAMES
@TARGETS
def test_trains_to_the_same_bits(library, engine, name, target):
    own, given, loss = placed(library, engine, name, target)
    layers, results, seen = train(*given, loss)
    own_layers, own_results, own_seen = train(*own, loss)
    for a, b in zip(
        (*parameters(layers), *results), (*parameters(own_layers), *own_results), strict=True
    ):
        assert type(a) is Array
        assert a.dtype == Dtype(name)
        assert_identical(a._value, b)
    assert seen == own_seen
    assert all(isinstance(layer, Layer) for layer in layers)
    assert kernels.digest(layers) == kernels.digest(own_layers)
    assert seen[-1] < seen[1]


@strict
@NAMES
@TARGETS
def test_uses_the_standard_alone(library, engine, name, target):
    standard = standard_names()
    _, given, loss = placed(library, engine, name, target)
    layers, _, _ = train(*given, loss)
    kernels.digest(layers)
    # What the tests above compare is what these made.
    assert {"argsort", "maximum", "reshape", "take", "stack", "zeros"} <= library.asked
    assert library.asked <= standard
    # Shorter ways to the host, where there are any.
    assert library.asked_of_arrays <= {"__array__", "tolist"}


@NAMES
def test_draws_the_same_numbers(library, engine, name):
    own = engine.zeros((0,), dtype=getattr(engine, name))
    like = Array(library, own)
    for draw in (kernels.random.uniform, kernels.random.normal):
        a = draw((5, 3), seed=2**33, stream=7, like=like)
        assert a.dtype == Dtype(name)
        assert_identical(a._value, draw((5, 3), seed=2**33, stream=7, like=own))
    order = kernels.random.permutation(50, seed=1, stream=0, like=like)
    assert_identical(order._value, kernels.random.permutation(50, seed=1, stream=0, like=own))


@NAMES
def test_files(library, engine, name, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    own = kernels.init((6, 8, 4), like=engine.zeros((0,), dtype=getattr(engine, name)))
    layers = tuple(Layer(*(Array(library, a) for a in layer)) for layer in own)
    kernels.save(tmp_path / "given", layers)
    kernels.save(tmp_path / "own", own)
    assert (tmp_path / "given").read_bytes() == (tmp_path / "own").read_bytes()
    loaded = kernels.load(tmp_path / "own", like=layers[0].weight)
    for a, b in zip(parameters(loaded), parameters(own), strict=True):
        assert type(a) is Array
        assert_identical(a._value, b)
    assert kernels.digest(loaded) == kernels.digest(own)


def test_mistakes_name_it(library, engine):
    _, (x, y), loss = placed(library, engine, "float32", "squared_error")
    layers = kernels.init((6, 4), like=x)
    host = np.zeros((22, 6), "float32")
    with pytest.raises(TypeError, match=r"expected x from unheard_of, as layers.*, got numpy"):
        kernels.forward(layers, host)
    with pytest.raises(TypeError, match=r"expected x from numpy, as layers.*, got unheard_of"):
        kernels.forward(kernels.init((6, 4), like=host), x)
    with pytest.raises(ValueError, match=r"expected x of shape \(n, 6\), .*got shape \(22, 4\)"):
        kernels.step(layers, y, y, learning_rate=0.1, loss=loss)
    double = Array(library, engine.zeros((22, 6), dtype=engine.float64))
    with pytest.raises(TypeError, match=r"unheard_of.float32, as .*, got unheard_of.float64"):
        kernels.forward(layers, double)
    bad = (Layer(Array(library, engine.asarray([[float("nan")]]))),)
    with pytest.raises(ValueError, match="expected finite weights"):
        kernels.digest(bad)
