"""Each deliberate mistake still has its place; `nox -s mutants` makes them."""

import ast

import pytest

from tests.mutants.__main__ import TOP, mutated, read

MUTANTS = read()


@pytest.mark.parametrize("file", sorted({mutant["file"] for mutant in MUTANTS}))
def test_mistakes_can_be_made(file):
    text = (TOP / file).read_text()
    for mutant in MUTANTS:
        if mutant["file"] == file:
            ast.parse(mutated(mutant, text))


def test_names_are_unique():
    names = [(mutant["file"], mutant["name"]) for mutant in MUTANTS]
    assert len(names) == len(set(names)) >= 40
