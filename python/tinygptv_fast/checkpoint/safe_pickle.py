"""Unpickles data and nothing but data: no class or function named by a pickle is ever imported or called.

``scan`` walks the opcodes first (bounds on memo indices, nesting and size); ``InertUnpickler`` then builds plain
containers. A global is answered with one of our own stand-ins for torch's tensor constructors, with a container type,
with a refusal (``os.system`` and its kind), or with an inert placeholder that records its arguments. Trainer
checkpoints hold configuration objects of packages that need not be installed: those become placeholders.
"""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

from ..errors import CheckpointError

MAX_PICKLE_BYTES = 64 * 1024 * 1024  # data.pkl of a full-size checkpoint is far below 1 MB
MAX_TUPLES = 32_768  # a hashed tuple nested deeper than the C stack allows would kill the process
_TUPLE_OPS = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_REFUSED_OPS = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}

# Modules no checkpoint has business with: naming them is an attack or a corrupt file, so it is an error, not a
# placeholder. Safety does not rest on this list (nothing is imported either way); clear messages do.
_REFUSED_MODULES = frozenset(
    "os posix nt ntpath posixpath sys subprocess shutil socket ctypes importlib imp runpy pty code codeop marshal "
    "pickle _pickle cPickle cloudpickle dill joblib webbrowser timeit signal multiprocessing threading _thread asyncio "
    "zipimport pkgutil platform commands popen2 urllib http ftplib smtplib telnetlib requests pip ensurepip bdb pdb "
    "pydoc doctest gc inspect faulthandler tempfile glob".split()
)
_REFUSED_PREFIXES = ("torch.hub", "torch.jit", "torch.utils.cpp_extension", "torch.serialization.load", "torch.load")
_PLAIN_BUILTINS: dict[str, Any] = {t.__name__: t for t in (dict, list, tuple, set, frozenset)}
_INERT_BUILTINS = frozenset(
    {"int", "float", "bool", "str", "bytes", "complex", "slice", "range", "object", "bytearray"}
)


class Placeholder:
    """Stands for an object of an unknown class. Keeps what the pickle said about it; does nothing."""

    __slots__ = ("arguments", "items", "origin", "state")

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.arguments: tuple[Any, ...] = ()
        self.state: Any = None
        self.items: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        self.items.append(value)

    def extend(self, values: Any) -> None:
        self.items.extend(values)

    add = append

    def __repr__(self) -> str:
        return f"<placeholder for {self.origin}>"


class Stand:
    """What a global resolves to: callable by the pickle, closed to everything else a pickle can do."""

    __slots__ = ("_call", "origin")
    origin: str
    _call: Callable[..., Any]

    def __init__(self, origin: str, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"the file tries to change {self.origin}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"the file tries to change {self.origin}")


def _placeholder_class(origin: str) -> type:
    """A fresh class, because NEWOBJ and INST insist on one. Fresh each time: a file can deface only its own."""

    def construct(cls: type, *args: Any, **kwargs: Any) -> Placeholder:
        made = Placeholder(origin)
        made.arguments = args
        return made

    return type("PlaceholderFor", (), {"__new__": construct, "origin": origin})


class InertUnpickler(pickle.Unpickler):
    """``known`` maps ``"module.name"`` to the stand-ins of the caller (torch's tensor constructors)."""

    def __init__(self, data: bytes, known: dict[str, Any], persistent: Callable[[Any], Any]) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._known = known
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        if module in ("builtins", "__builtin__"):
            if name in _PLAIN_BUILTINS:
                return _PLAIN_BUILTINS[name]
            if name not in _INERT_BUILTINS:
                raise pickle.UnpicklingError(f"the file names {full}, which can run code; refused, nothing was run")
        elif module.split(".")[0] in _REFUSED_MODULES or full.startswith(_REFUSED_PREFIXES):
            raise pickle.UnpicklingError(f"the file names {full}, which can run code; refused, nothing was run")
        if full in ("collections.OrderedDict", "collections.defaultdict", "collections.Counter"):
            return Stand(full, _ordered_dict)
        if full == "_codecs.encode":
            return Stand(full, _encode)
        return _placeholder_class(full)

    def persistent_load(self, pid: Any) -> Any:
        return self._persistent(pid)


def _ordered_dict(*args: Any) -> Any:
    pairs = args[0] if len(args) == 1 and isinstance(args[0], (dict, list)) else ()
    return collections.OrderedDict(pairs)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 spells bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("_codecs.encode is only understood for latin1 text")
    return text.encode("latin1")


def scan(path: object, data: bytes, start: int = 0) -> int:
    """Check the opcodes of the pickle at ``data[start:]`` and return the position behind its STOP."""
    stream = io.BytesIO(data)
    stream.seek(start)
    tuples = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _REFUSED_OPS:
                raise CheckpointError(f"{path}: pickle opcode {opcode.name} has no place in a checkpoint")
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(data):
                raise CheckpointError(f"{path}: pickle memo index {argument} is larger than the pickle")
            tuples += opcode.name in _TUPLE_OPS
            if tuples > MAX_TUPLES:
                raise CheckpointError(f"{path}: the pickle builds more than {MAX_TUPLES} tuples")
    except CheckpointError:
        raise
    except Exception as error:  # genops raises ValueError, KeyError, UnicodeError, OverflowError... on bad bytes
        raise CheckpointError(f"{path}: the pickle is malformed or truncated: {error}") from error
    return stream.tell()


def load(path: object, data: bytes, known: dict[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """Unpickle scanned ``data``; every failure is a ``CheckpointError`` naming ``path``."""
    try:
        return InertUnpickler(data, known, persistent).load()
    except CheckpointError:
        raise
    except (MemoryError, RecursionError, Exception) as error:
        raise CheckpointError(f"{path}: {error}") from error
