"""A step of training with any optimizer, and the numbers that differ from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from array_api_compat import array_namespace

from ._host import placement
from ._typing import Array
from .activations import Activation
from .layer import Layer
from .losses import Loss
from .network import differentiated
from .numerics import Numerics
from .optimizers import SGD, Adam, sum_of_squares

__all__ = ["Scalars", "optimized_step", "penalized", "row", "squares_of"]

# Rows of every table, so that what is compiled for one run of steps serves for any.
_ROWS = 256


def squares_of(layers: Sequence[Layer], _: Any, numerics: Numerics) -> Iterator[Array]:
    """Sum the squares of each weight."""
    return (sum_of_squares(layer.weight, numerics) for layer in layers)


def optimized_step(
    state: tuple[Sequence[Layer], tuple[Any, ...]],
    x: Array,
    y: Array,
    numbers: Sequence[Any],
    operands: tuple[Any, Any] | None,
    *,
    optimizer: SGD | Adam,
    l2: float,
    loss: Loss,
    activation: Activation,
    numerics: Numerics,
    differentiate: Callable[..., tuple[Array, tuple[Layer, ...]]] = differentiated,
    squares: Callable[..., Iterable[Array]] = squares_of,
) -> tuple[tuple[tuple[Layer, ...], tuple[Any, ...]], Array]:
    """Take one step of layers and the arrays of their optimizer's state, without checks.

    The dual form, where other arrays stand for layers and x, has its own `differentiate` and
    `squares`.
    """
    layers, slots = state
    settings: dict[str, Any] = {"loss": loss, "activation": activation, "numerics": numerics}
    value, gradients = differentiate(layers, x, y, operands, None, **settings)

    def of_weights(network: Sequence[Layer]) -> Iterable[Array]:
        return squares(network, operands, numerics)

    if l2 > 0.0:
        value, gradients = penalized(layers, of_weights(layers), value, gradients, l2, numerics)
    return optimizer.change(layers, gradients, slots, numbers, numerics, of_weights), value


def penalized(
    layers: Sequence[Layer],
    squares: Iterable[Array],
    value: Array,
    gradients: Sequence[Layer],
    l2: float,
    numerics: Numerics,
) -> tuple[Array, tuple[Layer, ...]]:
    """Add l2 / 2 times the sum of squared weights to a loss, and its gradient to the gradients."""
    for total in squares:
        value = numerics.add(value, numerics.multiply(total, l2 / 2.0))
    return value, tuple(
        Layer(numerics.add(gradient.weight, numerics.multiply(layer.weight, l2)), gradient.bias)
        for gradient, layer in zip(gradients, layers, strict=True)
    )


class Scalars(NamedTuple):
    """The numbers of each step, as a step takes them.

    Attributes
    ----------
    optimizer
        What makes them.
    before
        How many steps its state has taken.
    like
        An array that gives the namespace, dtype and device.
    numerics
        Whose `factor` makes arrays of them.
    plain
        Whether a step takes the learning rate alone, as `unchecked_step` does.
    """

    optimizer: SGD | Adam
    before: int
    like: Array
    numerics: Numerics
    plain: bool

    @property
    def change(self) -> bool:
        """Whether they differ from step to step."""
        return isinstance(self.optimizer, Adam) or callable(self.optimizer.learning_rate)

    def of(self, step: int, *, compiled: bool) -> Any:
        """Give the numbers of a step of this run, as 0-d arrays if the step is compiled."""
        numbers: Sequence[Any] = self._of(step)
        if compiled:
            numbers = tuple(self.numerics.factor(n, like=self.like) for n in numbers)
        return numbers[0] if self.plain else numbers

    def parts(self, steps: int) -> Iterator[tuple[int, int]]:
        """Divide a run into parts (first, steps), each short enough for one table."""
        most = _ROWS if self.change else steps
        for first in range(0, steps, most):
            yield first, min(steps - first, most)

    def table(self, step: int, steps: int) -> Array:
        """Make a table of the numbers of some steps, a row for each, always of the same size."""
        rows: list[Any] = [list(self._of(step + i)) for i in range(steps)]
        rows += [rows[-1]] * (_ROWS - steps)
        if self.plain:
            rows = [rate for (rate,) in rows]
        return self.numerics.factor(rows, like=self.like)

    def _of(self, step: int) -> tuple[float, ...]:
        numbers = self.optimizer.numbers(self.before + step)
        return (-numbers[0],) if self.plain else numbers


def row(table: Array, i: Any) -> Any:
    """Take the numbers in row `i` of a table; `i` may be an array."""
    xp = array_namespace(table)
    found = xp.take(table, i + xp.arange(1, dtype=xp.int32, **placement(table)), axis=0)
    if table.ndim == 1:
        return xp.reshape(found, ())
    return tuple(found[0, j] for j in range(table.shape[1]))
