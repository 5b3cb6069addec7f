"""One neural-network training kernel for every array library of the Array API standard."""

from . import activations, lbfgs, random, schedules
from ._typing import Array, Compiler
from .digest import digest
from .layer import Layer, init
from .losses import (
    Loss,
    half_squared_error,
    logistic_cross_entropy,
    poisson,
    softmax_cross_entropy,
    squared_error,
)
from .network import backward, backward_to_input, forward, step, update
from .numerics import EXACT, NATIVE, Exact, Numerics
from .optimizers import SGD, Adam, AdamState, SGDState
from .schedules import Schedule
from .storage import load, save
from .training import Fit, fit

__all__ = [
    "EXACT",
    "NATIVE",
    "SGD",
    "Adam",
    "AdamState",
    "Array",
    "Compiler",
    "Exact",
    "Fit",
    "Layer",
    "Loss",
    "Numerics",
    "SGDState",
    "Schedule",
    "activations",
    "backward",
    "backward_to_input",
    "digest",
    "fit",
    "forward",
    "half_squared_error",
    "init",
    "lbfgs",
    "load",
    "logistic_cross_entropy",
    "poisson",
    "random",
    "save",
    "schedules",
    "softmax_cross_entropy",
    "squared_error",
    "step",
    "update",
]
