"""The kernel's speed and memory beside those of other programs: for developers, not in the wheel.

`python -m benchmarks` times it; `python -m benchmarks.record DIR` also runs the tests and `verify`,
and keeps the results.
"""
