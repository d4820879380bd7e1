"""The whole of TinyGPT-V as one nn.Module with the project's tensor names."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import LoraConfig, ModelConfig
from ..errors import UnsupportedError
from .phi import PhiBackbone
from .projector import Projector
from .qformer import QFormer
from .vision import VisionTower


class TinyGPTVReference(nn.Module):
    """vision → ln_vision → qformer → projector, and the text backbone that reads the result.

    ``lora`` and ``projector_hidden`` select the un-folded training form; without them the module's ``state_dict`` has
    exactly the names and shapes of a model directory. A config without ``vision`` gives a text-only model.
    """

    def __init__(
        self, config: ModelConfig, *, lora: LoraConfig | None = None, projector_hidden: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        if config.vision is not None and config.qformer is not None:
            self.vision = VisionTower(config.vision)
            self.ln_vision = nn.LayerNorm(config.vision.width, eps=config.vision.ln_vision_eps)
            self.qformer = QFormer(config.qformer, config.vision.width)
            self.projector = Projector(config.qformer.width, config.text.width, projector_hidden)
        self.text = PhiBackbone(config.text, lora)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels f32 [B, 3, S, S] → visual tokens [B, NQ, C]. Raises UnsupportedError on a text-only model."""
        if self.config.vision is None:
            raise UnsupportedError("this model has no vision tower: it is text-only")
        return self.projector(self.qformer(self.ln_vision(self.vision(pixels))))
