"""What a base model's weight files say of themselves, without loading them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.failures import BadBaseModel


def parameters_of(folder: Path) -> int:
    """How many numbers the weights are. Raises BadBaseModel."""
    try:
        return sum(_parameters_in(path) for path in sorted(folder.glob("*.safetensors")))
    except (OSError, SafetensorError) as error:
        raise BadBaseModel("The base model's files are missing or cannot be read.") from error


def _parameters_in(path: Path) -> int:
    parameters = 0
    with safe_open(path, framework="numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is no mapping
            size = 1
            for length in weights.get_slice(name).get_shape():
                size *= length
            parameters += size
    return parameters
