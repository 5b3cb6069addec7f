"""A differential fuzzer of exact numerics: `python -m tests.hunt --minutes 10`; see docs/hunt.md.

`values` draws numbers and `programs` what is done with them, `libraries` runs a program on a
library in a process of its own, `oracle` says what it must give, and `hunter` looks for what
differs. pytest collects nothing here; tests/test_hunt.py tests it.
"""
