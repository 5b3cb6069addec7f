"""Random programs of a few lines: operands, what the compiler knows of them, what is done."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from . import values

DTYPES = ("float32", "float64")

# How a compiler comes to know an operand: closed over, filled with one number or written as a list
# in the function, or closed over and joined there with rows that are an argument.
KNOWN = ("closed", "full", "listed", "joined")

# Of arrays in memory; libraries that choose it themselves have only the first.
LAYOUTS = ("plain", "transposed", "strided", "offset", "broadcast", "read-only")

# What a program is run under, by library: statements and a context.
SETTINGS = {
    "numpy": ((), ("np.errstate(all='raise')",)),
    "torch": (
        (
            "torch.set_num_threads(2)",
            "torch.set_flush_denormal(True)",
            "torch.set_default_dtype(torch.float64)",
            "torch.set_default_dtype(torch.float16)",
            "torch.set_float32_matmul_precision('medium')",
        ),
        ("torch.inference_mode()", "torch.no_grad()", "torch.autocast('cpu', torch.bfloat16)"),
    ),
    "jax": (
        (
            "jax.config.update('jax_default_matmul_precision', 'bfloat16')",
            "jax.config.update('jax_default_matmul_precision', 'highest')",
            "jax.config.update('jax_default_matmul_precision', 'F32_F32_F32')",
            "jax.config.update('jax_numpy_rank_promotion', 'raise')",
        ),
        (),
    ),
}


class Operand(NamedTuple):
    """An array that a program takes.

    Attributes
    ----------
    name, host
        Its name and its elements.
    layout
        One of LAYOUTS.
    known
        One of KNOWN; "argument" if the compiler knows nothing of it.
    """

    name: str
    host: np.ndarray
    layout: str = "plain"
    known: str = "argument"


class Line(NamedTuple):
    """One operation.

    Attributes
    ----------
    name
        Of the result.
    operation
        What it is, by the name of the function.
    text
        The expression.
    uses
        Operands and results it takes, in the order that `oracle` knows; None for a bias left out.
    detail
        What else `oracle` must know: an axis, a number.
    outputs
        Expressions for all arrays of the result.
    """

    name: str
    operation: str
    text: str
    uses: tuple[str | None, ...]
    detail: Any
    outputs: tuple[str, ...]


class Program(NamedTuple):
    """Operands, lines, the settings that they run under, and how many workers an engine has."""

    dtype: str
    products: int | None
    operands: tuple[Operand, ...]
    lines: tuple[Line, ...]
    settings: tuple[str, ...] = ()
    context: str = ""
    workers: int = 0

    @property
    def loops(self) -> bool:
        """Whether it compiles by itself what it repeats."""
        return any(line.operation == "fit" for line in self.lines)


class Scope(NamedTuple):
    """What may be drawn for a library in a mode.

    Attributes
    ----------
    library, compiled
        Where the program runs.
    sizes, classes
        Of axes, and numbers of classes: few where every shape is compiled.
    lines
        The most operations.
    families
        The names of what is drawn.
    workers
        The most of an engine's workers; 0 where there is no engine.
    """

    library: str
    compiled: bool
    sizes: tuple[int, ...] = (1, 3, 7, 3, 2, 64, 7, 0, 1030)
    classes: tuple[int, ...] = (3, 1, 2, 10, 127, 128, 129, 255, 256, 257, 300)
    lines: int = 3
    families: tuple[str, ...] = (*("numerics",) * 6, "passes", "passes", "loss", "training")
    workers: int = 0


class _Maker:
    """A program in the making."""

    def __init__(self, draw: Any, scope: Scope, dtype: str):
        self.draw, self.scope, self.dtype = draw, scope, dtype
        self.operands: list[Operand] = []
        self.lines: list[Line] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.calm = False

    def choose(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(tuple(choices)))

    def size(self, most: int = 2**20) -> int:
        return self.choose(size for size in self.scope.sizes if size <= most)

    def operand(self, *shape: int) -> str:
        known = "argument"
        if self.scope.compiled:
            known = self.choose(("argument", "argument", *KNOWN))
        if known == "joined" and (shape[0] < 2):
            known = "closed"
        if known == "listed" and (shape == () or 0 in shape or np.prod(shape) > 200):
            known = "closed"
        layouts: tuple[str, ...] = ("plain",)
        if self.scope.library in ("numpy", "array-api-strict", "torch", "mlx"):
            layouts = LAYOUTS if self.scope.library == "numpy" else LAYOUTS[:-1]
        layout = self.choose(layouts)
        texture = self.draw(values.textures(self.dtype, known == "full", calm=self.calm))
        host = values.array(texture, shape, self.dtype)
        if layout == "broadcast" and len(shape) == 2 and shape[0] > 1:
            host = np.repeat(host[:1], shape[0], axis=0)
        elif layout == "broadcast" or (layout == "transposed" and len(shape) != 2):
            layout = "plain"
        return self.place(host, layout, known)

    def place(self, host: np.ndarray, layout: str, known: str) -> str:
        name = "abcdefghijklmnopqrstuvw"[len(self.operands)]
        self.operands.append(Operand(name, host, layout, known))
        self.shapes[name] = host.shape
        return name

    def labels(self, n: int, classes: int, *, valid: bool, of: Any = values.LABELS) -> str:
        dtype = self.choose(of)
        rng = np.random.default_rng(self.draw(st.integers(0, 99)))
        host = values.labels(rng, n, classes, dtype, valid=valid)
        known = self.choose(("argument", "closed")) if self.scope.compiled else "argument"
        return self.place(host, "plain", known)

    def chosen(self, numbers: tuple[float, ...], *shape: int) -> str:
        rng = np.random.default_rng(self.draw(st.integers(0, 99)))
        host = rng.choice(numbers, shape).astype(self.dtype)
        # Weights that are all zero are refused.
        host.flat[0] = 1.0
        return self.place(host, "plain", "argument")

    def line(
        self, operation: str, text: str, uses: Any, detail: Any = None, outputs: Any = ("{}",)
    ) -> str:
        name = f"r{len(self.lines)}"
        outputs = tuple(output.format(name) for output in outputs)
        self.lines.append(Line(name, operation, text, tuple(uses), detail, outputs))
        return name

    def matrices(self) -> list[str]:
        return [name for name, shape in self.shapes.items() if len(shape) == 2]


# Operations of the numerics: each adds a line that takes the matrix a.


def _matmul(make: _Maker, a: str) -> None:
    n, k = make.shapes[a]
    way = make.choose(("left", "prepared", "right", "transposed", "square"))
    if way == "right":
        b = make.operand(make.size(7), n)
        text, uses, n, m = "matmul({}, {})", (b, a), make.shapes[b][0], k
    elif way == "square":
        text, uses, m = "matmul({}, {}.T)", (a, a), n
    elif way == "transposed":
        m = make.size(7)
        b = make.operand(n, m)
        text, uses, n = "matmul({}.T, {})", (a, b), k
    else:
        m = make.size(7)
        b = make.operand(k, m)
        text, uses = ("matmul({}, {})", (a, b))
        if way == "prepared":
            text = "matmul(numerics.prepare({}), {})"
    name = make.line("matmul", "numerics." + text.format(*uses), uses, way)
    make.shapes[name] = (n, m)


def _sum(make: _Maker, a: str) -> None:
    axis, keepdims = make.choose((0, 1, -1, -2)), make.choose((True, False))
    text = f"numerics.sum({a}, axis={axis}, keepdims={keepdims})"
    name = make.line("sum", text, (a,), axis)
    n, k = make.shapes[a]
    if keepdims:
        make.shapes[name] = (1, k) if axis % 2 == 0 else (n, 1)


def _add(make: _Maker, a: str) -> None:
    # The first is a result of these numerics.
    factor = make.choose((1.0, "matrix"))
    n, k = make.shapes[a]
    if factor == 1.0:
        first = make.line("multiply", f"numerics.multiply({a}, 1.0)", (a,), 1.0)
    else:
        b = make.operand(k, min(k, 3))
        first = make.line("matmul", f"numerics.matmul({a}, {b})", (a, b), "left")
        k = min(k, 3)
    b = make.operand(*make.choose(((n, k), (1, k))))
    # It may be changed, so nobody else sees it.
    *_, line = make.lines
    make.lines[-1] = line._replace(outputs=())
    name = make.line("add", f"numerics.add({first}, {b})", (first, b))
    make.shapes[name] = (n, k)


def _add_operand(make: _Maker, a: str) -> None:
    b = make.operand(*make.shapes[a])
    name = make.line("add", f"numerics.add({a}, {b})", (a, b))
    make.shapes[name] = make.shapes[a]


def _subtract(make: _Maker, a: str) -> None:
    n, k = make.shapes[a]
    b = make.operand(*make.choose(((n, k), (n, 1), (1, k))))
    first, second = make.choose(((a, b), (b, a)))
    name = make.line("subtract", f"numerics.subtract({first}, {second})", (first, second))
    make.shapes[name] = (n, k)


def _multiply(make: _Maker, a: str) -> None:
    n, k = make.shapes[a]
    b = make.operand(*make.choose(((n, k), (n, 1))))
    name = make.line("multiply", f"numerics.multiply({a}, {b})", (a, b))
    make.shapes[name] = (n, k)


def _scale(make: _Maker, a: str) -> None:
    # A number of Python has the digits and the range of float64, whatever the array has.
    texture = make.draw(values.textures("float64", constant=True))
    number = float(values.array(texture, (), "float64"))
    number = number if np.isfinite(number) else 3.0
    name = make.line("multiply", f"numerics.multiply({a}, {number!r})", (a,), number)
    make.shapes[name] = make.shapes[a]


def _divide(make: _Maker, a: str) -> None:
    b = make.operand(*make.shapes[a])
    first, second = make.choose(((a, b), (b, a)))
    name = make.line("divide", f"numerics.divide({first}, {second})", (first, second))
    make.shapes[name] = make.shapes[a]


def _function(operation: str) -> Any:
    def call(make: _Maker, a: str) -> None:
        name = make.line(operation, f"numerics.{operation}({a})", (a,))
        make.shapes[name] = make.shapes[a]

    return call


OPERATIONS = (
    *(_matmul, _matmul, _matmul, _divide, _divide, _multiply, _scale, _subtract, _sum, _add),
    *(_function("exp"), _function("log"), _add_operand),
    *map(_function, ("expm1", "tanh", "logistic", "softplus", "sqrt")),
)

ACTIVATIONS = ("leaky_relu", "elu", "softplus", "tanh", "logistic", "identity")
METHODS = (
    "learning_rate={rate}",
    "learning_rate={rate}",
    "optimizer=kernels.SGD({rate}, momentum=0.9)",
    "optimizer=kernels.SGD({rate}, momentum=0.9, nesterov=True), l2=0.5",
    "optimizer=kernels.SGD(kernels.schedules.linear({rate}, steps=3), weight_decay=0.1), l2=0.01",
    "optimizer=kernels.SGD({rate}, momentum=0.5, nesterov=True, weight_decay=0.1, max_norm=1.0)",
    "optimizer=kernels.Adam({rate}, weight_decay=0.1), l2=0.01",
)
# Those that the dual form has.
IN_DUAL = METHODS[:-1]

# More steps than the dual form takes before it begins anew.
_LONG = 258


def _numerics(make: _Maker) -> None:
    """A few operations, each on an operand or on what another returned."""
    n, k = make.size(64), make.size()
    make.operand(*((n, k) if n <= 7 or k <= 7 else (min(n, 7), k)))
    for _ in range(make.draw(st.integers(1, make.scope.lines))):
        a = make.choose(reversed(make.matrices()))
        make.choose(OPERATIONS)(make, a)


# Networks and losses.


def _network(make: _Maker, n_in: int, n_out: int, depth: int) -> tuple[str, list[str | None]]:
    """Draw layers: their expression, and all their operands in order."""
    sizes = [n_in, *(max(make.size(7), 1) for _ in range(depth - 1)), n_out]
    operands: list[str | None] = []
    for before, after in itertools.pairwise(sizes):
        operands += [make.operand(before, after), make.choose((None, True))]
        if operands[-1] is not None:
            operands[-1] = make.operand(after)
    pairs = zip(operands[::2], operands[1::2], strict=True)
    text = "".join(f"Layer({weight}, {bias}), " for weight, bias in pairs)
    return f"({text.strip()})", operands


def _activation(make: _Maker) -> str:
    """Draw one: relu mostly, and always where a compiler takes a minute for another."""
    slow = make.scope.compiled and make.scope.library == "torch"
    name = "relu" if slow else make.choose(("relu", "relu", *ACTIVATIONS))
    return f"activation=kernels.activations.{name}, numerics=numerics"


def _parameters(of: str, operands: list[str | None]) -> list[str]:
    names = [f"{of}[{i // 2}].{('weight', 'bias')[i % 2]}" for i in range(len(operands))]
    return [name for name, operand in zip(names, operands, strict=True) if operand is not None]


def _target(make: _Maker, n: int, c: int, *, valid: bool) -> tuple[str, str]:
    """Draw a loss and its target."""
    loss = make.choose(("squared_error", "softmax_cross_entropy", "softmax_cross_entropy"))
    if loss == "squared_error":
        return loss, make.operand(n, c)
    if make.choose((True, True, False)):
        return loss, make.labels(n, c, valid=valid)
    return loss, make.operand(n, c)


def _other_target(make: _Maker, n: int, c: int) -> tuple[str, str]:
    """Draw one of the losses that only trainings have, and its target: numbers of 0 and more."""
    loss = make.choose(("half_squared_error", "logistic_cross_entropy", "poisson"))
    numbers = (0.0, 1.0, 0.3) if loss == "logistic_cross_entropy" else (0.0, 1.0, 2.0, 7.5)
    return loss, make.chosen(numbers, n, c)


def _loss(make: _Maker) -> None:
    n, c = max(make.size(7), 1), make.choose(make.scope.classes)
    prediction = make.operand(n, c)
    loss, target = _target(make, n, c, valid=make.choose((True, True, True, False)))
    text = f"kernels.{loss}({prediction}, {target}, numerics=numerics)"
    make.line(loss, text, (prediction, target), None, ("{}[0]", "{}[1]"))


def _passes(make: _Maker) -> None:
    """Forward, and perhaps backward and an update."""
    n, n_in, n_out = make.size(7), make.size(), make.size(7)
    depth = make.choose((1, 2))
    layers, operands = _network(make, n_in, n_out, depth)
    x = make.operand(n, n_in)
    outputs, common = [f"{{}}[{i + 1}]" for i in range(depth)], _activation(make)
    text = f"kernels.forward({layers}, {x}, {common})"
    forward = make.line("forward", text, (x, *operands), None, outputs)
    way = make.choose(("forward", "backward", "backward_to_input", "update"))
    if way == "forward":
        return
    gradient = make.operand(n, n_out)
    name = "backward_to_input" if way == "backward_to_input" else "backward"
    text = f"kernels.{name}({layers}, {forward}, {gradient}, {common})"
    gradients = "{}[0]" if name == "backward_to_input" else "{}"
    outputs = _parameters(gradients, operands)
    outputs += ["{}[1]"] if name == "backward_to_input" else []
    backward = make.line(name, text, (gradient, x, *operands), None, outputs)
    if way == "update":
        rate = make.choose((0.1, 1.0, 1e-30))
        text = f"kernels.update({layers}, {backward}, {rate}, numerics=numerics)"
        make.line("update", text, (gradient, x, *operands), rate, _parameters("{}", operands))


def _training(make: _Maker) -> None:
    """A step, or a fit."""
    scope = make.scope
    make.calm = make.choose((True, True, False))
    n = max(make.size(1030 if scope.workers else 7), 1)
    n_in, c = max(make.size(64 if n < 1030 else 7), 1), make.choose(scope.classes)
    way = "fit" if scope.workers else make.choose(("step", "fit", "fit"))
    layers, operands = _network(make, n_in, c, make.choose((1, 2)))
    x = make.operand(n, n_in)
    usual = make.choose((True, True, False))
    loss, y = _target(make, n, c, valid=True) if usual else _other_target(make, n, c)
    rate = make.choose((0.1, 1.0, 1e-30))
    slow = scope.compiled and scope.library == "torch"
    simple = slow or way == "step"
    method = METHODS[0] if simple else make.choose(METHODS)
    placed = f"shard({x}), shard({y})" if scope.workers else f"{x}, {y}"
    text = f"{layers}, {placed}, {method.format(rate=rate)}, loss=kernels.{loss}"
    text += f", {_activation(make)}"
    uses = (x, y, *operands)
    if way == "step":
        outputs = [*_parameters("{}[0]", operands), "{}[1]"]
        make.line("step", f"kernels.step({text})", uses, None, outputs)
        return
    steps = make.choose((1, 2, 3))
    # Workers have one form.
    if method in IN_DUAL and not scope.workers:
        dual = make.choose(("auto", True, True, False))
        text += f", dual={dual!r}"
        if dual is True and not scope.compiled and scope.library in ("numpy", "torch", "mlx"):
            steps = make.choose((1, 2, 3, 3, 3, _LONG))
    if make.choose((False, False, True)):
        w = make.chosen((0.0, 1.0, 2.0, 0.3, 1e-30), n)
        uses = (*uses, w)
        text += f", sample_weight=shard({w})" if scope.workers else f", sample_weight={w}"
    size = make.choose((None, *(size for size in (1, 2, 3, 5, 64) if size <= n)))
    text += f", steps={steps}, batch_size={size}, compile=compile"
    outputs = [*_parameters("{}.layers", operands), "{}.losses"]
    make.line("fit", f"kernels.fit({text})", uses, None, outputs)
    # What it compiles takes everything as an argument.
    make.operands = [a._replace(known="argument") for a in make.operands]


def _estimator(make: _Maker) -> None:
    """A perceptron of scikit-learn's form, which takes arrays of the library."""
    make.calm = make.choose((True, True, False))
    n, n_in, units = max(make.size(64), 2), max(make.size(7), 1), max(make.size(7), 1)
    kind, solver = make.choose(("Classifier", "Regressor")), make.choose(("sgd", "adam", "lbfgs"))
    x = make.operand(n, n_in)
    if kind == "Classifier":
        y = make.labels(n, make.choose((2, 3)), valid=True, of=("int32", "int64"))
    else:
        y = make.operand(n, make.choose((1, 2)))
    settings = {
        "hidden_layer_sizes": make.choose(((units,), (units, 2))),
        "activation": make.choose(("relu", "tanh", "logistic", "identity")),
        "solver": solver,
        "alpha": make.choose((0.0, 1e-4, 1.0)),
        "batch_size": make.choose(("auto", 1, 2, min(n, 5))),
        "learning_rate": make.choose(("constant", "invscaling", "adaptive")),
        "learning_rate_init": make.choose((1e-3, 0.1)),
        "max_iter": make.choose((1, 2, 4)),
        "early_stopping": solver != "lbfgs" and n >= 30 and make.choose((True, False)),
        "random_state": make.choose((0, 1)),
        "dual": make.choose(("auto", True, False)) if solver == "sgd" else "auto",
        "numerics": "exact",
    }
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    layers = range(len(settings["hidden_layer_sizes"]) + 1)
    outputs = [f"{{}}.{name}[{i}]" for name in ("coefs_", "intercepts_") for i in layers]
    text = f"kernels.estimators.MLP{kind}({given}).fit({x}, {y})"
    make.line("estimator", text, (x, y), None, (*outputs, f"{{}}.predict({x})"))


FAMILIES = {
    "numerics": _numerics,
    "passes": _passes,
    "loss": _loss,
    "training": _training,
    "estimator": _estimator,
}


@st.composite
def programs(draw: Any, scope: Scope) -> Program:
    """Draw a program for a library in a mode."""
    make = _Maker(draw, scope, draw(st.sampled_from(DTYPES)))
    FAMILIES[make.choose(scope.families)](make)
    # One argument, or there is nothing to call it with.
    if all(a.known != "argument" for a in make.operands):
        make.operands[0] = make.operands[0]._replace(known="argument")
    products = make.choose((None, None, None, 1, 2, 3, 5))
    statements, contexts = SETTINGS.get(scope.library, ((), ()))
    settings: tuple[str, ...] = ()
    if statements and make.choose((False, False, False, True)):
        settings = (make.choose(statements),)
    context = make.choose(("", "", *contexts)) if contexts else ""
    workers = draw(st.integers(1, scope.workers)) if scope.workers else 0
    operands, lines = tuple(make.operands), tuple(make.lines)
    return Program(make.dtype, products, operands, lines, settings, context, workers)


# Programs as text.

_ARRAY = """
def array(numbers, dtype, *shape):
    return np.array([float.fromhex(n) for n in numbers.split()], dtype).reshape(shape)
"""


def literal(a: np.ndarray) -> str:
    """Write an array as an expression, floats as hexadecimal numbers."""
    if a.dtype.kind != "f":
        return f'np.array({a.tolist()}, "{a.dtype}")'
    if a.size > 1 and len(set(map(float.hex, a.ravel().tolist()))) == 1:
        return f'np.full({a.shape}, float.fromhex("{float.hex(float(a.flat[0]))}"), "{a.dtype}")'
    numbers = " ".join(map(float.hex, a.ravel().tolist()))
    shape = "".join(f", {size}" for size in a.shape)
    return f'array("{numbers}", "{a.dtype}"{shape})'


def _placed(a: np.ndarray, layout: str) -> str:
    text = literal(a)
    if layout == "transposed":
        return f"asarray({literal(a.T)}).T"
    if layout == "strided":
        return f"asarray(np.repeat({text}, 2, axis=0))[::2, ...]"
    if layout == "offset":
        whole = f'np.append(np.zeros(1, "{a.dtype}"), {text})'
        return f"xp.reshape(asarray({whole})[1:], {a.shape})"
    if layout == "broadcast":
        return f"xp.broadcast_to(asarray({literal(a[:1])}), {a.shape})"
    return f"asarray({text})"


def _number(x: float) -> str:
    return repr(x) if np.isfinite(x) else f'float("{x}")'


def _nested(a: Any) -> str:
    if isinstance(a, list):
        return f"[{', '.join(map(_nested, a))}]"
    return _number(a)


def source(program: Program, backend: str, *, compiled: bool) -> str:
    """Write a program that leaves all arrays of its results in the tuple `result`."""
    library = backend.partition(":")[0]
    before, inside, arguments = [], [], []
    for name, host, layout, known in program.operands:
        dtype = f"xp.{host.dtype}"
        if known == "full":
            number = _number(float(host.flat[0]) if host.size else 1.0)
            inside.append(f"{name} = xp.full({host.shape}, {number}, dtype={dtype})")
        elif known == "listed":
            inside.append(f"{name} = xp.asarray({_nested(host.tolist())}, dtype={dtype})")
        elif known == "joined":
            half = host.shape[0] // 2
            before.append(f"{name}_known = asarray({literal(host[:half])})")
            before.append(f"{name}_rest = asarray({literal(host[half:])})")
            inside.append(f"{name} = xp.concat([{name}_known, {name}_rest], axis=0)")
            arguments.append(f"{name}_rest")
        else:
            before.append(f"{name} = {_placed(host, layout)}")
            if layout == "read-only":
                before.append(f"{name}.flags.writeable = False")
            if known == "argument":
                arguments.append(name)
    lines = [f"{line.name} = {line.text}" for line in program.lines]
    outputs = [output for line in program.lines for output in line.outputs]
    products = "" if program.products is None else f"products={program.products}"
    head = [
        *(["import os", 'os.environ["JAX_ENABLE_X64"] = "1"'] if library == "jax" else []),
        *([f"import {library}"] if library in ("jax", "torch") else []),
        "import numpy as np",
        "import backends, kernels",
        "from kernels import Exact, Layer",
        _ARRAY if any('array("' in line for line in before) else "",
    ]
    if program.workers:
        return _by_workers(program, library, head, before, lines, outputs, products)
    names = ", ".join(arguments)
    function = "compile(program)" if compiled and not program.loops else "program"
    call = f"result = {function}({names})"
    text = [
        *(_FOR_ESTIMATORS if "estimators" in lines[0] else []),
        *head,
        f'backend = backends.get("{backend}")',
        "xp, asarray = backend.xp, backend.asarray",
        *(["compile = backend.compile"] if compiled else []),
        *(["compile = None"] if program.loops and not compiled else []),
        f"numerics = Exact({products})",
        *before,
        "",
        f"def program({names}):",
        *(f"    {line}" for line in (*inside, *lines)),
        f"    return ({', '.join(outputs)},)",
        "",
        *program.settings,
        *([f"with {program.context}:", f"    {call}"] if program.context else [call]),
    ]
    return "\n".join(text) + "\n"


# scikit-learn takes arrays of other libraries only if SciPy was told to before its import.
_FOR_ESTIMATORS = (
    "import os",
    'os.environ["SCIPY_ARRAY_API"] = "1"',
    "import sklearn",
    "sklearn.set_config(array_api_dispatch=True)",
    "import kernels.estimators",
)


def _by_workers(
    program: Program,
    library: str,
    head: list[str],
    before: list[str],
    lines: list[str],
    outputs: list[str],
    products: str,
) -> str:
    """Write a program that workers run, each of those of torch in a process of its own."""
    lines = [*lines, f"result = [backend.to_numpy(a) for a in ({', '.join(outputs)},)]"]
    inside = [
        "backend, shard, compile = team.backend, team.shard, team.compile",
        "xp, asarray = backend.xp, backend.asarray",
        f"numerics = team.numerics(Exact({products}))",
        *before,
        *program.settings,
        *([f"with {program.context}:"] if program.context else []),
        *(f"    {line}" if program.context else line for line in lines),
    ]
    text = [
        *([f"# torchrun --nproc-per-node {program.workers}"] if library == "torch" else []),
        *head,
        "from backends import workers",
        "",
        'if __name__ == "__main__":',
        f'    with workers.join("{library}", {program.workers}) as team:',
        *(f"        {line}" for line in inside),
    ]
    return "\n".join(text) + "\n"
