"""Marks for parameters that the fast suite does not need on every library."""

import pytest

# Libraries with dtypes that the standard does not have.
half = pytest.mark.not_library("array-api-strict", "marray")
brain = pytest.mark.library("torch", "jax", "mlx")


def thorough(*values):
    """Mark values that NumPy always takes, other libraries only with --thorough."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


def where(marker, *values):
    """Mark values with a marker such as `pytest.mark.library(...)`."""
    return [pytest.param(value, marks=marker) for value in values]


# For tests that compile and do not depend on the dtype.
one_dtype = pytest.mark.parametrize("dtype", ["float32", *thorough("float64")])
