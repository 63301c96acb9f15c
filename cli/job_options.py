"""The options that describe a job, written once for every command that takes them."""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli import files
from cli.connection import JsonObject
from cli.session import Session
from domain.runs import LoraBias, LoraInit, Schedule, TooLong

PATTERN = "Another rank for the layers whose names end so: layers.0.self_attn.q_proj=16."
Rows = "A file here, which is uploaded first, or the id of an uploaded one."


@dataclass(frozen=True)
class Described:
    """A job as the command line describes it: the client's fields, and Tsugiki's own."""

    request: JsonObject
    extra: JsonObject

    @property
    def body(self) -> JsonObject:
        """Both together, as the service takes them."""
        return given(self.request | self.extra)


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """`command(context, described, …)` as a command that takes the options of `_described` before its own."""
    context, _described_job, *own = inspect.signature(command, eval_str=True).parameters.values()
    _session, *shared = inspect.signature(_described, eval_str=True).parameters.values()

    @functools.wraps(command)
    def run(context: typer.Context, **options: Any) -> None:
        chosen = {parameter.name: options.pop(parameter.name) for parameter in own}
        command(context, _described(Session.of(context), **options), **chosen)

    # What typer reads a command's options from.
    parameters = [context, *shared, *own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _described(
    session: Session,
    *,
    model: Annotated[str, typer.Option(help="A registered base model's name.")],
    train: Annotated[str, typer.Option(help=Rows)],
    validation: Annotated[str | None, typer.Option(help=f"{Rows} Its loss is measured on the way.")] = None,
    evaluation: Annotated[str | None, typer.Option(help=f"{Rows} Base and adapter are compared on it.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Names the adapter.")] = None,
    rank: Annotated[int | None, typer.Option(help="LoRA rank; 8 when left out.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Scale; twice the rank when left out.")] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share of the adapter's inputs left out; 0 when left out.")
    ] = None,
    target_module: Annotated[list[str] | None, typer.Option(help="May be repeated; all linear when left out.")] = None,
    rslora: Annotated[bool | None, typer.Option(help="Scale by alpha / sqrt(rank).", show_default=False)] = None,
    dora: Annotated[
        bool | None,
        typer.Option(help="Train the length of each weight's rows apart from its direction.", show_default=False),
    ] = None,
    init: Annotated[LoraInit | None, typer.Option(help="How the factors begin; kaiming when left out.")] = None,
    bias: Annotated[LoraBias | None, typer.Option(help="Biases of the base that are trained too.")] = None,
    rank_pattern: Annotated[
        list[str] | None, typer.Option(metavar="LAYERS=RANK", help=f"{PATTERN} May be repeated.")
    ] = None,
    alpha_pattern: Annotated[
        list[str] | None, typer.Option(metavar="LAYERS=ALPHA", help="The same for alpha. May be repeated.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the rows; 3 when left out.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps, in place of --epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step; 8 when left out.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak; chosen by the model's width when left out.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of AdamW.")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Gradients are clipped to this norm; 0 does not clip.")
    ] = None,
    schedule: Annotated[Schedule | None, typer.Option(help="How the learning rate falls after the warm-up.")] = None,
    warmup_ratio: Annotated[float | None, typer.Option(help="Share of the steps in which it rises.")] = None,
    max_seq_len: Annotated[int | None, typer.Option(help="Tokens of the longest row.")] = None,
    too_long: Annotated[TooLong | None, typer.Option(help="What happens to longer rows.")] = None,
    checkpoint_every_steps: Annotated[int | None, typer.Option(help="Steps between points to go on from.")] = None,
    validate_every_steps: Annotated[
        int | None, typer.Option(help="Steps between validations; 0 validates after the last alone.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="-100 to 100; the department's most urgent job is taken first. 0 when left out.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of rows and the adapter's first weights.")] = None,
) -> Described:
    """What the options say, with local files uploaded. Raises BadParameter, and what uploading raises."""
    shelf = files.Shelf(session.connection, session.output)
    lora = {
        "rank": rank, "alpha": alpha, "dropout": dropout, "target_modules": target_module, "use_rslora": rslora,
        "use_dora": dora, "init": init, "bias": bias,
        "rank_pattern": _pattern(rank_pattern, int, option="--rank-pattern"),
        "alpha_pattern": _pattern(alpha_pattern, float, option="--alpha-pattern"),
        "learning_rate": learning_rate, "schedule": schedule, "warmup_ratio": warmup_ratio, "max_steps": max_steps,
        "max_seq_len": max_seq_len, "too_long": too_long, "weight_decay": weight_decay, "clip_norm": clip_norm,
        "checkpoint_every_steps": checkpoint_every_steps, "validate_every_steps": validate_every_steps,
    }  # fmt: skip
    request = {
        "model": model,
        "training_file": shelf.id_of(train, option="--train"),
        "validation_file": validation and shelf.id_of(validation, option="--validation"),
        "suffix": suffix,
        "seed": seed,
        "hyperparameters": given({"n_epochs": epochs, "batch_size": batch_size}) or None,
    }
    extra = {
        "evaluation_file": evaluation and shelf.id_of(evaluation, option="--evaluation"),
        "lora": given(lora) or None,
        "priority": priority,
    }
    return Described(request, extra)


def _pattern(given: Sequence[str] | None, number: Callable[[str], float], *, option: str) -> dict[str, float] | None:
    pattern: dict[str, float] = {}
    for each in given or ():
        layers, _, value = each.rpartition("=")
        try:
            pattern[layers] = number(value)
        except ValueError:
            raise typer.BadParameter("Give layers=number.", param_hint=option) from None
    return pattern or None


def given(fields: JsonObject) -> JsonObject:
    """Those fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
