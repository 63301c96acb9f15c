"""`python -m chaos`: the whole service under faults by a seed, and what an independent checker finds afterwards."""

import argparse
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from chaos.flushes import flush
from chaos.installation import USUAL, Installation, Shape
from chaos.run import Chaos, Plan, keep
from chaos.workload import SHORT, Task, Workload, real_task
from runtime import logs

QUICK = Plan(kills=30, stops=8, rounds=0, strikes=6)
FULL = Plan(kills=1000, stops=200, rounds=20, strikes=100)

# Breaches of one promise that are shown.
SHOWN = 20


def main() -> int:
    """Run, show the table; the exit status says whether every promise was kept."""
    options = _options()
    logs.configure("WARNING")
    with tempfile.TemporaryDirectory(prefix="tsugiki-chaos-") as folder:
        # PostgreSQL runs as another user where we are root.
        Path(folder).chmod(0o711)
        shape, task = _shape(options), _task(options)
        with Installation(Path(folder) / "installation", shape, options.seed) as installation:
            workload = Workload(installation, departments=options.departments, seed=options.seed, task=task)
            with closing(workload):
                workload.prepare()
                return _flush(options, workload) if options.flushes else _run(options, workload)


def _shape(options: argparse.Namespace) -> Shape:
    times = USUAL if options.usual_times or options.base_model else Shape()
    return replace(
        times,
        workers=options.workers,
        real_engine=options.base_model is not None,
        lease_s=options.lease_s or times.lease_s,
    )


def _task(options: argparse.Namespace) -> Task:
    if options.base_model is None:
        return SHORT
    return real_task(options.base_model, steps=options.steps, checkpoint_every=options.checkpoint_every)


def _flush(options: argparse.Namespace, workload: Workload) -> int:
    flushed = flush(workload.installation, workload, jobs=options.jobs, times=options.flushes)
    sys.stdout.write(flushed.table() + "\n")
    return 1 if flushed.findings else 0


def _run(options: argparse.Namespace, workload: Workload) -> int:
    results = Chaos(workload.installation, workload, _plan(options)).run()
    if options.out:
        keep(results, options.out)
    sys.stdout.write(results.table() + "\n")
    for promise, told in results.broken.items():
        sys.stdout.write(f"\n{promise}:\n" + "".join(f"  {line}\n" for line in told[:SHOWN]))
    return 1 if results.broken else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute, to see that everything runs")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn")
    parser.add_argument("--kills", type=int, help="SIGKILLs, those at failpoints among them")
    parser.add_argument("--stops", type=int, help="SIGSTOPs, each continued after half a lease to two and a half")
    parser.add_argument("--failpoint-rounds", type=int, help="how often a process is armed at each failpoint")
    parser.add_argument("--strikes", type=int, help="faults of the network and the servers")
    parser.add_argument("--supervisors", type=int, help="so many SIGKILLs, at least, of workers whose ranks run")
    parser.add_argument("--between-s", type=float, help="seconds between signals, on average")
    parser.add_argument(
        "--base-model", type=Path, help="train on this folder, with the real engine and the usual times"
    )
    parser.add_argument("--steps", type=int, default=60, help="of a job on that base model")
    parser.add_argument("--checkpoint-every", type=int, default=10, help="of those steps")
    parser.add_argument("--lease-s", type=float, help="longer than 2 s on a machine that others keep busy")
    parser.add_argument("--usual-times", action="store_true", help="a lease of 60 s, and a sweep every 15 s")
    parser.add_argument("--minutes", type=float, default=60.0, help="inject no longer than this")
    parser.add_argument("--jobs", type=int, default=Plan.unfinished, help="how many jobs wait or run at a time")
    parser.add_argument("--no-erasing", action="store_true", help="erase no files: as many jobs as --jobs says")
    parser.add_argument("--flushes", type=int, help="nothing but FLUSHALL, so often, with --jobs queued")
    parser.add_argument("--workers", type=int, default=Shape.workers, help="train workers")
    parser.add_argument("--departments", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep the results here, as JSON")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    given = {
        "kills": options.kills, "stops": options.stops, "rounds": options.failpoint_rounds, "strikes": options.strikes,
        "supervisors": options.supervisors, "between_signals_s": options.between_s,
    }  # fmt: skip
    chosen = {name: value for name, value in given.items() if value is not None}
    plan = replace(QUICK if options.quick else FULL, seed=options.seed, unfinished=options.jobs, **chosen)
    return replace(plan, limit_s=options.minutes * 60, erasing=not options.no_erasing)


if __name__ == "__main__":
    sys.exit(main())
