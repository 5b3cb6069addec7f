"""`python -m benchmarks.fits`: whole fits of the estimators beside those of scikit-learn."""

from __future__ import annotations

import json as json_format
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from kernels.cli.common import DTYPES, CliError, choose, console, require
from kernels.cli.entry import entry
from kernels.cli.tables import duration, make_table, print_table

from .timing import Spread, interleave, ratios, spread

__all__ = ["FITS", "Fit", "fits"]


class Fit(NamedTuple):
    """What is fitted.

    Attributes
    ----------
    name
        The name of the class in `kernels.estimators` and in scikit-learn.
    make
        () -> (X, y), float64.
    settings
        The parameters of both.
    """

    name: str
    make: Callable[[], tuple[Any, Any]]
    settings: dict[str, Any]


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16.0, y


def _wide() -> tuple[Any, Any]:
    import numpy as np

    x = np.random.default_rng(0).standard_normal((100, 20_000)) / 141.0
    return x, x[:, :5].sum(axis=1)


# Neither stops early, so both take as many steps.
_TO_THE_END: dict[str, Any] = {"tol": 0.0, "n_iter_no_change": 1000, "random_state": 0}

FITS = {
    "digits-sgd": Fit("MLPClassifier", _digits, {"solver": "sgd", "max_iter": 20}),
    "digits-adam": Fit("MLPClassifier", _digits, {"solver": "adam", "max_iter": 20}),
    "digits-lbfgs": Fit("MLPClassifier", _digits, {"solver": "lbfgs", "max_iter": 30}),
    "wide-sgd": Fit("MLPRegressor", _wide, {"solver": "sgd", "max_iter": 100}),
}


def fits(
    case: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(FITS)}; may be given again. Default: all."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float64",
    rounds: Annotated[int, typer.Option(help="Fits of each estimator.", min=1)] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Time whole fits of the estimators, native and exact, and of scikit-learn's, in turn.

    The number of epochs is fixed, and ratios of times are taken within each round.
    """
    require("sklearn", "benchmarks.fits", extra="estimators")
    names = [choose("--case", name, tuple(FITS)) for name in case or FITS]
    choose("--dtype", dtype, DTYPES)
    found = []
    with Console(stderr=True).status("") as status:
        for name in names:
            status.update(f"{name}, {dtype}")
            found += _timed(name, dtype, rounds)
    if json:
        sys.stdout.write(json_format.dumps(found) + "\n")
        return
    table = make_table("case", "program", "a fit", "/ scikit-learn", "quartiles")
    for row in found:
        ratio = Spread(**row["ratio"])
        shown = (f"{ratio.median:.2f}", f"{ratio.q1:.2f} {ratio.q3:.2f}")
        table.add_row(row["case"], row["program"], duration(row["seconds"]), *shown)
    print_table(console(), table)


def _timed(name: str, dtype: str, rounds: int) -> list[dict[str, Any]]:
    case = FITS[name]
    x, y = case.make()
    x = x.astype(dtype)
    named = list(_models(case))
    seconds = interleave([partial(_fit, model, x, y) for _, model in named], rounds)
    epochs = {label: model.n_iter_ for label, model in named}
    if case.settings["solver"] != "lbfgs" and set(epochs.values()) != {case.settings["max_iter"]}:
        raise CliError(f"expected {case.settings['max_iter']} epochs of each, got {epochs}")
    return [
        {
            "case": name,
            "dtype": dtype,
            "program": label,
            "epochs": epochs[label],
            "seconds": spread(own).median,
            "ratio": ratios(own, seconds[0])._asdict(),
        }
        for (label, _), own in zip(named, seconds, strict=True)
    ]


def _models(case: Fit) -> Iterator[tuple[str, Any]]:
    """Make an estimator of scikit-learn, and ours."""
    import sklearn.neural_network

    import kernels.estimators

    ours = getattr(kernels.estimators, case.name)
    settings = _TO_THE_END | case.settings
    yield "scikit-learn", getattr(sklearn.neural_network, case.name)(**settings)
    yield "native", ours(**settings)
    yield "exact", ours(**settings, numerics="exact")
    # With more features than samples the dual form is faster.
    if case.make is _wide:
        yield "exact, dual", ours(**settings, numerics="exact", dual=True)


def _fit(model: Any, x: Any, y: Any) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


main = entry("benchmarks.fits", fits)

if __name__ == "__main__":
    sys.exit(main())
