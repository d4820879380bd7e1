"""Code written for transformers, and the one line that gives it the native engine.

``python examples/drop_in_transformers.py`` runs a small Phi with random weights; with ``microsoft/phi-2`` or a path
behind it, that model.
"""

from __future__ import annotations

import sys
import threading
import time

import torch
from transformers import AutoModelForCausalLM, PhiConfig, PhiForCausalLM, TextIteratorStreamer

import tinygptv_fast as tgv


class Ids:
    """Decodes to numbers: random weights have no words."""

    def decode(self, ids: list[int], **kwargs: object) -> str:
        """The ids, each with a space behind it."""
        return "".join(f"{int(i)} " for i in ids)


def load() -> PhiForCausalLM:
    """The model named on the command line, or a random one that says something else at every token."""
    if len(sys.argv) > 1:
        return AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=500,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = PhiForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.2)
    return model


def main() -> None:
    torch_model = load()
    prompt = torch.tensor([[17, 42, 99, 7], [0, 0, 23, 5]])  # padded on the left
    asked = {"attention_mask": (prompt != 0).long(), "max_new_tokens": 24, "do_sample": False}

    model = tgv.accelerate(torch_model)  # the line; everything below is as before

    for name, keywords in (("greedy", {}), ("beams", {"num_beams": 3}), ("penalty", {"repetition_penalty": 1.3})):
        results, seconds = [], []
        for one in (torch_model, model):
            began = time.perf_counter()
            results.append(one.generate(prompt, **asked, **keywords))
            seconds.append(time.perf_counter() - began)
        print(f"{name}: torch {seconds[0] * 1000:.0f} ms, native {seconds[1] * 1000:.0f} ms ({model.last_route})")
        print("equal:", torch.equal(*results))

    streamer = TextIteratorStreamer(Ids(), skip_prompt=True, timeout=60)
    keywords = {"streamer": streamer, "max_new_tokens": 12, "do_sample": False}
    thread = threading.Thread(target=model.generate, args=(prompt[:1],), kwargs=keywords)
    thread.start()
    print("streamed:", "".join(streamer))
    thread.join()
    model.close()


if __name__ == "__main__":
    main()
