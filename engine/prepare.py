"""How a run begins: its rows, the rank it goes to, its adapter, and where it had stopped."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from domain.plans import Compute, RunPlan
from domain.runs import LoraInit, LoraMethod
from engine import inits
from engine.adapter import Adapter
from engine.base_files import parameters_of
from engine.batches import rows_of_step, share_of, tokens_of
from engine.chat import ChatTokenizer
from engine.checkpoints import Checkpoint
from engine.distributed import Ranks
from engine.memory import check_fits, free_bytes
from engine.parent_adapter import take_over
from engine.path import Path as ComputePath
from engine.paths import Paths
from engine.rows import Rows, load_chat, load_run_rows
from engine.run import Run
from engine.schedule import Member, owner_for


class Preparation:
    """The inputs of a plan, and what its runs have in common."""

    def __init__(self, inputs: Path, compute: Compute, ranks: Ranks, paths: Paths | None = None) -> None:
        """`paths`: the plan's base model where this process has loaded it already."""
        self._inputs, self._compute, self._ranks = inputs, compute, ranks
        self.base_model = inputs / "base_model"
        self._paths = paths or Paths(self.base_model, compute, ranks.device)
        self._rows: dict[str, Rows] = {}
        self._checkpoints: dict[str, Checkpoint] = {}

    @cached_property
    def _chat(self) -> ChatTokenizer:
        return load_chat(self.base_model)

    @cached_property
    def _base_parameters(self) -> int:
        return parameters_of(self.base_model)

    def read(self, plan: RunPlan, others: Sequence[Member], *, runs: int) -> Member:
        """What every rank has to know of a run. Raises RunFailed, on every rank alike."""
        folder, spec = self._inputs / plan.run, plan.spec
        rows = self._rows[plan.run] = load_run_rows(folder, spec.data, self._chat)
        choice = self._paths.choose(spec.method, rows.longest_tokens)
        member = Member(plan, rows.train, self._paths.group(choice, spec.method, plan.run), owner=None)
        if plan.resume_step:
            checkpoint = self._checkpoints[plan.run] = Checkpoint.read(folder / "checkpoint", plan, self._compute)
            member.step, member.turn = checkpoint.manifest.step, checkpoint.manifest.turn
        member.owner = owner_for(
            member,
            others,
            runs=runs,
            world_size=self._ranks.world_size,
            token_budget=self._compute.token_budget,
        )
        return member

    def prepare(self, member: Member) -> Run:
        """Everything a rank that trains the run needs. Raises RunFailed."""
        spec, rows = member.plan.spec, self._rows[member.run]
        choice = self._paths.choose(spec.method, rows.longest_tokens)
        path = self._paths.load(choice)
        adapter = self._start(member, path, rows)
        estimated = check_fits(
            path,
            adapter,
            self._compute,
            batch_tokens=self._largest_batch_tokens(member),
            longest_row_tokens=rows.longest_tokens,
            free=free_bytes(path.device),
        )
        run = Run(
            member=member,
            compute=self._compute,
            ranks=self._ranks,
            path=path,
            path_choice=choice,
            adapter=adapter,
            rows=rows,
            base_parameters=self._base_parameters,
            estimated_bytes=estimated,
        )
        if checkpoint := self._checkpoints.get(member.run):
            run.restore(checkpoint)
        return run

    def _largest_batch_tokens(self, member: Member) -> int:
        """Of what one rank takes of a batch, were it made of the longest rows."""
        longest = sorted(member.train, key=lambda row: -len(row.ids))[: member.plan.spec.batch_size]
        if member.owner is not None:
            return tokens_of(longest)
        return max(tokens_of(share_of(longest, rank, self._ranks.world_size)) for rank in range(self._ranks.world_size))

    def _start(self, member: Member, path: ComputePath, rows: Rows) -> Adapter:
        """The weights before the first step: the same on every rank, a function of the run's seed."""
        spec, checkpoint = member.plan.spec, self._checkpoints.get(member.run)
        method = spec.method
        if (checkpoint or spec.parent) and isinstance(method, LoraMethod):
            # Whatever the start was, the checkpoint or the parent has it; only names and shapes are wanted.
            method = method.model_copy(update={"init": LoraInit.KAIMING})
        # A start from the rows sees them in the order of the first epoch.
        order = rows_of_step(0, len(rows.train), batch_size=len(rows.train), seed=spec.seed)
        adapter = inits.initial(
            method,
            path,
            seed=spec.seed,
            base_model=self.base_model,
            rows=[rows.train[place] for place in order],
            precision=self._compute.precision,
        )
        if checkpoint:
            return adapter.begun_from(spec.method, checkpoint.starts())
        if spec.parent:
            take_over(adapter, self._inputs / member.run / "parent", spec.parent)
        return adapter
