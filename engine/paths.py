"""Which implementation computes for which run. This is the one place that says so.

    fast      decoders of the Llama shape (`engine/decoder/shape.py` knows them), LoRA without DoRA or trained biases
    general   every other causal LM of transformers, every other method, and every quantised base

Both keep the packed stream's promise: a run's numbers do not depend on who shares its pass.
"""

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from domain.plans import Compute, PathChoice, Quantisation
from domain.runs import FullMethod, LoraBias, LoraMethod, Method
from engine.decoder.path import DecoderPath
from engine.decoder.shape import DecoderShape, decoder_shape
from engine.failures import BadBaseModel
from engine.path import Path as ComputePath

if TYPE_CHECKING:
    from engine.general.path import GeneralPath


@dataclass
class Paths:
    """The base model under each implementation that has been asked for."""

    folder: Path
    compute: Compute
    device: torch.device
    _loaded: dict[PathChoice, ComputePath] = field(default_factory=dict)

    def choose(self, method: Method, longest_row_tokens: int) -> PathChoice:
        """The implementation for a run. Raises BadBaseModel where the plan insists on one that cannot."""
        shape = decoder_shape(self.folder)
        fast = shape is not None and self._fast_can(shape, method, longest_row_tokens)
        if self.compute.path is PathChoice.FAST and not fast:
            raise BadBaseModel("The fast path cannot train this base model with this method.")
        return PathChoice.FAST if fast and self.compute.path is not PathChoice.GENERAL else PathChoice.GENERAL

    def _fast_can(self, shape: DecoderShape, method: Method, longest_row_tokens: int) -> bool:
        sees_all = shape.sliding_window is None or longest_row_tokens <= shape.sliding_window
        return sees_all and self.compute.quantisation is Quantisation.NONE and DecoderPath.handles(method)

    def load(self, choice: PathChoice) -> ComputePath:
        """The base model under one implementation, loaded when first wanted. Raises BadBaseModel."""
        if choice not in self._loaded:
            self._loaded[choice] = self._load_fast() if choice is PathChoice.FAST else self._load_general()
        return self._loaded[choice]

    def _load_fast(self) -> ComputePath:
        shape = decoder_shape(self.folder)
        if shape is None:
            raise BadBaseModel("The fast path does not know this base model.")
        compute = self.compute
        return DecoderPath.load(
            self.folder,
            shape,
            compute.precision,
            self.device,
            activation_checkpointing=compute.activation_checkpointing,
        )

    def _load_general(self) -> ComputePath:
        compute = self.compute
        return general_path().load(
            self.folder,
            compute.precision,
            self.device,
            quantisation=compute.quantisation,
            activation_checkpointing=compute.activation_checkpointing,
        )


def general_path() -> "type[GeneralPath]":
    """The general path's class. By name: transformers takes seconds to import, which a run on the fast path saves."""
    path: type[GeneralPath] = importlib.import_module("engine.general.path").GeneralPath
    return path


def group_of(choice: PathChoice, method: Method, run: str) -> str:
    """Runs of one group can share a pass. A run that changes weights every token meets has one of its own."""
    changes_base = isinstance(method, FullMethod) or (
        isinstance(method, LoraMethod) and method.bias is not LoraBias.NONE
    )
    return run if changes_base else choice.value
