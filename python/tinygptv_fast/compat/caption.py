"""The original's caption clean-up for training (minigpt4/processors/blip_processors.py, BlipCaptionProcessor)."""

from __future__ import annotations

import re

MAX_WORDS = 50


def blip_caption(text: str, prompt: str = "", max_words: int = MAX_WORDS) -> str:
    """Lower case; ``. ! " ( ) * # : ; ~`` to spaces; runs of white space to one; at most ``max_words`` words after
    ``prompt``, which is put in front."""
    text = re.sub(r"[.!\"()*#:;~]", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return prompt + " ".join(text.split(" ")[:max_words])
