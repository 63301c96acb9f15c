"""A job's course as a picture.

The SVG is written here and by no plotting library: the command line's install has none, and a style sheet lets one file
follow the reader's light or dark theme, where a library would write its colours into every element.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from cli.course import LEARNING_RATE, LOSS, TOKENS_PER_S, VALIDATION_LOSS, Course, Points
from cli.output import plain

WIDTH, HEIGHT = 880, 620
# A loss that falls by more than this factor is drawn on a logarithmic scale: the end is what one wants to see.
LOGARITHMIC_FROM = 8
# From so many points on a noisy series is drawn faintly, and over it the mean of each point and its neighbours, of
# which there is this share on either side. An exponential mean would lag, and show a falling loss as too high.
SMOOTHED_FROM = 40
NEIGHBOURS = 0.05
PIXELS_A_TICK_ACROSS, PIXELS_A_TICK_UP = 80, 27
# Room above and below on a logarithmic scale, as a factor; what a quotient may miss a whole number by.
MARGIN, TINY = 1.1, 1e-9
THOUSANDS_FROM = 10_000
# Over more powers of ten than these, only they are labelled.
FEW_POWERS = 4

STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328;font-variant-numeric:tabular-nums}
.paper{fill:#fff}.title{font-size:16px;font-weight:600}.dim{fill:#59636e}.grid{stroke:#d8dee4}.axis{stroke:#8c959f}
.train_loss{color:#1a7f64}.valid_loss{color:#bc4c00}.learning_rate{color:#0969da}.tokens_per_s{color:#8250df}
polyline{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}circle{fill:currentColor}
.faint{stroke-width:1;opacity:.35}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.dim{fill:#9198a1}.grid{stroke:#2a313c}
.axis{stroke:#656c76}.train_loss{color:#3fb68b}.valid_loss{color:#f0883e}.learning_rate{color:#58a6ff}
.tokens_per_s{color:#bc8cff}}
"""


@dataclass(frozen=True)
class Line:
    """A series as it is drawn. marked: each point is a measurement of its own, few and far between."""

    name: str
    label: str
    points: Points
    marked: bool = False
    smoothed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes: where it stands, what its values are, and the lines in it. Lengths in pixels."""

    heading: str
    lines: Sequence[Line]
    x: int
    y: int
    width: int
    height: int
    from_zero: bool = True


def svg(course: Course, *, title: str, subtitle: str) -> str:
    """Losses above, learning rate and speed below, over the optimiser's steps."""
    loss = Line(LOSS, "training", course.points(LOSS), smoothed=True)
    validation = Line(VALIDATION_LOSS, "validation", course.points(VALIDATION_LOSS), marked=True)
    rate = Line(LEARNING_RATE, "", course.points(LEARNING_RATE))
    speed = Line(TOKENS_PER_S, "", course.points(TOKENS_PER_S))
    panels = (
        Panel("Loss, nats a supervised token", (loss, validation), 64, 104, 792, 252, from_zero=False),
        Panel("Learning rate", (rate,), 64, 428, 356, 136),
        Panel("Tokens a second", (speed,), 500, 428, 356, 136),
    )
    drawn = "\n".join(part for panel in panels for part in _panel(panel, max(course.total_steps, 1)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-label="{_text(title)}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}" rx="8"/>\n'
        f'<text class="title" x="24" y="34">{_text(title)}</text>\n'
        f'<text class="dim" x="24" y="54">{_text(subtitle)}</text>\n'
        f"{drawn}\n</svg>\n"
    )


def _text(value: str) -> str:
    return escape(plain(value))


def _panel(panel: Panel, total_steps: int) -> Iterator[str]:
    lines = [line for line in panel.lines if line.points]
    yield f'<text x="{panel.x - 40}" y="{panel.y - 16}">{panel.heading}</text>'
    if not lines:
        yield f'<text class="dim" x="{panel.x}" y="{panel.y + 24}">not told yet</text>'
        return
    values = [value for line in lines for _, value in line.points]
    ticks, place_of = _vertical(panel, min(values), max(values))
    right, bottom = panel.x + panel.width, panel.y + panel.height
    for tick in ticks:
        y = place_of(tick)
        yield f'<line class="grid" x1="{panel.x}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="dim" x="{panel.x - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
    step = max(1.0, _round_step(total_steps, panel.width / PIXELS_A_TICK_ACROSS))
    for tick in _multiples(step, 0, total_steps):
        x = panel.x + panel.width * tick / total_steps
        yield f'<text class="dim" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(tick)}</text>'
    yield f'<line class="axis" x1="{panel.x}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    middle = panel.x + panel.width / 2
    yield f'<text class="dim" x="{middle}" y="{bottom + 36}" text-anchor="middle">optimiser step</text>'
    for line in lines:
        yield from _line(line, lambda step: panel.x + panel.width * step / total_steps, place_of)
    yield from _legend([line for line in lines if line.label], right, panel.y - 16)


def _vertical(panel: Panel, low: float, high: float) -> tuple[list[float], Callable[[float], float]]:
    """Ticks, and where a value stands: y grows downwards."""
    scale: Callable[[float], float] = float
    if panel.from_zero or low == high:
        low, high = 0.0, high or 1.0
    if low > 0 and high / low > LOGARITHMIC_FROM:
        scale, low, high = math.log10, low / MARGIN, high * MARGIN
        ticks = _logarithmic_ticks(low, high)
    else:
        step = _round_step(high - low, panel.height / PIXELS_A_TICK_UP)
        low, high = math.floor(low / step + TINY) * step, math.ceil(high / step - TINY) * step
        ticks = _multiples(step, low, high)
    span = scale(high) - scale(low)
    return ticks, lambda value: panel.y + panel.height * (scale(high) - scale(value)) / span


def _round_step(span: float, parts: float) -> float:
    """1, 2 or 5 times a power of ten, so that a span has no more than so many parts."""
    power = 10.0 ** math.floor(math.log10(span / parts))
    return next(size * power for size in (1, 2, 5, 10) if size * power >= span / parts - TINY * power)


def _multiples(step: float, low: float, high: float) -> list[float]:
    return [count * step for count in range(math.ceil(low / step - TINY), math.floor(high / step + TINY) + 1)]


def _logarithmic_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sizes = (1, 2, 5) if len(powers) <= FEW_POWERS else (1,)
    return [size * 10.0**power for power in powers for size in sizes if low <= size * 10.0**power <= high]


def _number(value: float) -> str:
    return f"{value / 1000:g}k" if value >= THOUSANDS_FROM else f"{value:.10g}"


def _line(line: Line, x_of: Callable[[int], float], y_of: Callable[[float], float]) -> Iterator[str]:
    def polyline(points: Points, style: str) -> str:
        places = " ".join(f"{x_of(step):.1f},{y_of(value):.1f}" for step, value in points)
        return f'<polyline class="{style}" points="{places}"/>'

    if line.smoothed and len(line.points) >= SMOOTHED_FROM:
        yield polyline(line.points, f"{line.name} faint")
        yield polyline(smoothed(line.points), line.name)
    else:
        yield polyline(line.points, line.name)
    for step, value in line.points if line.marked or len(line.points) == 1 else ():
        said = f"<title>step {step}: {value:.4f}</title>"
        yield f'<circle class="{line.name}" cx="{x_of(step):.1f}" cy="{y_of(value):.1f}" r="3.2">{said}</circle>'


def smoothed(points: Points) -> Points:
    """The mean of each point and its neighbours: as many before as after it, fewer towards the ends."""
    most = round(len(points) * NEIGHBOURS)
    means = []
    for place, (step, _) in enumerate(points):
        reach = min(most, place, len(points) - 1 - place)
        near = [value for _, value in points[place - reach : place + reach + 1]]
        means.append((step, sum(near) / len(near)))
    return means


def _legend(lines: Sequence[Line], right: int, y: int) -> Iterator[str]:
    """Each line with the last value it had, from the right."""
    for place, line in enumerate(reversed(lines)):
        x = right - 150 - 170 * place
        yield f'<polyline class="{line.name}" points="{x},{y - 4} {x + 22},{y - 4}"/>'
        if line.marked:
            yield f'<circle class="{line.name}" cx="{x + 11}" cy="{y - 4}" r="3.2"/>'
        yield f'<text x="{x + 30}" y="{y}">{line.label} <tspan class="dim">{line.points[-1][1]:.3f}</tspan></text>'
