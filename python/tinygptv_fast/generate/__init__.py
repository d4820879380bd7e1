"""The public way to use a model: ``TinyGPTV.from_pretrained(...).generate(image, prompt)``.

Knows pictures, prompts, answers and a backend that decodes; knows nothing of the original's files.
"""

from .answer import Answer, Piece, Timings, Usage
from .chat import Chat
from .image_state import ImageState
from .model import TinyGPTV
from .request import Request

__all__ = ["Answer", "Chat", "ImageState", "Piece", "Request", "Timings", "TinyGPTV", "Usage"]
