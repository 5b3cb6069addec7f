"""Check whether an array library can train: the kernel on it and on NumPy in lockstep.

`find` a library, then `examine` it; `python -m kernels check` prints the result. This package
imports NumPy.
"""

from .checkup import Checked, Part, examine
from .library import Library, find
from .lockstep import Difference
from .parts import COMMITTED, PARTS

__all__ = ["COMMITTED", "PARTS", "Checked", "Difference", "Library", "Part", "examine", "find"]
