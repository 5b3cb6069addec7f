"""The kernel inside other programs: torch's autograd and modules, JAX's transformations."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _assert import assert_close, assert_identical, assert_networks_identical, fetch, parameters
from _params import one_dtype

import kernels
from kernels import EXACT, NATIVE, Layer

NUMERICS = pytest.mark.parametrize("numerics", [NATIVE, EXACT], ids=["native", "exact"])
torch_only = pytest.mark.library("torch")
jax_only = pytest.mark.library("jax")
# A power of two: only then is `w - learning_rate * gradient` rounded once in every program.
LEARNING_RATE = 2.0**-10
# As in test_exact.py, since JAX compiles every operation for every shape.
N = 7
SIZES = (7, 3, 2)
STEPS = 5


@pytest.fixture
def autograd(backend):
    """The module for the library under test."""
    return importlib.import_module(f"backends.autograd.{backend.name.partition(':')[0]}")


@pytest.fixture
def case(asarray, dtype):
    """A network with and without biases, inputs, targets, and a gradient of the prediction."""
    rng = np.random.default_rng(7)
    first, last = kernels.init(SIZES, like=asarray(np.zeros(0), dtype), seed=3)
    return SimpleNamespace(
        layers=(first, Layer(last.weight)),
        x=asarray(rng.normal(size=(N, SIZES[0])), dtype),
        y=asarray(rng.normal(size=(N, SIZES[-1])), dtype),
        gradient=asarray(rng.normal(size=(N, SIZES[-1])), dtype),
    )


def expected(case, numerics):
    """Return prediction, gradients of the parameters, and that of x, by the kernel alone."""
    activations = kernels.forward(case.layers, case.x, numerics=numerics)
    gradients = kernels.backward_to_input(
        case.layers, activations, case.gradient, numerics=numerics
    )
    return activations[-1], *gradients


@pytest.mark.library("numpy", "torch", "jax", "array-api-strict")
@NUMERICS
def test_gradient_of_the_input(case, numerics):
    """It is the gradient that a bias in front of the network would have for each sample."""
    activations = kernels.forward(case.layers, case.x, numerics=numerics)
    gradients, of_x = kernels.backward_to_input(
        case.layers, activations, case.gradient, numerics=numerics
    )
    alone = kernels.backward(case.layers, activations, case.gradient, numerics=numerics)
    assert_networks_identical(gradients, alone)
    w1, w2 = (fetch(layer.weight).astype(np.float64) for layer in case.layers)
    hidden = fetch(case.gradient).astype(np.float64) @ w2.T * (fetch(activations[1]) > 0.0)
    eps = float(np.finfo(fetch(case.x).dtype).eps)
    assert of_x.dtype == case.x.dtype
    np.testing.assert_allclose(fetch(of_x), hidden @ w1.T, rtol=0.0, atol=100 * eps)


# torch


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def with_gradients(case):
    """Copy the network and x into tensors that need gradients."""
    layers = tuple(
        Layer(leaf(weight), None if bias is None else leaf(bias)) for weight, bias in case.layers
    )
    return layers, leaf(case.x)


@torch_only
@NUMERICS
def test_torch_gradients_are_the_kernels(autograd, case, numerics):
    """Of every parameter and of x, to the bit."""
    check_torch_gradients(autograd, case, numerics, lambda function: function)


# Dynamo itself causes this warning: it instantiates a Function to trace it.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@torch_only
@one_dtype
def test_compiled_torch_gradients_are_the_kernels(autograd, backend, case):
    """With exact numerics, since native ones may differ in the last bits under a compiler."""
    check_torch_gradients(autograd, case, EXACT, backend.compile)


def check_torch_gradients(autograd, case, numerics, compile):
    def predict(layers, x):
        return autograd.predict(layers, x, numerics=numerics)

    prediction, gradients, of_x = expected(case, numerics)
    layers, x = with_gradients(case)
    got = compile(predict)(layers, x)
    assert_identical(got.detach(), prediction)
    got.backward(case.gradient)
    for a, b in zip(parameters(layers), parameters(gradients), strict=True):
        assert_identical(a.grad, b)
    assert_identical(x.grad, of_x)


@torch_only
@NUMERICS
def test_torch_gradcheck(autograd, asarray, numerics):
    """Against differences, in float64; no pre-activation is near the kink."""
    import torch

    rng = np.random.default_rng(1)
    x, w1, b1, w2 = (
        leaf(asarray(rng.normal(size=shape), "float64")) for shape in ((3, 4), (4, 5), (5,), (5, 2))
    )
    assert torch.all(torch.abs(x @ w1 + b1) > 1e-3)

    def predict(x, w1, b1, w2):
        return autograd.predict((Layer(w1, b1), Layer(w2)), x, numerics=numerics)

    assert torch.autograd.gradcheck(predict, (x, w1, b1, w2))
    target = asarray(rng.normal(size=(3, 2)), "float64")
    assert torch.autograd.gradcheck(
        lambda p: autograd.loss_of(p, target, numerics=numerics),
        (leaf(predict(x, w1, b1, w2)),),
    )


@torch_only
@pytest.mark.parametrize("loss", [kernels.squared_error, kernels.softmax_cross_entropy])
def test_torch_optimiser_gives_the_bits_of_fit(autograd, case, loss):
    """torch.optim.SGD on a module, and kernels.fit, with exact numerics."""
    import torch

    y = case.y
    if loss is kernels.softmax_cross_entropy:
        y = torch.argmax(y, dim=1)
    network = autograd.Network(case.layers, numerics=EXACT)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = autograd.loss_of(network(case.x), y, loss=loss, numerics=EXACT)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    fit = kernels.fit(
        case.layers,
        case.x,
        y,
        learning_rate=LEARNING_RATE,
        steps=STEPS,
        loss=loss,
        numerics=EXACT,
    )
    assert_networks_identical(network.to_layers(), fit.layers)
    assert_identical(torch.stack(losses), fit.losses)


@torch_only
def test_torch_module(autograd, case, tmp_path):
    """Copies its parameters, names them as `save` does, and serves inside other modules."""
    import torch

    network = autograd.Network(case.layers)
    assert list(network.state_dict()) == ["layers.0.weight", "layers.0.bias", "layers.1.weight"]
    outer = torch.nn.Sequential(
        torch.nn.Linear(2, SIZES[0], device=case.x.device, dtype=case.x.dtype),
        network,
        torch.nn.Tanh(),
    )
    outer(case.x[:, :2]).sum().backward()
    assert all(bool(torch.any(p.grad != 0.0)) for p in outer.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(bool(torch.any(a != 0.0)) for a in parameters(case.layers)[::2])
    path = tmp_path / "network.safetensors"
    pytest.importorskip("safetensors", reason="saving needs array-api-kernels[save]")
    kernels.save(path, case.layers)
    from safetensors.torch import load_file

    network.load_state_dict(load_file(path))
    assert_networks_identical(network.to_layers(), case.layers)


@torch_only
def test_torch_second_derivatives_are_refused(autograd, case):
    import torch

    _, x = with_gradients(case)
    square = autograd.predict(case.layers, x).pow(2).sum()
    (first,) = torch.autograd.grad(square, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@torch_only
def test_torch_target_with_a_gradient_is_refused(autograd, case):
    with pytest.raises(ValueError, match="a target that needs no gradient, got one with requires"):
        autograd.loss_of(case.x, leaf(case.x))
    with pytest.raises(TypeError, match="expected target to be an array, got list"):
        autograd.loss_of(case.x, [[1.0]])


# JAX


def grad_of(autograd, case, numerics):
    """(layers, x) -> gradients of the prediction times `case.gradient`, summed."""
    import jax

    def value(layers, x):
        prediction, pull = jax.vjp(
            lambda *args: autograd.predict(*args, numerics=numerics), layers, x
        )
        return prediction, *pull(case.gradient)

    return value


@jax_only
@NUMERICS
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_jax_gradients_are_the_kernels(autograd, backend, case, numerics, compiled):
    """Of every parameter and of x; with exact numerics to the bit, also compiled."""
    value = grad_of(autograd, case, numerics)
    got = (backend.compile(value) if compiled else value)(case.layers, case.x)
    eps = float(np.finfo(fetch(case.x).dtype).eps)
    for a, b in zip(flat(*got), flat(*expected(case, numerics)), strict=True):
        if compiled and numerics is NATIVE:
            assert_close(a, b, rtol=0.0, atol=100 * eps)
        else:
            assert_identical(a, b)


def flat(prediction, gradients, of_x):
    return prediction, *parameters(gradients), of_x


@jax_only
@one_dtype
@NUMERICS
def test_jax_vmap(autograd, case, numerics):
    """Over batches and over networks: what each gives alone."""
    import jax
    import jax.numpy as jnp

    value = grad_of(autograd, case, numerics)
    xs = jnp.stack([case.x, -case.x, 2.0 * case.x])
    networks = [case.layers, jax.tree.map(lambda a: 0.5 * a, case.layers)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *networks)
    # Compiled as one, since every operation of its own takes longer.
    over_x = jax.jit(jax.vmap(value, in_axes=(None, 0)))(case.layers, xs)
    over_networks = jax.jit(jax.vmap(value, in_axes=(0, None)))(stacked, case.x)
    eps = float(np.finfo(fetch(case.x).dtype).eps)
    for mapped, alone in (
        (over_x, [value(case.layers, x) for x in xs]),
        (over_networks, [value(layers, case.x) for layers in networks]),
    ):
        for i, one in enumerate(alone):
            for a, b in zip(flat(*mapped), flat(*one), strict=True):
                if numerics is EXACT:
                    assert_identical(a[i], b)
                else:
                    assert_close(a[i], b, rtol=0.0, atol=200 * eps)


@jax_only
@one_dtype
@pytest.mark.parametrize("loss", [kernels.squared_error, kernels.softmax_cross_entropy])
def test_jax_loop_gives_the_bits_of_fit(autograd, case, loss):
    """jax.value_and_grad and a plain update under jit, and kernels.fit, with exact numerics."""
    import jax
    import jax.numpy as jnp

    y = case.y
    if loss is kernels.softmax_cross_entropy:
        y = jnp.argmax(y, axis=1)

    def loss_of(layers):
        prediction = autograd.predict(layers, case.x, numerics=EXACT)
        return autograd.loss_of(prediction, y, loss=loss, numerics=EXACT)

    @jax.jit
    def step(layers):
        value, gradients = jax.value_and_grad(loss_of)(layers)
        return jax.tree.map(lambda w, g: w - LEARNING_RATE * g, layers, gradients), value

    layers, losses = case.layers, []
    for _ in range(STEPS):
        layers, value = step(layers)
        losses.append(value)
    fit = kernels.fit(
        case.layers,
        case.x,
        y,
        learning_rate=LEARNING_RATE,
        steps=STEPS,
        loss=loss,
        numerics=EXACT,
        compile=jax.jit,
    )
    assert_networks_identical(layers, fit.layers)
    assert_identical(jnp.stack(losses), fit.losses)


@jax_only
def test_jax_forward_mode_is_refused(autograd, case):
    import jax

    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(lambda x: autograd.predict(case.layers, x), (case.x,), (case.x,))


@jax_only
def test_jax_target_with_a_gradient_is_refused(autograd, case):
    import jax

    with pytest.raises(ValueError, match="a target that is a constant, got one to differentiate"):
        jax.grad(autograd.loss_of, argnums=1)(case.x, case.x)


@pytest.mark.library("torch", "jax")
def test_examples_in_the_docstrings(autograd, backend):
    if "cuda" in backend.name:
        pytest.skip("the examples are on the CPU")
    done = doctest.testmod(autograd)
    assert done.attempted > 0
    assert done.failed == 0


@pytest.mark.library("torch", "jax")
def test_example_of_the_page(autograd, tmp_path):
    """It prints what it says, in a process of its own."""
    page = (Path(__file__).parent.parent / "docs" / "programs.md").read_text()
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (program,) = (each for each in programs if f"from {autograd.__name__} import" in each)
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-W", "error", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert program.endswith(f"  # {done.stdout}")
    assert done.stdout == "True\n"


REFUSED = "expected exact numerics without automatic differentiation, got arrays"


@pytest.mark.library("jax")
def test_jax_is_refused_derivatives_through_exact_numerics(backend):
    """Also in compiled functions, and second derivatives through the plug-in."""
    import jax

    plug_in = importlib.import_module("backends.autograd.jax")
    layers = kernels.init(SIZES, like=backend.asarray(np.zeros(0), "float32"))
    x = backend.asarray(np.ones((N, SIZES[0])), "float32")
    y = backend.asarray(np.arange(N, dtype="int32") % SIZES[-1])

    def direct(layers):
        logits = kernels.forward(layers, x, numerics=kernels.EXACT)[-1]
        return kernels.softmax_cross_entropy(logits, y, numerics=kernels.EXACT)[0]

    def through_plug_in(logits):
        loss, exact = kernels.softmax_cross_entropy, kernels.EXACT
        return plug_in.loss_of(logits, y, loss=loss, numerics=exact)

    logits = kernels.forward(layers, x)[-1]
    for function, argument in (
        (jax.grad(direct), layers),
        (jax.grad(jax.jit(direct)), layers),
        (jax.jit(jax.grad(direct)), layers),
        (jax.grad(lambda a: kernels.EXACT.exp(a).sum()), logits),
        (jax.jacrev(jax.jacrev(through_plug_in)), logits),
    ):
        with pytest.raises(TypeError, match=f"{REFUSED}.*use backends.autograd.jax"):
            function(argument)
    # What is not differentiated passes.
    jax.grad(lambda a: (a * jax.lax.stop_gradient(direct(layers))).sum())(logits)


@pytest.mark.library("torch")
def test_torch_is_refused_derivatives_through_exact_numerics(backend):
    import torch

    a = backend.asarray(np.ones((2, 2)), "float32").requires_grad_()
    for operation in (kernels.EXACT.exp, kernels.EXACT.log, lambda a: kernels.EXACT.matmul(a, a)):
        with pytest.raises(TypeError, match=f"{REFUSED}.*use backends.autograd.torch"):
            operation(a)
        with torch.no_grad():
            operation(a)
        with torch.inference_mode():
            operation(a)
