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
from domain.runs import Method
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
    _fast: DecoderPath | None = field(default=None, init=False)
    _general: "GeneralPath | None" = field(default=None, init=False)

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

    def group(self, choice: PathChoice, method: Method, run: str) -> str:
        """Runs of one group can share a pass; a run that cannot has one of its own. Raises BadBaseModel.

        On the general path the model itself must say so: a run that trains its biases changes what every token meets,
        and a layer of experts cannot tell whose tokens it sees.
        """
        alone = choice is PathChoice.GENERAL and not self._load_general().fusable(method)
        return run if alone else choice.value

    def load(self, choice: PathChoice) -> ComputePath:
        """The base model under one implementation, loaded when first wanted. Raises BadBaseModel."""
        return self._load_fast() if choice is PathChoice.FAST else self._load_general()

    def _load_fast(self) -> DecoderPath:
        if self._fast is None:
            shape = decoder_shape(self.folder)
            if shape is None:
                raise BadBaseModel("The fast path does not know this base model.")
            self._fast = DecoderPath.load(
                self.folder,
                shape,
                self.compute.precision,
                self.device,
                activation_checkpointing=self.compute.activation_checkpointing,
            )
        return self._fast

    def _load_general(self) -> "GeneralPath":
        if self._general is None:
            # By name: transformers takes seconds to import, which runs on the fast path save.
            general_path: type[GeneralPath] = importlib.import_module("engine.general.path").GeneralPath
            self._general = general_path.load(
                self.folder,
                self.compute.precision,
                self.device,
                quantisation=self.compute.quantisation,
                activation_checkpointing=self.compute.activation_checkpointing,
            )
        return self._general
