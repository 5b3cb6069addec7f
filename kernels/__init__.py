"""One neural-network training kernel for every array library of the Array API standard."""

from . import random
from .digest import digest
from .losses import softmax_cross_entropy, squared_error
from .network import Layer, backward, backward_to_input, forward, init, step, update
from .numerics import EXACT, NATIVE, Exact
from .storage import load, save
from .training import Fit, fit

__all__ = [
    "EXACT",
    "NATIVE",
    "Exact",
    "Fit",
    "Layer",
    "backward",
    "backward_to_input",
    "digest",
    "fit",
    "forward",
    "init",
    "load",
    "random",
    "save",
    "softmax_cross_entropy",
    "squared_error",
    "step",
    "update",
]
