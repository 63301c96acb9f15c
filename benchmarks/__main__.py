"""`python -m benchmarks`: every engine once a round, round after round, each in a process of its own.

Results go to benchmarks/results/<hardware>.json as they come, from which the plot and the tables of README.md and
docs/performance.md are written.
"""

import argparse
import datetime as dt
import tempfile
import time
from pathlib import Path

from benchmarks import pages, tables
from benchmarks.bench import Asked, Bench
from benchmarks.machine import ISAS
from benchmarks.parts import PARTS
from benchmarks.process import ROOT
from benchmarks.reports import say
from benchmarks.results import Results
from benchmarks.sizes import FULL, QUICK
from cli import gguf
from cli.base_models import PACKAGED_GGUF

BASE_MODEL = ROOT / ".cache" / "smollm2"
QUICK_OUT = ROOT / ".cache" / "bench-quick.json"


def main() -> None:
    """Measure, and write what was found."""
    options = _options()
    if options.tables:
        pages.write()
        return
    sizes = QUICK if options.quick else FULL
    if options.rounds:
        sizes = sizes.of_rounds(options.rounds)
    if options.seeds:
        sizes = sizes.of_seeds(options.seeds)
    if options.base_model == BASE_MODEL and not BASE_MODEL.exists():
        gguf.convert(PACKAGED_GGUF, BASE_MODEL)
    asked = Asked(sizes, options.base_model, options.isa, dt.datetime.now(dt.UTC))
    with tempfile.TemporaryDirectory(prefix="tsugiki-bench-") as folder:
        bench = Bench(asked, Path(folder))
        committed = bench.results.path
        out = options.out or (QUICK_OUT if options.quick else committed)
        others = Results.model_validate_json(out.read_bytes()) if options.only and out.exists() else None
        bench.keep(out, others)
        for part in options.only or PARTS:
            began = time.monotonic()
            bench.begin(part)
            PARTS[part](bench)
            say(f"{out}: {part} measured in {(time.monotonic() - began) / 60:.1f} minutes")
    if out == committed:
        pages.write()
    else:
        say(tables.whole([bench.results]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=_parts, help=f"measure these parts again and keep the others: {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help=f"show that everything runs; written to {QUICK_OUT.name}")
    parser.add_argument("--rounds", type=int, help="how often every engine is measured; the median counts")
    parser.add_argument("--seeds", type=int, help="how often each department's task is trained by each engine")
    parser.add_argument("--isa", choices=list(ISAS), help="hold matrix products back to this instruction set")
    parser.add_argument("--base-model", type=Path, default=BASE_MODEL)
    parser.add_argument("--out", type=Path, help="write the JSON here, and no tables")
    parser.add_argument("--tables", action="store_true", help="write tables and plots again from the results there are")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := set(asked) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return [part for part in PARTS if part in asked]


if __name__ == "__main__":
    main()
