"""Drop-in for Hugging Face code: ``accelerate(model)`` gives a Phi of transformers our decoder and keeps its API.

Needs the ``hf`` extra; transformers is imported when ``accelerate`` is called, not before.
"""

from .accelerating import accelerate

__all__ = ["accelerate"]
