"""Code written for the original TinyGPT-V, on this package: its chat, its batched generate, its ranking of answers.

What changes is how the model comes to be (two lines in ``load``); every call below is the original's own.

Run: python examples/drop_in_original.py [PICTURE] [--model DIR] [--quirks]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import tinygptv_fast as tgv
from tinygptv_fast.compat import Chat, CONV_VISION_Vicuna0, OriginalModel
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange


def load(directory: str, quirks: bool) -> OriginalModel:
    """Before: init_model(args), from a yaml file, four weight files and a patched transformers."""
    return OriginalModel(tgv.TinyGPTV.from_pretrained(directory), quirks=quirks)


def talk(model: OriginalModel, picture: Any, quirks: bool) -> None:
    """demo.py: a picture is uploaded, and asked about twice."""
    chat, conversation, pictures = Chat(model, quirks=quirks), CONV_VISION_Vicuna0.copy(), []
    chat.upload_img(picture, conversation, pictures)
    chat.encode_img(pictures)
    for question in ("Describe this image in detail.", "What colour is the circle?"):
        chat.ask(question, conversation)
        text, ids = chat.answer(conversation, pictures, max_new_tokens=24, temperature=1.0, seed=1)
        print(f"chat: {question} -> {text} ({len(ids)} ids)")
    chat.ask("What shape is blue?", conversation)
    print("streamed:", "".join(chat.stream_answer(conversation, pictures, max_new_tokens=24, do_sample=False)))


def evaluate(model: OriginalModel, picture: Any) -> None:
    """eval_vqa.py: a batch of pixels and whole prompts; and the ranking that its hateful-memes score rests on."""
    images = torch.stack([model.vis_processor(picture)] * 2)
    questions = ("How many shapes are there?", "What colour is the star?")
    texts = [f"###Human: <Img><ImageHere></Img> [vqa] {question}###Assistant: " for question in questions]
    for question, answer in zip(questions, model.generate(images, texts, max_new_tokens=20), strict=True):
        print(f"generate: {question} -> {answer.strip()}")
    ranked = model.multi_select(images, texts, [["one", "red"], ["two", "green"], ["three", "blue"]])
    print(f"multi_select, the best candidate of each row first: {ranked}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", help="a picture file; without one a picture is drawn")
    parser.add_argument("--model", default="demo", help="a model directory (default: the shipped demo)")
    parser.add_argument("--quirks", action="store_true", help="keep the original's bugs, for reproducing its numbers")
    arguments = parser.parse_args()
    picture = arguments.picture or draw(arrange("red circle left of blue star", 5), 384)
    model = load(arguments.model, arguments.quirks)
    with model.model:
        talk(model, picture, arguments.quirks)
        evaluate(model, picture)


if __name__ == "__main__":
    main()
