"""`python -m kernels train`: `plan` what was asked for, make a `job` of it, and run that."""

from .command import train

__all__ = ["train"]
