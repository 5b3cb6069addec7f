"""What is imported, and which way imports point."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import backends
import kernels

LIBRARIES = {each.module for each in backends.known()} | {"cubed", "jaxlib"}
COMMAND_LINE = ("matplotlib", "polars", "rich", "safetensors", "sklearn", "typer")
KERNELS = Path(kernels.__file__).parent
BACKENDS = Path(backends.__file__).parent
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def imported_by(statement):
    """List the top-level modules that a new interpreter holds after a statement."""
    code = f"import sys; {statement}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["kernels", "backends", "kernels.cli", "kernels.reference"])
def test_import_brings_no_array_library(package):
    seen = imported_by(f"import {package}")
    assert package.partition(".")[0] in seen
    assert seen.isdisjoint(LIBRARIES)
    assert seen.isdisjoint(COMMAND_LINE)


def test_import_is_seen():
    """The check above can fail."""
    assert "numpy" in imported_by("import kernels, numpy")


def test_kernels_does_not_import_backends():
    assert "backends" not in imported_by("import kernels")


@pytest.mark.parametrize("library", ["numpy"])
def test_one_backend_imports_its_own_library_alone(library):
    seen = imported_by(f"import backends; backends.get({library!r})")
    assert seen.intersection(LIBRARIES) == {library}


def imports(path):
    """List the modules a file imports anywhere, also inside functions, with relative ones as ''."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("" if node.level else node.module)
    return {name.partition(".")[0] for name in found}


MATHEMATICS = sorted(
    path
    for path in KERNELS.rglob("*.py")
    if not {"cli", "estimators", "reference", "conformance"}.intersection(
        path.relative_to(KERNELS).parts
    )
    and path.name != "__main__.py"
)


@pytest.mark.parametrize("path", MATHEMATICS, ids=lambda path: str(path.relative_to(KERNELS)))
def test_mathematics_imports_no_array_library(path):
    third_party = imports(path) - set(sys.stdlib_module_names) - {""}
    allowed = {"array_api_compat"} | ({"safetensors"} if path.name == "storage.py" else set())
    assert third_party <= allowed


def test_estimators_import_no_array_library_but_scikit_learns():
    files = sorted((KERNELS / "estimators").glob("*.py"))
    assert set().union(*map(imports, files)) & LIBRARIES == {"numpy"}


def test_every_file_of_the_mathematics_is_scanned():
    names = {path.name for path in MATHEMATICS}
    assert {
        "layer.py",
        "minibatches.py",
        "network.py",
        "losses.py",
        "native.py",
        "random.py",
        "training.py",
    } <= names


@pytest.mark.parametrize("path", sorted(BACKENDS.glob("*.py")), ids=lambda path: path.name)
def test_a_backend_imports_only_its_own_library_and_numpy(path):
    library = {"_cuda_graphs": "torch"}.get(path.stem, path.stem)
    assert imports(path).intersection(LIBRARIES) <= {library, "numpy"}


def module_of(path):
    """Name the module in a file."""
    parts = path.relative_to(BENCHMARKS.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_of(path): path
    for folder in (KERNELS, BACKENDS, BENCHMARKS)
    for path in sorted(folder.rglob("*.py"))
}


def own_imports(name, path):
    """List the modules of this project that one imports, also for type checkers alone."""
    # What is imported from a package may be a module in it.
    return {
        name if name in MODULES else name.rpartition(".")[0] for name in names_imported(name, path)
    } & set(MODULES)


def names_imported(name, path):
    """List what a module imports, each with the names of its packages."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""] if node.level else [node.module]).strip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


@functools.cache
def all_imports():
    return {name: own_imports(name, path) for name, path in MODULES.items()}


# Groups of modules. A module may import from its own group and from those before.
ROOMS = (
    ("kernels",),
    ("backends",),
    ("kernels.estimators", "kernels.reference", "kernels.conformance"),
    ("kernels.cli", "kernels.__main__"),
    ("benchmarks",),
)


def room(name):
    """Number the group of a module: the last one that its name fits."""
    return max(
        number
        for number, packages in enumerate(ROOMS)
        if any(f"{name}.".startswith(f"{package}.") for package in packages)
    )


def test_imports_have_no_circles():
    """Also not inside functions and for type checkers alone."""
    found = all_imports()
    assert "kernels.cli.common" in found["benchmarks.bench"]
    assert found["kernels.training"] >= {"kernels.minibatches", "kernels.network"}
    # Raises CycleError, which names the modules.
    graphlib.TopologicalSorter(found).prepare()


@pytest.mark.parametrize("name", MODULES)
def test_what_has_an_underscore_stays_in_its_package(name):
    """A module serves the folder it is in, and a name its module alone."""
    for full in names_imported(name, MODULES[name]):
        owner, private, rest = full.partition("._")
        if private and owner in MODULES and not rest.startswith("_"):
            assert MODULES[owner].name == "__init__.py", full
            assert f"{name}.".startswith(f"{owner}."), full


def test_imports_point_one_way():
    """Commands use everything, and the mathematics nothing but itself."""
    for name, imported in all_imports().items():
        assert all(room(other) <= room(name) for other in imported), (name, imported)


def test_what_is_public_exists():
    for module in (kernels, backends):
        assert all(hasattr(module, name) for name in module.__all__)
        assert list(module.__all__) == sorted(module.__all__, key=lambda n: (not n.isupper(), n))
