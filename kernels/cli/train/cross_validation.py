"""`python -m kernels train --cv`: a network for each fold, scored on that fold."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from statistics import fmean, pstdev
from threading import Event
from typing import Any

import typer

from backends.workers import Workers

from ..common import NUMERICS, CliError, console, require, warn
from ..data.sheet import Table
from ..scores import SCORES
from ..tables import make_table, print_table
from .job import job_on, target_of
from .method import activation_of
from .plan import Plan
from .report import Report, as_json, facts_of_method, facts_table, fields_of, report_of
from .running import check_finite, fit_timed, measure, on_host
from .workers import fit_split

__all__ = ["cross_validate", "folds_of"]

# Seeds are below this.
_SEEDS = 2**64


def cross_validate(team: Workers, plan: Plan) -> None:
    """Train a network for each fold, with its own weights and preparation, and print scores."""
    assert plan.table is not None
    assert plan.options.cv is not None
    count, seed = plan.options.cv, plan.settings.seed
    reports = []
    for i, rows in enumerate(folds_of(plan.table, count, seed=seed)):
        settings = plan.settings._replace(seed=(seed + i) % _SEEDS)
        own = plan._replace(settings=settings, rows=rows)
        reports.append(_report_of_fold(team, own, f"fold {i + 1} of {count}"))
    scores = [report.held_out or {} for report in reports]
    # A fold whose targets are all alike has no R^2.
    values = {
        name: [each[name] for each in scores]
        for name in SCORES
        if all(name in each for each in scores)
    }
    if plan.options.json:
        typer.echo(
            as_json(
                {
                    "folds": [fields_of(report) for report in reports],
                    "mean": {name: fmean(each) for name, each in values.items()},
                    "deviation": {name: pstdev(each) for name, each in values.items()},
                }
            )
        )
    else:
        _print(reports, values)


def folds_of(table: Table, count: int, *, seed: int) -> Iterator[tuple[Any, Any]]:
    """Give for each fold the rows outside and inside it, with classes shared out evenly.

    Parameters
    ----------
    table
        The data, of at least `count` rows.
    count
        How many folds.
    seed
        Decides the order in which rows are dealt out.
    """
    import numpy as np

    require("sklearn", "--cv")
    from sklearn.model_selection import KFold, StratifiedKFold

    from ...random import permutation

    n = len(table.y)
    if count > n:
        raise CliError(f"expected --cv of at most {n}, the rows of {table.name}, got {count}")
    # In the order of `split`, which is the same on every machine.
    order: Any = permutation(n, seed=seed, stream=2**31 - 1, like=np.zeros(0))
    if table.classes:
        fewest, most = (int(each(np.bincount(table.y))) for each in (np.min, np.max))
        if count > most:
            raise CliError(
                f"expected --cv of at most {most}, the rows of the largest class of {table.name}, "
                f"got {count}"
            )
        if count > fewest:
            warn(f"A class has {fewest} rows, and is in fewer than {count} folds.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if table.classes:
            cuts = list(StratifiedKFold(count).split(order, table.y[order]))
        else:
            cuts = list(KFold(count).split(order))
    for train, test in cuts:
        yield order[train], order[test]


def _report_of_fold(team: Workers, plan: Plan, label: str) -> Report:
    place, job = team.backend, job_on(team, plan)
    trained = fit_timed(
        fit_split(team),
        job.problem,
        place,
        job.settings,
        start=0,
        total=job.total,
        # Ctrl-C stops at once: scores of some folds are of no use.
        interrupted=Event(),
        label=label,
    )
    numerics, activation = NUMERICS[job.settings.numerics], activation_of(job.settings)
    scores = measure(job.problem, trained.layers, place, numerics, activation, target_of(job))
    check_finite(on_host(place, trained.layers), trained.losses, job.problem, scores.final_loss)
    return report_of(team, plan, job, trained, trained.losses, scores)


def _print(reports: list[Report], values: dict[str, list[float]]) -> None:
    """Print the scores of each fold, their mean and deviation, and how all were trained."""
    table = make_table("fold", "trained on", "held out", *(SCORES[name][0] for name in values))
    for i, report in enumerate(reports):
        held_out = report.held_out or {}
        shown = (f"{held_out[name]:{SCORES[name][1]}}" for name in values)
        table.add_row(str(i + 1), str(report.samples), f"{held_out['samples']:.0f}", *shown)
    means = (
        f"{fmean(each):{SCORES[name][1]}} ± {pstdev(each):{SCORES[name][1]}}"
        for name, each in values.items()
    )
    table.add_row("mean", "", "", *means)
    print_table(console(), table)
    console().print()
    facts_table(console(), [("problem", reports[0].problem), *facts_of_method(reports[0])])
