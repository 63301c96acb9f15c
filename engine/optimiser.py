"""AdamW over the adapter's fp32 masters, and the learning rate as a function of the step."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from domain.runs import Optimiser, Schedule

# The share of the peak rate by progress in [0, 1) after the warm-up.
SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    Schedule.CONSTANT: lambda _progress: 1.0,
    Schedule.LINEAR: lambda progress: 1.0 - progress,
    Schedule.COSINE: lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


def build_optimiser(parameters: Iterable[nn.Parameter], settings: Optimiser) -> torch.optim.AdamW:
    """AdamW in its fused form: one pass over each weight."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def learning_rate_at(step: int, total_steps: int, settings: Optimiser) -> float:
    """The rate of the step with this number, from 0; it would be zero at `total_steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(total_steps - settings.warmup_steps, 1)
    return settings.learning_rate * SCHEDULES[settings.schedule](progress)


def clip_gradients(parameters: Iterable[nn.Parameter], clip_norm: float) -> float:
    """Scale the gradients down to a global norm of at most `clip_norm` (0 does not clip); their norm before that."""
    return float(nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf))


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimiser's state as `<parameter>.<key>`, on the CPU."""
    return {
        f"{name}.{key}": tensor.detach().to("cpu", copy=True)
        for name, parameter in parameters.items()
        for key, tensor in optimiser.state[parameter].items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Set the state that `optimiser_tensors` gave. Raises ValueError where a tensor belongs to no parameter."""
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        if name not in parameters:
            raise ValueError("the optimiser's state is not this adapter's")
        parameter = parameters[name]
        optimiser.state[parameter][key] = tensor.to(parameter.device)
