"""Deliberate mistakes, each of which the fast suite must notice: python -m tests.mutants."""
