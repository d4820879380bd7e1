"""The instruction pools of the original's data sets (minigpt4/datasets/datasets/*.py), without their tags.

Those of [vqa], [refer], [identify], [grounding] and [detection] are ``processing.prompt.TASKS``'s. Trailing spaces are
the original's: the model has learned with them.
"""

from __future__ import annotations

from ...processing.prompt import TASKS

VQA = TASKS["vqa"].training
REFER = TASKS["refer"].training
IDENTIFY = TASKS["identify"].training
GROUNDING = TASKS["grounding"].training
DETECTION = TASKS["detection"].training
CAPTION = (
    "Briefly describe this image.",
    "Provide a concise depiction of this image.",
    "Present a short description of this image.",
    "Summarize this image in a few words.",
    "A short image caption:",
    "A short image description:",
    "A photo of ",
    "An image that shows ",
    "Write a short description for the image. ",
    "Write a description for the photo.",
    "Provide a description of what is presented in the photo.",
    "Briefly describe the content of the image.",
    "Can you briefly explain what you see in the image?",
    "Could you use a few words to describe what you perceive in the photo?",
    "Please provide a short depiction of the picture.",
    "Using language, provide a short account of the image.",
    "Use a few words to illustrate what is happening in the picture.",
)
"""text_caps.py and caption_datasets.py, task [caption]."""
