"""The fast path: Llama-shaped decoders with many LoRA runs in one packed stream. Imports no transformers."""

from engine.decoder.path import DecoderPath, RowExceedsWindow
from engine.decoder.shape import DecoderShape, decoder_shape

__all__ = ["DecoderPath", "DecoderShape", "RowExceedsWindow", "decoder_shape"]
