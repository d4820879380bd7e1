"""Unpickles data and nothing but data: no class or function named by a pickle is ever imported or called.

Python's own unpickler is not involved. ``pickletools.genops`` splits the bytes into opcodes, ``_Machine`` carries out
those that build containers. A global is answered with a stand-in of ours (torch's tensor constructors), a container
type, a refusal (``os.system`` and its kind), or an inert placeholder that records its arguments: trainer checkpoints
hold configuration objects of packages that need not be installed.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

from ..errors import CheckpointError

MAX_PICKLE_BYTES = 16 * 1024 * 1024  # data.pkl of a full-size checkpoint is far below 1 MB
_MAX_OPCODES = 4_000_000  # each may cost an object
_MAX_COPIED = 1 << 22  # elements copied by container constructors, which a memo could repeat without end

# Modules no checkpoint has business with: naming them is an attack or a corrupt file, so it is an error, not a
# placeholder. Safety does not rest on this list (nothing is imported either way); clear messages do.
_REFUSED_MODULES = frozenset(
    "os posix nt ntpath posixpath sys subprocess shutil socket ctypes importlib imp runpy pty code codeop marshal "
    "pickle _pickle cPickle cloudpickle dill joblib webbrowser timeit signal multiprocessing threading _thread asyncio "
    "zipimport pkgutil platform commands popen2 urllib http ftplib smtplib telnetlib requests pip ensurepip bdb pdb "
    "pydoc doctest gc inspect faulthandler tempfile glob".split()
)
_REFUSED_PREFIXES = ("torch.hub", "torch.jit", "torch.utils.cpp_extension", "torch.serialization.load", "torch.load")
_CONTAINERS: dict[str, type] = {t.__name__: t for t in (dict, list, tuple, set, frozenset)}
_INERT_BUILTINS = frozenset(
    {"int", "float", "bool", "str", "bytes", "complex", "slice", "range", "object", "bytearray"}
)
_MAPPINGS = frozenset({"collections.OrderedDict", "collections.defaultdict", "collections.Counter"})
_MARK = object()


class Placeholder:
    """Stands for an object of an unknown class. Keeps what the pickle said about it; does nothing."""

    __slots__ = ("arguments", "items", "origin", "state")

    def __init__(self, origin: str, arguments: tuple[Any, ...]) -> None:
        self.origin = origin
        self.arguments = arguments
        self.state: Any = None
        self.items: list[Any] = []

    def __repr__(self) -> str:
        return f"<placeholder for {self.origin}>"


class Stand:
    """What a global resolves to. ``call`` runs our code only; None means that nothing calls it in an honest file."""

    __slots__ = ("call", "origin")

    def __init__(self, origin: str, call: Callable[..., Any] | None = None) -> None:
        self.origin = origin
        self.call = call

    def __repr__(self) -> str:
        return f"<{self.origin}>"


def load(
    path: object,
    data: bytes,
    known: dict[str, Stand],
    persistent: Callable[[Any], Any],
    start: int = 0,
    *,
    plain: bool = False,
    max_opcodes: int = _MAX_OPCODES,
) -> tuple[Any, int]:
    """The object pickled at ``data[start:]`` and the position behind it.

    ``known`` maps ``"module.name"`` to the caller's stand-ins, ``persistent`` answers persistent ids. ``plain``: the
    file is to hold containers, text and numbers, and a class it names besides is an error, not a placeholder. Every
    failure is a ``CheckpointError`` that names ``path``.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = _Machine(known, persistent, plain, max_opcodes)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.result(), stream.tell()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except (MemoryError, RecursionError, Exception) as error:  # genops and honest mistakes raise all kinds
        raise CheckpointError(f"{path}: the pickle is malformed or truncated: {str(error)[:200]}") from error


class _Machine:
    """The pickle virtual machine, restricted to data."""

    def __init__(
        self, known: dict[str, Stand], persistent: Callable[[Any], Any], plain: bool, max_opcodes: int
    ) -> None:
        self._known = known
        self._persistent = persistent
        self._plain = plain
        self._max_opcodes = max_opcodes
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._copied = 0
        self._done = False
        self._steps = 0

    def result(self) -> Any:
        if not self._done or len(self._stack) != 1:
            raise CheckpointError("the pickle does not end with one object")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        self._steps += 1
        if self._steps > self._max_opcodes:
            raise CheckpointError(f"the pickle has more than {self._max_opcodes} instructions")
        if name in _PUSHES:
            self._stack.append(_PUSHES[name](argument))
        elif name in _LITERALS:
            self._stack.append(argument)
        else:
            action = getattr(self, "_do_" + name.lower(), None)
            if action is None:
                raise CheckpointError(f"pickle opcode {name} has no place in a file of data")
            action(argument)

    # --- the stack and the memo

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise CheckpointError("the pickle's stack is out of order")
        return value

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise CheckpointError("the pickle's stack is out of order")
        return self._stack[-1]

    def _to_mark(self) -> list[Any]:
        for index in range(len(self._stack) - 1, -1, -1):
            if self._stack[index] is _MARK:
                values = self._stack[index + 1 :]
                del self._stack[index:]
                return values
        raise CheckpointError("the pickle's stack is out of order")

    def _do_proto(self, argument: Any) -> None:
        if argument > 5:
            raise CheckpointError(f"pickle protocol {argument} is unknown")

    def _do_frame(self, argument: Any) -> None:
        pass  # a hint for buffering; every opcode checks its own length

    def _do_mark(self, argument: Any) -> None:
        self._stack.append(_MARK)

    def _do_stop(self, argument: Any) -> None:
        self._done = True

    def _do_pop(self, argument: Any) -> None:
        self._stack.pop()

    def _do_pop_mark(self, argument: Any) -> None:
        self._to_mark()

    def _do_dup(self, argument: Any) -> None:
        self._stack.append(self._top())

    def _do_put(self, argument: Any) -> None:
        self._memo[argument] = self._top()

    _do_binput = _do_long_binput = _do_put

    def _do_memoize(self, argument: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _do_get(self, argument: Any) -> None:
        self._stack.append(self._memo[argument])

    _do_binget = _do_long_binget = _do_get

    # --- containers

    def _do_tuple(self, argument: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _do_tuple1(self, argument: Any) -> None:
        self._stack.append((self._pop(),))

    def _do_tuple2(self, argument: Any) -> None:
        second = self._pop()
        self._stack.append((self._pop(), second))

    def _do_tuple3(self, argument: Any) -> None:
        third, second = self._pop(), self._pop()
        self._stack.append((self._pop(), second, third))

    def _do_list(self, argument: Any) -> None:
        self._stack.append(self._to_mark())

    def _do_dict(self, argument: Any) -> None:
        self._stack.append(_pairs(self._to_mark()))

    def _do_frozenset(self, argument: Any) -> None:
        self._stack.append(frozenset(map(_key, self._to_mark())))

    def _do_append(self, argument: Any) -> None:
        value = self._pop()
        self._extend([value])

    def _do_appends(self, argument: Any) -> None:
        self._extend(self._to_mark())

    def _do_additems(self, argument: Any) -> None:
        self._extend(self._to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Placeholder):
            target.items.extend(values)
        elif type(target) is list:
            target.extend(values)
        elif type(target) is set:
            target.update(map(_key, values))
        else:
            raise CheckpointError(f"the pickle adds items to a {type(target).__name__}")

    def _do_setitem(self, argument: Any) -> None:
        value = self._pop()
        self._update([self._pop(), value])

    def _do_setitems(self, argument: Any) -> None:
        self._update(self._to_mark())

    def _update(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Placeholder):
            target.items.extend(zip(values[::2], values[1::2], strict=True))
        elif type(target) is dict:
            target.update(_pairs(values))
        else:
            raise CheckpointError(f"the pickle sets items of a {type(target).__name__}")

    # --- globals and what is done with them

    def _do_global(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._global(module, name))

    def _do_stack_global(self, argument: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise CheckpointError("the pickle names a global by something that is not text")
        self._stack.append(self._global(module, name))

    def _global(self, module: str, name: str) -> Stand:
        full = f"{module}.{name}"
        if full in self._known:
            return self._known[full]
        builtin = module in ("builtins", "__builtin__")
        bad = name not in _INERT_BUILTINS and name not in _CONTAINERS if builtin else False
        if bad or module.split(".")[0] in _REFUSED_MODULES or full.startswith(_REFUSED_PREFIXES):
            raise CheckpointError(f"the file names {full[:200]}, which can run code; refused, nothing was run")
        if builtin and name in _CONTAINERS:
            return Stand(full, lambda *args: self._container(_CONTAINERS[name], args))
        if full in _MAPPINGS:
            return Stand(full, lambda *args: self._container(dict, args if name == "OrderedDict" else ()))
        if full == "_codecs.encode":
            return Stand(full, self._encode)
        if self._plain:
            raise CheckpointError(f"the file names {full[:200]}, expected containers, text and numbers alone; refused")
        return Stand(full, lambda *args: Placeholder(full, args))

    def _container(self, kind: type, args: tuple[Any, ...]) -> Any:
        source = args[0] if args else ()
        if len(args) > 1 or type(source) not in (dict, list, tuple, set, frozenset):
            raise CheckpointError(f"the pickle builds a {kind.__name__} from something that is no container")
        self._charge(len(source))
        if kind is dict:
            pairs = source.items() if type(source) is dict else source
            return {_key(key): value for key, value in pairs}
        return kind(map(_key, source)) if kind in (set, frozenset) else kind(source)

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How protocol 2 spells bytes."""
        if not isinstance(text, str) or encoding != "latin1":
            raise CheckpointError("_codecs.encode is only understood for latin1 text")
        self._charge(len(text))
        return text.encode("latin1")

    def _charge(self, count: int) -> None:
        self._copied += count + 1
        if self._copied > _MAX_COPIED:
            raise CheckpointError("the pickle copies containers over and over; refused")

    def _do_reduce(self, argument: Any) -> None:
        args = self._pop()
        self._stack.append(self._call(self._pop(), args))

    _do_newobj = _do_reduce

    def _do_newobj_ex(self, argument: Any) -> None:
        keywords, args = self._pop(), self._pop()
        made = self._call(self._pop(), args)
        if isinstance(made, Placeholder):
            made.items.append(keywords)
        elif keywords:
            raise CheckpointError("the pickle passes keywords to a constructor that takes none")
        self._stack.append(made)

    def _do_inst(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(self._call(self._global(module, name), tuple(self._to_mark())))

    def _do_obj(self, argument: Any) -> None:
        values = self._to_mark()
        self._stack.append(self._call(values[0], tuple(values[1:])))

    def _call(self, target: Any, args: Any) -> Any:
        if not isinstance(target, Stand) or target.call is None or not isinstance(args, tuple):
            raise CheckpointError(f"the pickle calls {_what(target)}; refused, nothing was run")
        return target.call(*args)

    def _do_build(self, argument: Any) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Placeholder):
            target.state = state
        elif type(target) is not dict:  # a state dict's own attributes (_metadata) say nothing about weights
            raise CheckpointError(f"the pickle changes {_what(target)}; refused")

    def _do_persid(self, argument: Any) -> None:
        self._stack.append(self._persistent(argument))

    def _do_binpersid(self, argument: Any) -> None:
        self._stack.append(self._persistent(self._pop()))


_PUSHES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_SET": lambda _: set(),
}
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)


def _key(value: Any) -> Any:
    """Only flat keys: hashing a deeply nested tuple would overflow the C stack and kill the process."""
    simple = (str, int, float, bool, bytes, type(None), Placeholder, Stand)
    if isinstance(value, simple) or (type(value) is tuple and all(isinstance(item, simple) for item in value)):
        return value
    raise CheckpointError(f"the pickle uses a {type(value).__name__} as a key")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _what(value: Any) -> str:
    return repr(value) if isinstance(value, (Stand, Placeholder)) else f"a {type(value).__name__}"
