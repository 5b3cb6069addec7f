"""Parameters of tests that not every library needs in the fast suite."""

import pytest

# Libraries with dtypes that the standard does not have.
half = pytest.mark.not_library("array-api-strict", "marray")
brain = pytest.mark.library("torch", "jax", "mlx")


def thorough(*values):
    """Mark values that NumPy takes always, and other libraries with --thorough."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


def where(marker, *values):
    """Mark values, such as by `pytest.mark.library`."""
    return [pytest.param(value, marks=marker) for value in values]


# For what costs a compilation and is no question of the dtype.
one_dtype = pytest.mark.parametrize("dtype", ["float32", *thorough("float64")])
