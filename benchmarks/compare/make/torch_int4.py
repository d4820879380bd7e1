"""Writes the checkpoint in torch's own int4 form, so that loading it is not converting it.

venv-torch/bin/python torch_int4.py CHECKPOINT OUT.pt GROUP
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from engines.eager import pack_int4


def main() -> None:
    from transformers import PhiForCausalLM

    checkpoint, out, group = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    model = PhiForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    state = {}
    for name, values in model.state_dict().items():
        if values.dim() == 2 and "embed_tokens" not in name:
            state[f"{name}_packed"], state[f"{name}_scales"] = pack_int4(values, group)
        else:
            state[name] = values.clone()
    torch.save(state, out)


if __name__ == "__main__":
    main()
