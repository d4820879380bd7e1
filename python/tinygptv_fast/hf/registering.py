"""Our classes under transformers' Auto classes."""

from __future__ import annotations

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .configuration import TinyGPTVConfig
from .processing import TinyGPTVProcessor
from .vision_language import TinyGPTVForConditionalGeneration


def register_all() -> None:
    """Once or often; another registration under our name is replaced. ``AutoModelForVision2Seq`` is version 4's."""
    AutoConfig.register(TinyGPTVConfig.model_type, TinyGPTVConfig, exist_ok=True)
    AutoProcessor.register(TinyGPTVConfig, TinyGPTVProcessor, exist_ok=True)
    AutoModelForImageTextToText.register(TinyGPTVConfig, TinyGPTVForConditionalGeneration, exist_ok=True)
    older = getattr(transformers, "AutoModelForVision2Seq", None)
    if older is not None and int(transformers.__version__.split(".")[0]) < 5:
        older.register(TinyGPTVConfig, TinyGPTVForConditionalGeneration, exist_ok=True)
