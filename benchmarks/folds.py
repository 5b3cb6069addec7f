"""`python -m benchmarks.folds`: scores of the estimators beside those of scikit-learn."""

from __future__ import annotations

import json as json_format
import math
import sys
import warnings
from statistics import fmean, pstdev
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

from kernels.cli.common import choose, console, require
from kernels.cli.entry import entry
from kernels.cli.tables import make_table, print_table

__all__ = ["DATA", "folds"]

# Data sets and their settings: the defaults would overfit the few samples of diabetes.
DATA: dict[str, dict[str, Any]] = {
    "digits": {},
    "wine": {},
    "breast_cancer": {},
    "diabetes": {"hidden_layer_sizes": (20,), "alpha": 1.0},
}

_SOLVERS = ("sgd", "adam", "lbfgs")

_FOLDS = 5


def folds(
    data: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(DATA)}; may be given again. Default: all."),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(_SOLVERS)}; may be given again. Default: all."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How often to cut the data into folds.", min=1)] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score the estimators and scikit-learn's on the same five folds, standardized, in float64.

    The score is accuracy, but R^2 for diabetes. Differences are between scores on the same fold.
    """
    require("sklearn", "benchmarks.folds", extra="estimators")
    names = [choose("--data", name, tuple(DATA)) for name in data or DATA]
    solvers = [choose("--solver", name, _SOLVERS) for name in solver or _SOLVERS]
    cases = [(name, each) for name in names for each in solvers]
    found: list[dict[str, Any]] = [
        {"data": name, "solver": each} | _scores(name, each, seeds)
        for name, each in track(cases, "scoring", console=Console(stderr=True), transient=True)
    ]
    if json:
        sys.stdout.write(json_format.dumps(found) + "\n")
        return
    table = make_table("data", "solver", "scikit-learn", "these", "difference")
    for row in found:
        theirs, ours = row["scikit-learn"], row["these"]
        difference = [a - b for a, b in zip(ours, theirs, strict=True)]
        shown = (f"{fmean(each):.3f} ± {pstdev(each):.3f}" for each in (theirs, ours))
        error = pstdev(difference) / math.sqrt(len(difference))
        table.add_row(row["data"], row["solver"], *shown, f"{fmean(difference):+.3f} ± {error:.3f}")
    print_table(console(), table)


def _scores(name: str, solver: str, seeds: int) -> dict[str, list[float]]:
    """Score both in each fold, for each seed of folds and network."""
    import sklearn.datasets
    import sklearn.neural_network
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import kernels.estimators

    x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
    kind, cut = ("MLPClassifier", StratifiedKFold)
    if name == "diabetes":
        kind, cut = ("MLPRegressor", KFold)
        y = (y - y.mean()) / y.std()
    found = {}
    for label, module in (("scikit-learn", sklearn.neural_network), ("these", kernels.estimators)):
        scores: list[float] = []
        for seed in range(seeds):
            model = getattr(module, kind)(solver=solver, random_state=seed, **DATA[name])
            cv = cut(_FOLDS, shuffle=True, random_state=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                scores += cross_val_score(
                    make_pipeline(StandardScaler(), model), x, y, cv=cv
                ).tolist()
        found[label] = scores
    return found


main = entry("benchmarks.folds", folds)

if __name__ == "__main__":
    sys.exit(main())
