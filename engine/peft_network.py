"""A finished adapter on transformers' network, put there by peft from the exported folder."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from engine.base_model import BaseModel
from engine.failures import BadData


@contextmanager
def stored_adapter_on(base: BaseModel, folder: Path) -> Iterator[nn.Module]:
    """The adapter of a folder on the base, to measure it; afterwards the base is bare again.

    Raises BadData where the adapter cannot be read or does not fit.
    """
    biases = {name: bias.clone() for name, bias in base.network.named_parameters() if name.endswith("bias")}
    network = _inject(base, folder)
    try:
        _load_weights(network, folder)
        network.eval()
        # Under autocast the products choose the format; PEFT would first copy every input to fp32.
        with disable_input_dtype_casting(network):
            yield network
    finally:
        bare = network.unload()
        # Trained biases were loaded over the base's own.
        with torch.no_grad():
            for name, bias in bare.named_parameters():
                if name in biases:
                    bias.copy_(biases[name])


def _inject(base: BaseModel, folder: Path) -> PeftModel:
    if not (folder / "adapter_config.json").is_file():
        # peft would look for it on a hub.
        raise BadData("The adapter has no configuration.")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        with warnings.catch_warnings():
            # PEFT asks transformers for a property that transformers has renamed.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            network: PeftModel = get_peft_model(base.network, config, autocast_adapter_dtype=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData("The adapter's configuration cannot be read, or is not for this base model.") from error
    return network


def _load_weights(network: PeftModel, folder: Path) -> None:
    try:
        weights = load_file(folder / "adapter_model.safetensors")
        complete = weights.keys() == get_peft_model_state_dict(network).keys()
        set_peft_model_state_dict(network, weights)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadData("The adapter's weights do not fit its configuration or the base model.") from error
    if not complete:
        # PEFT would leave what is missing as it began.
        raise BadData("The adapter's tensors are not those its configuration asks for.")
