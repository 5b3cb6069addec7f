"""What was measured, as tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from kernels.cli.tables import duration, make_table, print_table

from .contest import Contest
from .growth import Growth

__all__ = [
    "contest_tables",
    "growth_tables",
    "machine_table",
    "plot_contests",
    "plot_growth",
]

_COLOURS = {"kernel": "tab:blue", "peer": "tab:orange", "floor": "tab:grey"}


def machine_table(console: Console, machine: dict[str, Any]) -> None:
    """Print what the measurements were made on."""
    facts = make_table()
    facts.add_row("date", machine["date"])
    facts.add_row("CPU", f"{machine['cpu']}, {machine['cores']} cores")
    facts.add_row("memory", f"{machine['memory_bytes'] / 2**30:.1f} GiB")
    if machine["devices"]:
        facts.add_row("devices", ", ".join(machine["devices"]))
    facts.add_row("system", machine["system"])
    for label in ("versions", "threads"):
        facts.add_row(label, ", ".join(f"{name} {n}" for name, n in machine[label].items()))
    print_table(console, facts)


def contest_tables(console: Console, contest: Contest) -> None:
    """Print the times, then the ratios, then what could not run."""
    sizes = " > ".join(str(size) for size in contest.sizes)
    console.print(
        f"{contest.case}: network {sizes}, batch {contest.batch}, {contest.dtype}; "
        f"median and quartiles of {contest.rounds} rounds of {contest.steps} steps"
    )
    times = make_table("program", "per step", "quartiles", "first run", "allocated", "in weights")
    for row in contest.contestants:
        times.add_row(
            row.name,
            duration(row.per_step.median),
            f"{duration(row.per_step.q1)} to {duration(row.per_step.q3)}",
            duration(row.first_run_seconds),
            "" if row.allocated_bytes is None else f"{row.allocated_bytes / 2**20:.2f} MiB",
            "" if row.weights is None else f"{row.weights:.1f}",
        )
    print_table(console, times)
    console.print()
    table = make_table("program", "against", "ratio", "quartiles")
    for name, against, ratio in contest.ratios:
        table.add_row(name, against, f"{ratio.median:.2f}", f"{ratio.q1:.2f} to {ratio.q3:.2f}")
    print_table(console, table)
    if contest.not_run:
        console.print()
        reasons = make_table("not run", "because")
        for name, reason in contest.not_run:
            reasons.add_row(name, reason)
        print_table(console, reasons)


def growth_tables(console: Console, growths: Sequence[Growth]) -> None:
    """Print the time per step by size, with the exponents below."""
    for varied in dict.fromkeys(growth.varied for growth in growths):
        series = [growth for growth in growths if growth.varied == varied]
        console.print()
        fixed = ", ".join(f"{name} {size}" for name, size in series[0].fixed.items())
        console.print(f"Time per step by {varied}, at {fixed}, {series[0].dtype}")
        table = make_table(varied, *(_series(growth) for growth in series))
        for points in zip(*(growth.points for growth in series), strict=True):
            table.add_row(str(points[0].size), *(duration(point.seconds) for point in points))
        table.add_row(
            "exponent",
            *("" if each.exponent is None else f"{each.exponent:.2f}" for each in series),
        )
        table.add_row("expected", *(str(each.expected) for each in series))
        print_table(console, table)
        console.print(f"Stopped: {series[0].stopped}.")


def plot_contests(path: Path, contests: Sequence[Contest]) -> None:
    """Draw the time per step of every contestant, one panel for each case and dtype."""
    from matplotlib.figure import Figure

    heights = [len(contest.contestants) for contest in contests]
    figure = Figure(figsize=(9.0, 0.8 + sum(0.24 * n + 0.7 for n in heights)), layout="constrained")
    panels = figure.subplots(len(contests), squeeze=False, height_ratios=heights)[:, 0]
    for axes, contest in zip(panels, contests, strict=True):
        rows = sorted(contest.contestants, key=lambda row: -row.per_step.median)
        medians = [row.per_step.median * 1e3 for row in rows]
        axes.barh(
            [row.name for row in rows],
            medians,
            xerr=[
                [(row.per_step.median - row.per_step.q1) * 1e3 for row in rows],
                [(row.per_step.q3 - row.per_step.median) * 1e3 for row in rows],
            ],
            color=[_COLOURS[row.kind] for row in rows],
            ecolor="black",
        )
        axes.set(title=f"{contest.case}, {contest.dtype}", xlabel="ms per step")
        axes.margins(y=0.02)
        axes.tick_params(axis="y", labelsize="small")
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def plot_growth(path: Path, growths: Sequence[Growth]) -> None:
    """Draw the time per step against each size, on logarithmic axes."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(growth.varied for growth in growths))
    figure = Figure(figsize=(4.2 * len(names), 4.0), layout="constrained")
    for axes, varied in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for growth in (each for each in growths if each.varied == varied):
            fitted = "" if growth.exponent is None else f", exponent {growth.exponent:.2f}"
            axes.plot(
                [point.size for point in growth.points],
                [point.seconds * 1e3 for point in growth.points],
                marker="o",
                label=_series(growth) + fitted,
            )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        title = f"{varied}, expected exponent {growth.expected}"
        axes.set(xlabel=varied, ylabel="ms per step", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=150)


def _series(growth: Growth) -> str:
    return f"{growth.numerics}, {growth.backend}" + (" compiled" if growth.compiled else "")
