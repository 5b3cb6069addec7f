"""Optimizers with activations, losses, penalties, weights and batches: one digest, in parts too."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, strategies

import kernels
from kernels import EXACT, SGD, Adam, activations, schedules

N, SIZES, STEPS = 7, (4, 3, 2), 5
DRAWN = np.random.default_rng(5).normal(size=(N, SIZES[0] + SIZES[-1]))
# Of one shape each, since what costs a compilation shares it.
TARGETS = {
    kernels.squared_error: DRAWN[:, SIZES[0] :],
    kernels.poisson: np.floor(np.exp(DRAWN[:, SIZES[0] :])),
    kernels.logistic_cross_entropy: np.where(DRAWN[:, SIZES[0] :] > 0.0, 0.9, 0.0),
    kernels.softmax_cross_entropy: np.arange(N, dtype="int32") % 2,
}
WEIGHT = np.asarray([0.0, 1.0, 2.0, 0.1, 1e-40, 3.0, 1.0])
RATES = (
    0.001,
    schedules.warmup(schedules.cosine(0.005, steps=4, final=1e-4), steps=2),
    schedules.exponential(0.005, 0.3, steps=2),
    schedules.inverse(0.005, 0.7),
)

shares = strategies.sampled_from([0.0, 0.5, 0.9])
# With 0.0 Adam diverges after a batch whose weights are all zero.
above = strategies.sampled_from([0.5, 0.9])
more = {
    "learning_rate": strategies.sampled_from(RATES),
    "weight_decay": strategies.sampled_from([0.0, 0.1]),
    "max_norm": strategies.sampled_from([None, 0.5, 1e3]),
}
optimizers = strategies.one_of(
    strategies.builds(SGD, momentum=shares, nesterov=strategies.just(False), **more),
    strategies.builds(SGD, momentum=strategies.just(0.8), nesterov=strategies.just(True), **more),
    strategies.builds(Adam, beta1=shares, beta2=above, **more),
)
settings = strategies.fixed_dictionaries(
    {
        "optimizer": optimizers,
        "loss": strategies.sampled_from(list(TARGETS)),
        "activation": strategies.sampled_from(
            [getattr(activations, name) for name in activations.__all__ if name != "Activation"]
        ),
        "l2": strategies.sampled_from([0.0, 0.1]),
        "batch_size": strategies.sampled_from([None, 3, N]),
        "seed": strategies.integers(0, 3),
    }
)


def train(asarray, dtype, weighted, given, parts=(STEPS,)):
    """Train for some steps after some others; return the digest and the losses."""
    x, y = asarray(DRAWN[:, : SIZES[0]], dtype), TARGETS[given["loss"]]
    y = asarray(y, dtype if y.dtype.kind == "f" else "int32")
    weight = asarray(WEIGHT, dtype) if weighted else None
    layers, state, start, losses = kernels.init(SIZES, like=x, seed=2), None, 0, []
    for steps in parts:
        layers, values, state = kernels.fit(
            layers,
            x,
            y,
            steps=steps,
            start=start,
            state=state,
            sample_weight=weight,
            numerics=EXACT,
            **given,
        )
        losses += [float(values[i]).hex() for i in range(steps)]
        start += steps
    return kernels.digest(layers), state.steps, losses


# JAX compiles each operation for each shape, and Dask takes milliseconds for each.
@pytest.mark.not_library("jax", "dask")
@given(data=strategies.data())
def test_parts_and_libraries_have_one_digest(asarray, dtype, data):
    drawn, weighted = data.draw(settings), data.draw(strategies.booleans())
    first = data.draw(strategies.integers(1, STEPS - 1))
    expected = train(np.asarray, dtype, weighted, drawn)
    assert expected[1] == STEPS
    assert train(asarray, dtype, weighted, drawn, (first, STEPS - first)) == expected


def test_what_is_drawn_matters():
    """So that equal digests are not those of settings that nobody looked at."""
    plain = {
        "optimizer": Adam(0.05),
        "loss": kernels.squared_error,
        "activation": activations.tanh,
        "l2": 0.0,
        "batch_size": 3,
        "seed": 0,
    }
    others = {
        "optimizer": [SGD(0.05), dataclasses.replace(Adam(0.05), max_norm=0.5), Adam(RATES[1])],
        "loss": [kernels.poisson],
        "activation": [activations.elu],
        "l2": [0.1],
        "batch_size": [None],
        "seed": [1],
    }
    y = np.abs(TARGETS[kernels.squared_error])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TARGETS, kernels.squared_error, y)
        patch.setitem(TARGETS, kernels.poisson, y)
        cases = [plain, *(plain | {k: v} for k, values in others.items() for v in values)]
        digests = [train(np.asarray, "float64", False, case)[0] for case in cases]
        digests.append(train(np.asarray, "float64", True, plain)[0])
    assert len(set(digests)) == len(digests) == 10
