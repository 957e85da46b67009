"""Ternary (1.58-bit) language models: BitNet b1.58 and its family.

>>> from bitnet_rust import Model
>>> model = Model.load()  # the built-in storyteller
>>> print(model.generate("Once upon a time there was a", max_tokens=4, temperature=0))
 great noise of shouting

The same model, prompt and seed give the same text on every machine, alone or among others.
A `Model` may be used by any number of threads at once. Arrays need numpy.
"""

from __future__ import annotations

from ._native import __version__
from .errors import (
    BitnetError,
    CacheFullError,
    ClosedError,
    ComputeError,
    ContextLengthError,
    ModelError,
    ModelOptionError,
    QueueFullError,
    RequestError,
)
from .model import AsyncTextStream, Model, Sequence, Text, TextStream, pull

__all__ = [
    "AsyncTextStream",
    "BitnetError",
    "CacheFullError",
    "ClosedError",
    "ComputeError",
    "ContextLengthError",
    "Model",
    "ModelError",
    "ModelOptionError",
    "QueueFullError",
    "RequestError",
    "Sequence",
    "Text",
    "TextStream",
    "__version__",
    "pull",
]
