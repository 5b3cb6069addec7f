"""Schedules: the rates that they say, as the same numbers everywhere."""

import hashlib
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from kernels import schedules

STEPS = [0, 1, 2, 7, 50, 99, 100, 101, 1000]

# As one writes them with the C library.
SCHEDULES = {
    "constant": (schedules.constant(0.3), lambda _: 0.3),
    "exponential": (
        schedules.exponential(0.3, 0.5, steps=30),
        lambda step: 0.3 * 0.5 ** (step / 30),
    ),
    "inverse": (schedules.inverse(0.3, 0.7), lambda step: 0.3 / (step + 1) ** 0.7),
    "linear": (
        schedules.linear(0.3, steps=100, final=0.1),
        lambda step: 0.3 - 0.2 * min(step / 100, 1.0),
    ),
    "cosine": (
        schedules.cosine(0.3, steps=100, final=0.1),
        lambda step: 0.1 + 0.1 * (1.0 + math.cos(math.pi * min(step / 100, 1.0))),
    ),
    "warmup": (
        schedules.warmup(schedules.linear(0.3, steps=100), steps=50),
        lambda step: (
            0.3 * (step + 1) / 50 if step < 50 else 0.3 * (1.0 - min((step - 50) / 100, 1.0))
        ),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates(name):
    schedule, expected = SCHEDULES[name]
    rates = [schedule(step) for step in STEPS]
    np.testing.assert_allclose(rates, [expected(step) for step in STEPS], rtol=1e-14, atol=1e-17)
    assert all(type(rate) is float for rate in rates)


def test_bits():
    """Committed numbers, so that a difference on another system or Python is noticed."""
    rates = [schedule(step).hex() for schedule, _ in SCHEDULES.values() for step in range(120)]
    assert hashlib.sha256(" ".join(rates).encode()).hexdigest()[:16] == "29d1e9de5cc2fa86"


@pytest.mark.parametrize("name", SCHEDULES)
def test_values(name):
    """Equal ones are equal objects."""
    schedule, _ = SCHEDULES[name]
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert len({schedule for schedule, _ in SCHEDULES.values()}) == len(SCHEDULES)


@pytest.mark.library("torch")
def test_cosine_is_that_of_torch():
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.1)
    schedule = schedules.cosine(0.3, steps=20, final=0.1)
    for step in range(20):
        assert schedule(step) == pytest.approx(expected.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        expected.step()


@pytest.mark.library("jax")
def test_schedules_are_those_of_optax():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    pairs = (
        (schedules.exponential(0.3, 0.5, steps=30), optax.exponential_decay(0.3, 30, 0.5)),
        (
            schedules.linear(0.3, steps=100, final=0.1),
            optax.linear_schedule(0.3, 0.1, 100),
        ),
        (
            schedules.cosine(0.3, steps=100, final=0.1),
            optax.cosine_decay_schedule(0.3, 100, 1 / 3),
        ),
        (
            schedules.warmup(schedules.linear(0.3, steps=100), steps=50),
            optax.join_schedules(
                [optax.linear_schedule(0.3 / 50, 0.3, 49), optax.linear_schedule(0.3, 0.0, 100)],
                [50],
            ),
        ),
    )
    for own, expected in pairs:
        for step in STEPS:
            assert own(step) == pytest.approx(float(expected(step)), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.constant(math.nan), ValueError, "rate of 0 or more, got nan"),
        (lambda: schedules.exponential(0.1, 0.0), ValueError, "expected a finite decay above 0, "),
        (lambda: schedules.inverse(0.1, -1), ValueError, "finite power of at least 0, got -1"),
        (lambda: schedules.inverse(0.1, "a"), TypeError, "expected power to be a real number, got"),
        (lambda: schedules.linear(0.1, steps=0), ValueError, "expected steps of 1 or more, got 0"),
        (lambda: schedules.cosine("a", steps=3), TypeError, "expected a learning rate that is a "),
        (lambda: schedules.cosine(0.1, steps=1.5), TypeError, "expected steps to be an integer"),
        (lambda: schedules.warmup(0.1, steps=3), TypeError, "a schedule to warm up to, got 0.1"),
    ],
)
def test_bad_numbers(make, error, message):
    with pytest.raises(error, match=message):
        make()


BITS = """
from kernels import schedules
from kernels.numerics import elementary

rates = schedules.cosine(0.1, steps=7), schedules.inverse(0.1, 0.3), schedules.exponential(0.1, 0.7)
print([rate(step).hex() for rate in rates for step in range(7)])
print(hash((elementary._POWERS, elementary._RECIPROCALS, elementary._LOGARITHMS)))
"""
# A program's own decimal context, which would round differently or raise.
SETTINGS = """
import decimal

context = decimal.getcontext()
context.prec, context.rounding, context.traps[decimal.Inexact] = 3, decimal.ROUND_UP, True
default = decimal.DefaultContext
default.Emin, default.Emax, default.clamp = -3, 3, 1
"""


def test_decimals_of_the_program_decide_nothing():
    own, plain = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for code in (SETTINGS + BITS, BITS)
    )
    assert own.stdout == plain.stdout != ""
