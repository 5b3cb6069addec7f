"""The dual form: the first layer is trained in the space of the samples.

A gradient of the first weight is X^T G, with one row of G for each sample. So an optimizer whose
steps are linear leaves the weight at W = c W_0 + e V_0 + X^T A, where V_0 is the initial velocity
of its momentum, and the velocity in the same form. All that the rest of the network needs of W is
H = X W, and that changes by K G with K = X X^T. So the optimizer is given H, A and (c, e) as
parameters in place of W, with the gradients K G, G and 0, and need not know it. Only clipping needs
the norm of X^T G, whose square is the sum of G * K G.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from array_api_compat import array_namespace

from ._host import placement
from ._typing import Array, Compiler
from .activations import Activation
from .layer import Layer
from .losses import Loss
from .minibatches import Batches
from .network import differentiated_from
from .numerics import Native, Numerics
from .numerics.team import ALONE
from .optimizers import SGD, Adam, sum_of_products, sum_of_squares

__all__ = ["PERIOD", "Constants", "Samples", "differentiated", "parts", "squares_of", "use_dual"]

# Steps after which W is made and H computed from it anew, counted from step 0: as much arithmetic
# as one step of the primal form, and so less than a hundredth of what these steps save.
PERIOD = 256


class Constants(NamedTuple):
    """What the steps of a period have in common.

    Attributes
    ----------
    kernel
        X X^T; prepared for products where every batch is all samples.
    starts
        X W_0, and X V_0 if there is a velocity; none without l2.
    squares
        The sum of W_0 * W_0, and if there is a velocity, twice the sum of W_0 * V_0 and the sum of
        V_0 * V_0; none without l2.
    """

    kernel: Any
    starts: tuple[Array, ...] = ()
    squares: tuple[Array, ...] = ()


class Samples(NamedTuple):
    """The samples, and how they are trained on.

    Attributes
    ----------
    x
        Shape (n, n_in).
    kernel
        X X^T, as in `Constants`.
    plain
        Whether the optimizer has nothing but a learning rate, so that c stays 1.
    l2
        Whether the squares of the weights count.
    numerics
        What products and sums are.
    """

    x: Array
    kernel: Any
    plain: bool
    l2: bool
    numerics: Numerics

    @classmethod
    def of(
        cls, x: Array, batches: Batches, *, plain: bool, l2: bool, numerics: Numerics
    ) -> Samples:
        """Compute the kernel."""
        kernel: Any = numerics.matmul(x, x.T)
        if batches.size is None:
            kernel = numerics.prepare(kernel, samples=batches.n)
        return cls(x, kernel, plain, l2, numerics)

    def chosen(self, batches: Batches) -> Array | None:
        """Give what stands for x in batches: the indices of the samples, or None for all."""
        if batches.size is None:
            return None
        xp = array_namespace(self.x)
        return cast(Array, xp.arange(batches.n, **placement(self.x)))

    def begin(
        self, layers: Sequence[Layer], slots: tuple[Any, ...]
    ) -> tuple[tuple[Any, tuple[Any, ...]], Constants]:
        """Give what stands for layers and slots in the steps of a period, and its constants."""
        networks = [layers, *(slot for slot in slots if slot)]
        starts = tuple(network[0].weight for network in networks)
        products = tuple(self.numerics.matmul(self.x, a) for a in starts)
        constants = Constants(self.kernel)
        if self.l2:
            constants = Constants(self.kernel, products, self._squares(starts))
        held = [
            self._held(network, product, i, len(networks))
            for i, (network, product) in enumerate(zip(networks, products, strict=True))
        ]
        others = iter(held[1:])
        return (held[0], tuple(next(others) if slot else slot for slot in slots)), constants

    def end(
        self, held: Any, held_slots: tuple[Any, ...], layers: Any, slots: tuple[Any, ...]
    ) -> tuple[tuple[Layer, ...], tuple[Any, ...]]:
        """Make layers and slots of what stands for them; `layers` and `slots` began the period."""
        starts = [network[0].weight for network in (layers, *(slot for slot in slots if slot))]
        made = (self._made(slot, starts) if slot else slot for slot in held_slots)
        return self._made(held, starts), tuple(made)

    def _held(self, layers: Sequence[Layer], product: Array, i: int, count: int) -> Any:
        xp, place = array_namespace(product), placement(product)
        held = [layers[0]._replace(weight=product), *layers[1:], Layer(xp.zeros_like(product))]
        if not self.plain:
            scales = [[float(i == j)] for j in range(count)]
            held.append(Layer(xp.asarray(scales, dtype=product.dtype, **place)))
        return tuple(held)

    def _made(self, held: Sequence[Layer], starts: Sequence[Array]) -> tuple[Layer, ...]:
        numerics, n = self.numerics, self.x.shape[0]
        network, (rows, *scales) = _divided(held, self.plain)
        ((weight, _),) = numerics.over_samples([(self.x.T, rows.weight, False)], n)
        for i, start in enumerate(starts[:1] if self.plain else starts):
            if not self.plain:
                start = numerics.multiply(start, scales[0].weight[i, 0])
            weight = numerics.add(weight, start)
        return (network[0]._replace(weight=weight), *network[1:])

    def _squares(self, starts: tuple[Array, ...]) -> tuple[Array, ...]:
        numerics = self.numerics
        found = [sum_of_squares(starts[0], numerics)]
        if len(starts) > 1:
            weight, velocity = starts
            mixed = numerics.multiply(sum_of_products(weight, velocity, numerics), 2.0)
            found += [mixed, sum_of_squares(velocity, numerics)]
        return tuple(found)


def use_dual(
    dual: Any,
    optimizer: SGD | Adam,
    numerics: Numerics,
    layers: Sequence[Layer],
    batches: Batches,
    compile: Compiler | None = None,
) -> bool:
    """Say whether to train in dual form, as `fit` describes; raise if True is impossible."""
    if dual not in (True, False, "auto"):
        raise ValueError(f"expected dual of 'auto', True or False, got {dual!r}")
    within = isinstance(optimizer, SGD)
    splits = getattr(compile, "splits", False)
    alone = numerics.team == ALONE and not splits
    if dual == "auto":
        fits = within and alone and isinstance(numerics, Native)
        return fits and 2 * _dual_count(layers, batches) <= _primal_count(layers, batches)
    if dual and not within:
        raise ValueError(
            "expected kernels.SGD(...) for dual=True, whose steps stay in the space of the "
            f"samples, got {optimizer}"
        )
    if dual and not alone:
        got = "a compiler that splits batches" if splits else f"the team {numerics.team}"
        raise ValueError(f"expected one worker for dual=True, got {got}")
    if dual and not isinstance(numerics, Native) and batches.start % PERIOD != 0:
        raise ValueError(
            f"expected start to be a multiple of {PERIOD} for dual=True unless numerics are "
            "native, as a run that goes on from another step does not end on the bits of an "
            f"uninterrupted one, got {batches.start}"
        )
    return bool(dual)


def _rest_count(layers: Sequence[Layer], batches: Batches) -> int:
    """Count the multiplications of a step's products with all weights but the first."""
    products = (layer.weight.shape[0] * layer.weight.shape[1] for layer in layers[1:])
    return 3 * _batch(batches) * sum(products)


def _primal_count(layers: Sequence[Layer], batches: Batches) -> int:
    n_in, units = layers[0].weight.shape
    first = 2 * _batch(batches) * n_in * units
    return batches.steps * (first + _rest_count(layers, batches))


def _dual_count(layers: Sequence[Layer], batches: Batches) -> int:
    n_in, units = layers[0].weight.shape
    first = batches.n * _batch(batches) * units
    ends = sum(1 for _ in parts(batches)) * 2 * batches.n * n_in * units
    once = batches.n**2 * n_in + ends
    return once + batches.steps * (first + _rest_count(layers, batches))


def _batch(batches: Batches) -> int:
    return batches.n if batches.size is None else batches.size


def parts(batches: Batches) -> Iterator[Batches]:
    """Divide batches at the ends of periods."""
    start, end = batches.start, batches.start + batches.steps
    while start < end:
        steps = min(PERIOD - start % PERIOD, end - start)
        yield batches._replace(start=start, steps=steps)
        start += steps


def differentiated(
    layers: Sequence[Layer],
    chosen: Array | None,
    y: Array,
    operands: Constants,
    factor: Array | float | None,
    *,
    loss: Loss,
    activation: Activation,
    numerics: Numerics,
) -> tuple[Array, tuple[Layer, ...]]:
    """Compute the loss, and the gradients of what `Samples.begin` gives, times a factor."""
    network, others = _divided(layers, factor is not None)
    first, kernel = network[0].weight, operands.kernel
    n = terms = first.shape[0]
    if chosen is not None:
        xp, terms = array_namespace(first), chosen.shape[0]
        first, kernel = xp.take(first, chosen, axis=0), xp.take(kernel, chosen, axis=1)
    else:
        # A copy, since a loss or an activation may compute in the place of what it is given.
        first = first * 1.0
    value, changes, gradient = differentiated_from(
        network,
        (None, first),
        y,
        kernel,
        factor,
        terms,
        loss=loss,
        activation=activation,
        numerics=numerics,
    )
    # A copy here as well, since an activation may use the array that it returned again.
    gradient = gradient * 1.0 if chosen is None else _spread(gradient, chosen, n)
    if factor is not None:
        return value, (*changes, Layer(gradient))
    scales = others[1].weight
    fixed = Layer(array_namespace(scales).zeros_like(scales))
    return value, (*changes, Layer(gradient), fixed)


def squares_of(layers: Sequence[Layer], operands: Constants, numerics: Numerics) -> Iterator[Array]:
    """Sum the squares of each weight, or of each gradient.

    With P = c W_0 + e V_0 the first weight's is sum(A * (H + X P)) + sum(P * P). Without l2 these
    are gradients; those of c and e are 0, and so is P.
    """
    network, (rows, scales) = _divided(layers, False)
    mixed = network[0].weight
    c = [scales.weight[i, 0] for i in range(len(operands.starts))]
    for scale, start in zip(c, operands.starts, strict=True):
        mixed = numerics.add(mixed, numerics.multiply(start, scale))
    total = sum_of_products(rows.weight, mixed, numerics)
    pairs = [(0, 0), (0, 1), (1, 1)][: len(operands.squares)]
    for square, (i, j) in zip(operands.squares, pairs, strict=True):
        part = numerics.multiply(numerics.multiply(square, c[i]), c[j])
        total = numerics.add(total, part)
    # Rounding may make it negative, and it has to have a root.
    xp = array_namespace(total)
    yield cast(Array, xp.where(total < 0.0, xp.zeros_like(total), total))
    for layer in network[1:]:
        yield sum_of_squares(layer.weight, numerics)


def _divided(layers: Sequence[Layer], plain: bool) -> tuple[Sequence[Layer], Sequence[Layer]]:
    """Divide what stands for layers: the network with H for W, and (A,) or (A, (c, e))."""
    end = -1 if plain else -2
    return layers[:end], layers[end:]


def _spread(gradient: Array, chosen: Array, n: int) -> Array:
    """Put the rows of chosen samples at their places among all n, and zeros elsewhere."""
    xp = array_namespace(gradient)
    numbers = xp.arange(n, dtype=chosen.dtype, **placement(chosen))
    found = xp.reshape(numbers, (-1, 1)) == xp.reshape(chosen, (1, -1))
    places = xp.argmax(xp.astype(found, xp.int32), axis=1)
    rows = xp.take(gradient, places, axis=0)
    present = xp.any(found, axis=1, keepdims=True)
    return cast(Array, xp.where(present, rows, xp.zeros_like(rows)))
