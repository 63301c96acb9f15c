"""Load a base model with transformers: from disk, frozen, cast once, quantised if asked."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from domain.plans import Precision, Quantisation
from engine.failures import BadBaseModel, RunFailed

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def load_network(folder: Path, dtype: torch.dtype, device: torch.device, *, quantisation: Quantisation) -> Any:
    """An ordinary model folder as a network in evaluation mode, every weight frozen.

    Only safetensors are read, and no code of the model's own. Raises BadBaseModel, and RunFailed where another
    worker could do what this one cannot.
    """
    if quantisation is not Quantisation.NONE and find_spec("bitsandbytes") is None:
        raise RunFailed("The worker has no bitsandbytes, which the run's quantised base model needs.")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=_quantisation_config(quantisation, dtype),
            device_map={"": device} if quantisation is not Quantisation.NONE else None,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadBaseModel("The base model's files are missing or cannot be read.") from error
    network, found = loaded
    # transformers would go on with random weights in their place.
    if found["missing_keys"] or found["mismatched_keys"]:
        raise BadBaseModel("The base model's weights are not those its configuration asks for.")
    network.requires_grad_(requires_grad=False)
    return network.to(device).eval() if quantisation is Quantisation.NONE else network.eval()


def _quantisation_config(quantisation: Quantisation, dtype: torch.dtype) -> Any:
    configuration: Any = BitsAndBytesConfig
    match quantisation:
        case Quantisation.NONE:
            return None
        case Quantisation.INT8:
            return configuration(load_in_8bit=True)
        case Quantisation.NF4:
            return configuration(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
