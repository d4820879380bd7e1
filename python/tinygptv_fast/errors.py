"""Every error this package raises on purpose.

One hierarchy, so that ``except TinyGPTVError`` catches all of it. Errors about what a caller passed in are also
``ValueError``. Messages name the thing, say what it is and what was expected.
"""

from __future__ import annotations


class TinyGPTVError(Exception):
    """Base of all errors raised by tinygptv_fast."""


class InvalidArgumentError(TinyGPTVError, ValueError):
    """An argument has the wrong type, shape, range or combination."""


class ConfigError(InvalidArgumentError):
    """A configuration (json file or dataclass) is malformed, unknown or contradicts itself."""


class ImageError(InvalidArgumentError):
    """A picture cannot be decoded, is too large, or has an unsupported layout."""


class PromptError(InvalidArgumentError):
    """A prompt, template or image placeholder is not usable as given."""


class CheckpointError(TinyGPTVError, ValueError):
    """A weight file or directory is incomplete, malformed, hostile or of another family."""


class UnsupportedError(TinyGPTVError, NotImplementedError):
    """The request is valid, but this build, backend or machine cannot do it; the message says which can."""


class CapacityError(TinyGPTVError, RuntimeError):
    """The request is valid, but something of bounded size is full; the message says whether waiting helps."""


class ClosedError(TinyGPTVError, RuntimeError):
    """The model was closed and is used again."""


class CancelledError(TinyGPTVError, RuntimeError):
    """The work was cancelled before it was done."""


class TrainingError(TinyGPTVError, RuntimeError):
    """Training cannot go on: a NaN, an exploding gradient. The message names the first bad tensor."""


class FetchError(TinyGPTVError, RuntimeError):
    """A server could not be reached, refused, or sent something other than what was asked for."""


class DataError(InvalidArgumentError):
    """A data set lacks a file, is malformed, or has more bad records than its limit allows."""
