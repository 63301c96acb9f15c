"""The demonstration's result as a picture: how each department's loss fell, and what that did to its accuracy."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cli.demo_report import DemoReport, DepartmentResult

_BEFORE, _AFTER = "#b0b0b0", "#2a7f62"
_COLOURS = ("#2a7f62", "#c0632b")


def plot(report: DemoReport, path: Path) -> None:
    """Write an SVG. No display is needed."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_losses(losses, report.departments)
    _plot_accuracies(accuracies, report.departments)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _plot_losses(axes: Axes, results: tuple[DepartmentResult, ...]) -> None:
    for result, colour in zip(results, _COLOURS, strict=False):
        axes.plot(*zip(*result.losses, strict=True), label=result.name, color=colour, linewidth=1.5)
    axes.set(yscale="log", xlabel="optimiser step", ylabel="training loss (nats a token)")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False)


def _plot_accuracies(axes: Axes, results: tuple[DepartmentResult, ...]) -> None:
    places = range(len(results))
    for offset, colour, label, heights in (
        (-0.2, _BEFORE, "base model", [result.base_accuracy for result in results]),
        (0.2, _AFTER, "with adapter", [result.adapter_accuracy for result in results]),
    ):
        bars = axes.bar([place + offset for place in places], heights, 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="{:.0%}")
    axes.set_xticks(list(places), [result.name for result in results])
    axes.set(ylim=(0, 1.3), ylabel="accuracy on held-out rows")
    axes.set_yticks([0, 0.5, 1])
    axes.legend(frameon=False, ncols=2, loc="upper center")
