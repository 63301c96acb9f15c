"""README.md and docs/performance.md: what stands between their markers comes from the committed results alone."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench_plot, tables
from benchmarks.process import ROOT
from benchmarks.results import Results, read_all

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"


def write() -> None:
    """Plots and both blocks."""
    found = read_all()
    for results in found:
        bench_plot.plot(results, IMAGES / results.plot_name)
    for path, block in blocks(found).items():
        path.write_text(replaced(path.read_text(), block))


def blocks(found: Sequence[Results]) -> dict[Path, str]:
    """What belongs between the markers of each page. The README tells of the first benchmark only."""
    return {PAGE: tables.whole(found), README: tables.summary(found[0]) if found else tables.NOTHING}


def replaced(text: str, block: str) -> str:
    """The text with what stands between the markers replaced. Raises ValueError where there is not one pair of them."""
    if (text.count(BEGIN), text.count(END)) != (1, 1) or text.index(BEGIN) > text.index(END):
        raise ValueError("a page has the markers once, in their order")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block.strip()}\n{END}{after}"


def between(text: str) -> str:
    """What stands between the markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()
