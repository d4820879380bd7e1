"""TinyGPT-V as a model of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), for its many other tasks.

Run, with lmms-eval installed beside this package:
python examples/lmms_eval_model.py --model tinygptv_fast --model_args pretrained=demo --tasks pope --limit 8

lmms-eval is large and no dependency of this package: without it the class can still be imported, stands on a base of
the same attributes, and is tested against the protocol of lmms-eval 0.7 (its abstract methods, the arguments of its
requests) as written down in the test. It has not been run under lmms-eval itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tinygptv_fast as tgv

NAME = "tinygptv_fast"

try:
    from lmms_eval.api.model import lmms as _Base
except ImportError:

    class _Base:  # type: ignore[no-redef]
        """What lmms-eval's base class gives its models, as far as this one uses it."""

        def __init__(self) -> None:
            self._rank, self._world_size = 0, 1
            self.task_dict: dict[str, Any] = {}


class TinyGPTVFast(_Base):  # type: ignore[misc, valid-type]
    """Chat-style model: requests carry messages. Batches are decoded together; answers are greedy unless asked.

    pretrained: a model directory, hub id or "demo". batch_size: requests asked together. template: prompt template by
    name. device, max_batch_size: what lmms-eval passes on; "cuda:0" is the first GPU.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "demo",
        batch_size: int | str = 8,
        template: str | None = None,
        threads: int | str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = min(int(batch_size), max_batch_size or int(batch_size))
        self.template = template
        where = "auto" if device is None else device.partition(":")[0]
        count = None if threads is None else int(threads)
        self.model = tgv.TinyGPTV.from_pretrained(pretrained, device=where, threads=count)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answers, in the order of ``requests``. A picture or prompt that cannot be used raises."""
        out: list[str] = []
        for begin in range(0, len(requests), self.batch_size):
            part = [self._request(one) for one in requests[begin : begin + self.batch_size]]
            out += [str(answer) for answer in self.model.generate_batch(part)]
        return out

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not available: lmms-eval asks for it with contexts that have no place for a picture in a template."""
        raise NotImplementedError("tinygptv_fast answers generate_until tasks; use TinyGPTV.rank to score candidates")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not available."""
        raise NotImplementedError("tinygptv_fast answers generate_until tasks; use TinyGPTV.chat for conversations")

    def _request(self, instance: Any) -> dict[str, Any]:
        _, doc_to_messages, settings, doc_id, task, split = instance.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        return {"messages": [_message(one) for one in messages], "template": self.template, **decoding(settings)}


def decoding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """lmms-eval's generation settings in this package's terms. Settings of None and empty stop strings mean nothing."""
    out: dict[str, Any] = {"max_new_tokens": settings.get("max_new_tokens") or 256}
    until = settings.get("until") or []
    out["stop"] = [text for text in ([until] if isinstance(until, str) else until) if text]
    if (settings.get("num_beams") or 1) > 1:
        out["num_beams"] = settings["num_beams"]
    if (settings.get("temperature") or 0) > 0:
        out["temperature"] = settings["temperature"]
        out["top_p"] = settings.get("top_p")
    return out


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": message["role"], "content": [_part(part) for part in message["content"]]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] == "image":
        return {"type": "image", "image": part["url"]}
    raise NotImplementedError(f"a message has a part of type {part['type']!r}, expected text or image")


def main() -> None:
    """lmms-eval's command line with this model among its models."""
    try:
        from lmms_eval.__main__ import cli_evaluate
        from lmms_eval.models import MODEL_REGISTRY_V2
        from lmms_eval.models.registry_v2 import ModelManifest
    except ImportError as error:
        raise SystemExit(f"this example needs lmms-eval: pip install lmms-eval ({error})") from None
    sys.path.insert(0, str(Path(__file__).parent))
    MODEL_REGISTRY_V2.register_manifest(ModelManifest(NAME, chat_class_path=f"{Path(__file__).stem}.TinyGPTVFast"))
    cli_evaluate()


if __name__ == "__main__":
    main()
