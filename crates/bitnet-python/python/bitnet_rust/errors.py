"""What can go wrong. The messages are those of the library."""

from __future__ import annotations


class BitnetError(Exception):
    """The base of all exceptions of this package."""


class ModelError(BitnetError):
    """A model cannot be loaded: there is no such file, or it is damaged, unsupported or too
    large for the memory."""

    hint: str | None
    """What may help, in terms of the command line, such as ``bitnet pull OWNER/NAME``."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ModelOptionError(ModelError, ValueError):
    """An option of `Model.load` is wrong."""


class RequestError(BitnetError, ValueError):
    """A request is wrong. Nothing was computed."""

    param: str | None
    """The field that is wrong."""
    code: str | None
    """What programs tell errors apart by, as in OpenAI's API."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ContextLengthError(RequestError):
    """A prompt or a sequence is longer than the context."""


class QueueFullError(RequestError):
    """Too many texts are waiting: try again later, or ask for fewer at once."""


class CacheFullError(BitnetError):
    """There is no room for another sequence, or for a longer one, beside those that are held."""


class ComputeError(BitnetError, RuntimeError):
    """A text cannot be computed."""

    param: str | None
    code: str | None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class ClosedError(BitnetError, ValueError):
    """The model, sequence or stream was closed."""
