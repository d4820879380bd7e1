"""The byte-level BPE tokenizer of Phi (CodeGen / GPT-2) over the ``tokenizers`` library.

Knows files and ids; knows nothing of prompts or models. Decoding is done here from a table of bytes per id, so that
a stream of ids and the whole list give the same text by construction.

Three facts of the original that matter (its tokenizer is transformers' slow CodeGenTokenizer):
nothing is added to a text, no BOS either; runs of spaces are single added tokens; and its decoder puts spaces around
those added tokens and then removes spaces before punctuation, so its text is not what was generated. ``decode`` is
exact, ``decode_slow`` is the original's.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from ..errors import CheckpointError, InvalidArgumentError

MAX_FILE_BYTES = 64 << 20
MAX_TOKENS = 1 << 20

# transformers' clean_up_tokenization, in its order: English spacing before punctuation and contractions
_CLEAN_UP = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
             (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))  # fmt: skip


class Tokenizer:
    """Text to ids and back. Build one with ``from_file`` or ``from_directory``. Safe to use from several threads."""

    def __init__(self, backend: tokenizers.Tokenizer, added: dict[int, AddedToken]) -> None:
        self._backend = backend
        self._ids: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self._special = frozenset(index for index, token in added.items() if token.special)
        self._spaced = frozenset(added) - self._special
        top = max(self._ids.values(), default=-1) + 1
        if not 0 < top <= MAX_TOKENS:
            raise CheckpointError(f"tokenizer has ids up to {top - 1}, expected 1..{MAX_TOKENS} tokens")
        self._pieces = [b""] * top
        for token, index in self._ids.items():
            self._pieces[index] = token.encode() if index in added else _token_bytes(token)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Reads ``tokenizer.json`` (or a directory, see ``from_directory``).

        Raises ``CheckpointError``: missing, larger than 64 MiB, not json, not a byte-level BPE tokenizer.
        """
        path = Path(path)
        if path.is_dir():
            return cls.from_directory(path)
        return cls(*_parse(_read_text(path), str(path)))

    @classmethod
    def from_string(cls, text: str, name: str = "tokenizer.json") -> Tokenizer:
        """``from_file`` from the file's text; ``name`` stands for the path in errors."""
        if len(text) > MAX_FILE_BYTES:
            raise CheckpointError(f"{name} has {len(text)} characters, expected at most {MAX_FILE_BYTES}")
        return cls(*_parse(text, name))

    @classmethod
    def from_directory(cls, path: str | Path) -> Tokenizer:
        """``tokenizer.json`` of a directory or, if absent, ``vocab.json`` + ``merges.txt`` (+ ``added_tokens.json``,
        ``special_tokens_map.json``), the older layout of Phi directories."""
        path = Path(path)
        if (path / "tokenizer.json").is_file():
            return cls.from_file(path / "tokenizer.json")
        if not (path / "vocab.json").is_file() or not (path / "merges.txt").is_file():
            raise CheckpointError(f"{str(path)!r} has no tokenizer.json, nor vocab.json and merges.txt")
        return cls(*_build(path))

    def to_json(self) -> str:
        """The text of an equivalent ``tokenizer.json``."""
        return self._backend.to_str(pretty=True)

    @property
    def size(self) -> int:
        """Highest id + 1. A model's vocabulary is often padded beyond it."""
        return len(self._pieces)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of special tokens such as ``<|endoftext|>``."""
        return self._special

    def token_id(self, token: str) -> int | None:
        """Id of a token given in the vocabulary's own spelling, or None."""
        return self._ids.get(token)

    def token_bytes(self, size: int) -> list[bytes]:
        """What each of ``size`` ids adds to an answer: its exact bytes, b"" for special tokens and padding rows."""
        pieces = [b"" if index in self._special else piece for index, piece in enumerate(self._pieces[:size])]
        return pieces + [b""] * (size - len(pieces))

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``; [] for "". Nothing is added at either end. Special tokens in the text are recognised."""
        if not isinstance(text, str):
            raise InvalidArgumentError(f"text is {type(text).__name__}, expected a string")
        try:
            return self._backend.encode(text, add_special_tokens=False).ids if text else []
        except Exception as error:  # lone surrogates, which are not text
            raise InvalidArgumentError(f"text cannot be encoded ({_one_line(error)}), expected Unicode text") from None

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Exactly the bytes of ``ids`` as text; bytes that are not UTF-8 become U+FFFD, ids beyond the tokenizer
        (the padding rows of a model's vocabulary) nothing."""
        return b"".join(self._bytes(index, skip_special_tokens) for index in ids).decode("utf-8", "replace")

    def decode_slow(self, ids: Iterable[int], skip_special_tokens: bool = True, clean_up: bool = True) -> str:
        """What the original prints: parts around added white-space tokens joined by a space, then (``clean_up``, the
        setting of Phi's tokenizer files) no space before punctuation. For comparing with the original only."""
        parts: list[str] = []
        pending = b""
        for index in ids:
            if index in self._spaced:
                if pending:
                    parts.append(pending.decode("utf-8", "replace"))
                parts.append(self._bytes(index, False).decode("utf-8", "replace"))
                pending = b""
            else:
                pending += self._bytes(index, skip_special_tokens)
        if pending:
            parts.append(pending.decode("utf-8", "replace"))
        text = " ".join(parts)
        for old, new in _CLEAN_UP if clean_up else ():
            text = text.replace(old, new)
        return text

    def stream(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """A new incremental decoder; its pieces joined are ``decode`` of all ids."""
        return StreamDecoder(self, skip_special_tokens)

    def _bytes(self, index: int, skip_special: bool) -> bytes:
        if isinstance(index, bool) or not hasattr(index, "__index__") or index < 0:
            raise InvalidArgumentError(f"token id is {index!r}, expected an integer >= 0")
        index = index.__index__()
        if index >= len(self._pieces) or (skip_special and index in self._special):
            return b""
        return self._pieces[index]


class StreamDecoder:
    """Text of one growing answer. A character split over tokens is held back until it is whole."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, index: int) -> str:
        """The text that is certain now that token ``index`` has come; often "" in the middle of a character."""
        return self._decoder.decode(self._tokenizer._bytes(index, self._skip))

    def end(self) -> str:
        """What is left: U+FFFD for a character that never got complete, else "". The decoder can then start anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _byte_table() -> dict[str, int]:
    """GPT-2's printable stand-in character of each byte, inverted (Radford et al. 2019, bytes_to_unicode)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(rest)}


_BYTES = _byte_table()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:
        raise CheckpointError(f"tokenizer has token {_one_line(token)!r}, expected byte-level characters") from None


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(f"{str(path)!r} has {size} bytes, expected at most {MAX_FILE_BYTES}")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{str(path)!r} cannot be read ({_one_line(error)}), expected a tokenizer") from None


def _load_json(text: str, name: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is not json ({_one_line(error)})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{name} holds {type(data).__name__}, expected a json object")
    return data


def _parse(text: str, name: str) -> tuple[tokenizers.Tokenizer, dict[int, AddedToken]]:
    data = _load_json(text, name)
    model = data.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"{name} has another model than BPE, expected Phi's byte-level BPE")
    if model.get("dropout"):
        raise CheckpointError(f"{name} has BPE dropout {model['dropout']!r}, expected none: ids would be random")
    for part in ("pre_tokenizer", "decoder"):
        if not _byte_level(data.get(part)):
            raise CheckpointError(f"{name}: its {part} is not ByteLevel, expected Phi's byte-level BPE")
    backend = _guarded(name, lambda: tokenizers.Tokenizer.from_str(text))
    backend.no_truncation()
    backend.no_padding()
    return backend, dict(backend.get_added_tokens_decoder())


def _byte_level(part: Any) -> bool:
    if not isinstance(part, dict):
        return False
    if part.get("type") == "Sequence":
        steps = next((part[key] for key in ("pretokenizers", "decoders") if key in part), None)
        return isinstance(steps, list) and any(_byte_level(step) for step in steps)
    return part.get("type") == "ByteLevel"


def _build(path: Path) -> tuple[tokenizers.Tokenizer, dict[int, AddedToken]]:
    vocab = _load_json(_read_text(path / "vocab.json"), str(path / "vocab.json"))
    lines = _read_text(path / "merges.txt").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise CheckpointError(f"{str(path / 'merges.txt')!r} has lines that are not two tokens")
    merges = [(pair[0], pair[1]) for pair in pairs]
    backend = _guarded(str(path), lambda: tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    specials = _special_tokens(path)
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    added = _optional_json(path / "added_tokens.json")
    for token, index in sorted(added.items(), key=lambda item: _index(path, *item)):
        if token not in specials:
            backend.add_tokens([AddedToken(token, normalized=True)])
        if backend.token_to_id(token) != index:
            raise CheckpointError(f"{str(path)!r}: added token {token!r} has id {index}, expected the next free one")
    return backend, dict(backend.get_added_tokens_decoder())


def _index(path: Path, token: str, index: Any) -> int:
    if type(index) is not int or index < 0:
        name = str(path / "added_tokens.json")
        raise CheckpointError(f"{name!r}: {token!r} has id {index!r}, expected an integer >= 0")
    return index


def _special_tokens(path: Path) -> list[str]:
    """Names in ``special_tokens_map.json``; Phi's one special token if that file is absent."""
    entries = _optional_json(path / "special_tokens_map.json") or {"eos_token": "<|endoftext|>"}
    names = [entry.get("content") if isinstance(entry, dict) else entry for entry in entries.values()]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _optional_json(path: Path) -> dict[str, Any]:
    return _load_json(_read_text(path), str(path)) if path.is_file() else {}


def _guarded(name: str, build: Any) -> Any:
    """Runs a constructor of ``tokenizers``; its errors, Rust panics included, become one ``CheckpointError``."""
    try:
        return build()
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            raise
        raise CheckpointError(f"{name} is not a usable tokenizer ({_one_line(error)})") from None


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
