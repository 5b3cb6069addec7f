"""Optimizers: how gradients change parameters, with all state explicit.

The numbers that differ from step to step, rates and bias corrections, are computed on the host with
operations that IEEE 754 fixes, and given to a step as numbers or 0-d arrays. So another rate or
schedule compiles nothing anew, and every machine computes with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar, cast

from array_api_compat import array_namespace

from ._checks import check_numerics, to_learning_rate, to_real
from ._in_place import in_place
from ._network_checks import check_gradients, check_layers
from ._typing import Array
from .layer import Layer
from .numerics import NATIVE, Exact, Native, Numerics
from .schedules import Schedule

__all__ = ["SGD", "Adam", "AdamState", "SGDState"]

# Parameters of at most so many elements are worth copying into one array.
_SMALL = 2**14

# The numbers of a step, of the host or as 0-d arrays.
Numbers = Sequence[Any]

# (gradients) -> the sum of the squares of each weight's gradient.
Squares = Callable[[Sequence[Layer]], Iterable[Array]]


class SGDState(NamedTuple):
    """What `SGD` keeps between steps.

    Attributes
    ----------
    steps
        How many were taken.
    velocity
        One for each parameter; empty without momentum.
    """

    steps: int
    velocity: tuple[Layer, ...]


class AdamState(NamedTuple):
    """What `Adam` keeps between steps.

    Attributes
    ----------
    steps
        How many were taken.
    mean, square
        Moving averages of the gradients and of their squares.
    """

    steps: int
    mean: tuple[Layer, ...]
    square: tuple[Layer, ...]


State = TypeVar("State", SGDState, AdamState)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, with momentum and weight decay as torch.optim.SGD has them.

    g = gradient + weight_decay * weight;  v = momentum * v + g;  d = v, or g + momentum * v with
    `nesterov`;  parameter - learning_rate * d. Biases do not decay.

    Parameters
    ----------
    learning_rate
        A finite number of 0 or more, or one of `kernels.schedules`.
    momentum
        In [0, 1).
    nesterov
        Whether to use Nesterov's momentum, which must then be above 0.
    weight_decay
        0 or more.
    max_norm
        If the norm of all gradients together is larger, they are scaled down to it. None is no
        limit.

    Raises
    ------
    ValueError
        If a number is out of range, or `nesterov` comes without momentum.
    TypeError
        If one is not a real number.

    References
    ----------
    Sutskever, Martens, Dahl, Hinton 2013, "On the importance of initialization and momentum in
    deep learning", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> optimizer = kernels.SGD(0.25, momentum=0.5)
    >>> layers = gradients = (kernels.Layer(np.ones((1, 1))),)
    >>> layers, state = optimizer.update(layers, gradients, optimizer.init(layers))
    >>> layers, state = optimizer.update(layers, gradients, state)
    >>> float(layers[0].weight[0, 0]), state.steps
    (0.375, 2)
    """

    learning_rate: float | Schedule
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        _convert(self, momentum={"least": 0.0, "below": 1.0})
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("expected nesterov with a momentum above 0, got momentum=0.0")

    @property
    def is_plain(self) -> bool:
        """Whether a step is parameter - learning_rate * gradient."""
        return self.momentum == self.weight_decay == 0.0 and self.max_norm is None

    def init(self, layers: Sequence[Layer]) -> SGDState:
        """Make the state before the first step."""
        check_layers(layers)
        return SGDState(0, _zeros(layers) if self.momentum > 0.0 else ())

    def update(
        self,
        layers: Sequence[Layer],
        gradients: Sequence[Layer],
        state: SGDState,
        *,
        numerics: Numerics = NATIVE,
    ) -> tuple[tuple[Layer, ...], SGDState]:
        """Take one step; return new layers and their state, and leave what was given as it is.

        Raises
        ------
        ValueError, TypeError
            If gradients or state do not fit the layers.
        """
        return _update(self, layers, gradients, state, numerics)

    def numbers(self, steps: int) -> tuple[float, ...]:
        """Compute minus the learning rate for the step after `steps` steps."""
        return (-_rate(self.learning_rate, steps),)

    def change(
        self,
        layers: Sequence[Layer],
        gradients: Sequence[Layer],
        slots: tuple[tuple[Layer, ...], ...],
        numbers: Numbers,
        numerics: Numerics,
        squares: Squares | None = None,
    ) -> tuple[tuple[Layer, ...], tuple[tuple[Layer, ...], ...]]:
        """Take one step with the arrays of a state and the `numbers` of the step."""
        (rate,), (velocity,), n = numbers, slots, numerics
        add, _ = in_place(n, layers[0].weight)
        gradients = _clipped(gradients, self.max_norm, n, squares)
        if self.weight_decay > 0.0:
            gradients = tuple(
                g._replace(weight=n.add(g.weight, n.multiply(layer.weight, self.weight_decay)))
                for g, layer in zip(gradients, layers, strict=True)
            )

        def ahead(v: Array, g: Array) -> Array:
            return add(n.multiply(v, self.momentum), g)

        def change(w: Array, g: Array, *old: Array) -> tuple[Array, ...]:
            if not old:
                return (add(n.multiply(g, rate), w),)
            v = ahead(old[0], g)
            d = ahead(v, g) if self.nesterov else v
            return add(n.multiply(d, rate), w), v

        moving = self.momentum > 0.0
        networks = (layers, gradients, velocity) if moving else (layers, gradients)
        found = _each(change, *networks, numerics=n)
        return found[0], found[1:] if moving else (velocity,)


@dataclass(frozen=True)
class Adam:
    """Adam, as torch.optim.Adam, and with weight decay as torch.optim.AdamW.

    In step t = 1, 2, ...: m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g**2;
    parameter - learning_rate * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + epsilon), where a
    weight, not a bias, is first multiplied by 1 - learning_rate * weight_decay.

    Parameters
    ----------
    learning_rate
        A finite number of 0 or more, or one of `kernels.schedules`.
    beta1, beta2
        In [0, 1).
    epsilon
        Above 0.
    weight_decay
        0 or more.
    max_norm
        If the norm of all gradients together is larger, they are scaled down to it. None is no
        limit.

    Raises
    ------
    ValueError
        If a number is out of range.
    TypeError
        If one is not a real number.

    References
    ----------
    Kingma, Ba 2015, "Adam: a method for stochastic optimization", ICLR.
    Loshchilov, Hutter 2019, "Decoupled weight decay regularization", ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> import kernels
    >>> optimizer = kernels.Adam(0.5)
    >>> layers = gradients = (kernels.Layer(np.ones((1, 1))),)
    >>> layers, state = optimizer.update(layers, gradients, optimizer.init(layers))
    >>> round(float(layers[0].weight[0, 0]), 6), state.steps
    (0.5, 1)
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        below_1 = {"least": 0.0, "below": 1.0}
        _convert(self, beta1=below_1, beta2=below_1, epsilon={"above": 0.0})

    @property
    def is_plain(self) -> bool:
        """Whether a step is parameter - learning_rate * gradient."""
        return False

    def init(self, layers: Sequence[Layer]) -> AdamState:
        """Make the state before the first step."""
        check_layers(layers)
        return AdamState(0, _zeros(layers), _zeros(layers))

    def update(
        self,
        layers: Sequence[Layer],
        gradients: Sequence[Layer],
        state: AdamState,
        *,
        numerics: Numerics = NATIVE,
    ) -> tuple[tuple[Layer, ...], AdamState]:
        """Take one step; return new layers and their state, and leave what was given as it is.

        Raises
        ------
        ValueError, TypeError
            If gradients or state do not fit the layers.
        """
        return _update(self, layers, gradients, state, numerics)

    def numbers(self, steps: int) -> tuple[float, ...]:
        """Compute minus the corrected rate, the root's correction, and the factor of the decay."""
        rate, t = _rate(self.learning_rate, steps), steps + 1
        return (
            -rate / (1.0 - _power(self.beta1, t)),
            1.0 / math.sqrt(1.0 - _power(self.beta2, t)),
            1.0 - rate * self.weight_decay,
        )

    def change(
        self,
        layers: Sequence[Layer],
        gradients: Sequence[Layer],
        slots: tuple[tuple[Layer, ...], ...],
        numbers: Numbers,
        numerics: Numerics,
        squares: Squares | None = None,
    ) -> tuple[tuple[Layer, ...], tuple[tuple[Layer, ...], ...]]:
        """Take one step with the arrays of a state and the `numbers` of the step."""
        (rate, root, decay), (mean, square), n = numbers, slots, numerics
        add, multiply = in_place(n, layers[0].weight)
        gradients = _clipped(gradients, self.max_norm, n, squares)

        def change(w: Array, m: Array, v: Array, g: Array) -> tuple[Array, ...]:
            m = add(n.multiply(m, self.beta1), n.multiply(g, 1.0 - self.beta1))
            v = add(n.multiply(v, self.beta2), multiply(n.multiply(g, g), 1.0 - self.beta2))
            epsilon: Any = self.epsilon
            if not isinstance(n, Native):
                epsilon = array_namespace(v).full_like(v, epsilon)
            ratio = n.divide(m, add(multiply(n.sqrt(v), root), epsilon))
            return add(multiply(ratio, rate), w), m, v

        if self.weight_decay > 0.0:
            layers = [layer._replace(weight=n.multiply(layer.weight, decay)) for layer in layers]
        new, mean, square = _each(change, layers, mean, square, gradients, numerics=n)
        return new, (mean, square)


def check_optimizer(optimizer: Any, learning_rate: Any) -> SGD | Adam:
    """Make an optimizer from the two arguments of `fit`, of which exactly one must be given."""
    if (optimizer is None) == (learning_rate is None):
        raise ValueError(
            "expected exactly one of optimizer and learning_rate, got "
            f"optimizer={optimizer} and learning_rate={learning_rate}"
        )
    if optimizer is None:
        return SGD(learning_rate)
    # A subclass may take steps that are not those of the short ways for gradient descent.
    if type(optimizer) not in (SGD, Adam):
        raise TypeError(f"expected kernels.SGD(...) or kernels.Adam(...), got {optimizer!r}")
    return cast(SGD | Adam, optimizer)


def check_state(optimizer: SGD | Adam, layers: Sequence[Layer], state: Any) -> None:
    """Raise unless a state is one of the optimizer's, and fits the layers."""
    if type(state) is not (AdamState if isinstance(optimizer, Adam) else SGDState):
        raise TypeError(
            f"expected a state of {type(optimizer).__name__}, got {type(state).__name__}"
        )
    moving = isinstance(optimizer, Adam) or optimizer.momentum > 0.0
    for name, given in zip(state._fields[1:], state[1:], strict=True):
        if len(given) != (len(layers) if moving else 0):
            raise ValueError(
                f"expected a state of {optimizer} for {len(layers)} layers, got one with "
                f"{len(given)} layers of {name}"
            )
        if moving:
            check_gradients(layers, given, name=f"state.{name}")


def rule_of(optimizer: SGD | Adam) -> SGD | Adam:
    """Leave out the learning rate, so that another rate compiles nothing anew."""
    return replace(optimizer, learning_rate=0.0)


def _convert(optimizer: Any, **ranges: dict[str, float]) -> None:
    """Replace the numbers of an optimizer by Python's; raise if one is out of range."""
    rate = optimizer.learning_rate
    values = {"learning_rate": rate if isinstance(rate, Schedule) else to_learning_rate(rate)}
    ranges |= {"weight_decay": {"least": 0.0}}
    if optimizer.max_norm is not None:
        ranges |= {"max_norm": {"above": 0.0}}
    for name, limits in ranges.items():
        values[name] = to_real(name, getattr(optimizer, name), **limits)
    for field, value in values.items():
        object.__setattr__(optimizer, field, value)


def _update(
    optimizer: Any,
    layers: Sequence[Layer],
    gradients: Sequence[Layer],
    state: State,
    numerics: Numerics,
) -> tuple[tuple[Layer, ...], State]:
    check_layers(layers)
    check_gradients(layers, gradients)
    check_state(optimizer, layers, state)
    check_numerics(numerics)
    numbers = optimizer.numbers(state.steps)
    new, slots = optimizer.change(layers, gradients, state[1:], numbers, numerics)
    return new, type(state)(state.steps + 1, *slots)


def _rate(learning_rate: float | Schedule, steps: int) -> float:
    if isinstance(learning_rate, Schedule):
        return to_learning_rate(learning_rate(steps))
    return learning_rate


def _power(base: float, exponent: int) -> float:
    """Multiply a number by itself, since the C library's `pow` differs between machines."""
    result = 1.0
    while exponent > 0:
        if exponent % 2 == 1:
            result *= base
        base, exponent = base * base, exponent // 2
    return result


def _map(function: Callable[..., Array], *networks: Sequence[Layer]) -> tuple[Layer, ...]:
    """Apply a function to each parameter."""
    return tuple(
        Layer(
            function(*(layer.weight for layer in layers)),
            None if layers[0].bias is None else function(*(layer.bias for layer in layers)),
        )
        for layers in zip(*networks, strict=True)
    )


def _each(
    function: Callable[..., tuple[Array, ...]], *networks: Sequence[Layer], numerics: Numerics
) -> tuple[tuple[Layer, ...], ...]:
    """Apply an elementwise function, which returns several arrays, to each parameter.

    An exact operation is dozens of the library's. So with exact numerics small parameters are
    joined in one array, for which these are called, and compiled, once.
    """
    arrays = [[a for layer in network for a in layer if a is not None] for network in networks]
    if not isinstance(numerics, Exact):
        each = [function(*parameters) for parameters in zip(*arrays, strict=True)]
        return tuple(_network(made, networks[0]) for made in zip(*each, strict=True))
    like = arrays[0]
    small = [i for i, a in enumerate(like) if math.prod(a.shape) <= _SMALL]
    alone = [[i] for i in range(len(like)) if i not in small]
    found: dict[int, tuple[Array, ...]] = {}
    for group in [small, *alone] if small else alone:
        results = function(*(_joined([network[i] for i in group]) for network in arrays))
        parts = (_parts(a, [like[i] for i in group]) for a in results)
        found |= dict(zip(group, zip(*parts, strict=True), strict=True))
    made = zip(*(found[i] for i in range(len(like))), strict=True)
    return tuple(_network(each, networks[0]) for each in made)


def _joined(arrays: Sequence[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    xp = array_namespace(arrays[0])
    return cast(Array, xp.concat([xp.reshape(a, (-1,)) for a in arrays]))


def _parts(joined: Array, like: Sequence[Array]) -> Sequence[Array]:
    if len(like) == 1:
        return [joined]
    xp = array_namespace(joined)
    ends = [*accumulate(math.prod(a.shape) for a in like)]
    starts = [0, *ends[:-1]]
    return [
        xp.reshape(joined[start:end], tuple(a.shape))
        for start, end, a in zip(starts, ends, like, strict=True)
    ]


def _network(arrays: Sequence[Array], like: Sequence[Layer]) -> tuple[Layer, ...]:
    rest = iter(arrays)
    return tuple(Layer(next(rest), None if layer.bias is None else next(rest)) for layer in like)


def _zeros(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return _map(lambda a: cast(Array, array_namespace(a).zeros_like(a)), layers)


def _clipped(
    gradients: Sequence[Layer],
    max_norm: float | None,
    numerics: Numerics,
    squares: Squares | None,
) -> Sequence[Layer]:
    """Scale gradients down to a norm, as torch.nn.utils.clip_grad_norm_."""
    if max_norm is None:
        return gradients
    n = numerics
    weights = (sum_of_squares(g.weight, n) for g in gradients)
    total: Any = None
    # In dual form the last of what stands for layers have no squares, and no biases.
    for part, g in zip(weights if squares is None else squares(gradients), gradients, strict=False):
        total = part if total is None else n.add(total, part)
        if g.bias is not None:
            total = n.add(total, sum_of_squares(g.bias, n))
    xp = array_namespace(total)
    norm = n.add(n.sqrt(total), xp.full_like(total, 1e-6))
    factor = n.divide(xp.full_like(total, max_norm), norm)
    factor = xp.where(factor > 1.0, xp.ones_like(factor), factor)
    return _each(lambda g: (n.multiply(g, factor),), gradients, numerics=n)[0]


def sum_of_squares(a: Array, numerics: Numerics) -> Array:
    """Sum the squares of all elements; with exact numerics, of each column first."""
    return sum_of_products(a, a, numerics)


def sum_of_products(a: Array, b: Array, numerics: Numerics) -> Array:
    """Sum the products of all elements; with exact numerics, of each column first."""
    xp = array_namespace(a)
    if not isinstance(numerics, Exact):
        row, column = xp.reshape(a, (1, -1)), xp.reshape(b, (-1, 1))
        return cast(Array, xp.reshape(numerics.matmul(row, column), ()))
    products = numerics.multiply(a, b)
    if a.ndim == 2:
        products = numerics.sum(products, axis=0)
    return cast(Array, xp.reshape(numerics.sum(xp.reshape(products, (1, -1)), axis=1), ()))
