"""A benchmark as a picture: speed by engine, every round a point; and seconds over the number of runs."""

from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.engines import named
from benchmarks.results import Results
from benchmarks.summaries import speed_of, summarise

OURS, PEERS = "#2a7f62", "#b0b0b0"
POINTS = "#303030"


def plot(results: Results, path: Path) -> None:
    """Write an SVG, the same bytes for the same results."""
    # Text stays text, and identifiers do not depend on the time.
    with mpl.rc_context({"svg.hashsalt": "tsugiki", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        speeds, runs = figure.subplots(1, 2, width_ratios=(3, 2))
        _plot_speeds(speeds, results)
        _plot_runs(runs, results)
        figure.suptitle(results.hardware.label, fontsize=9, color=POINTS)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def _plot_speeds(axes: Axes, results: Results) -> None:
    rows = summarise(results)
    unit = "tokens a second" if results.hardware.gpu else "tokens per CPU second on one thread"
    for place, row in enumerate(reversed(rows)):
        colour = OURS if named(row.engine).is_ours else PEERS
        axes.barh(place, row.tokens_per_cpu_s, 0.62, color=colour)
        rounds = [speed_of(each.steps, results) for each in results.steps if each.engine == row.engine]
        axes.plot(rounds, [place] * len(rounds), "o", color=POINTS, markersize=3, alpha=0.7)
        axes.annotate(
            f"{row.tokens_per_cpu_s:,.0f}", (max(rounds), place), xytext=(6, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set(xlabel=f"{unit}\n(bar: median, points: rounds)")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _plot_runs(axes: Axes, results: Results) -> None:
    if not results.batches:
        axes.set_axis_off()
        return
    runs = [each.runs for each in results.batches]
    axes.plot(runs, [each.seconds for each in results.batches], "o-", color=OURS, label="all in one plan")
    alone = median(each.seconds for each in results.batches if each.runs == min(runs))
    axes.plot(
        runs, [alone * count / min(runs) for count in runs], "--", color=PEERS, label="as many times one run alone"
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=f"runs of {results.batches[0].documents_a_run} documents",
        ylabel="seconds, process start included",
    )
    axes.set_xticks(runs, [str(count) for count in runs])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.25)
    # Above: lines from corner to corner leave no room inside.
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
