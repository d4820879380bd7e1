"""A TinyGPT-V directory in Hugging Face's pipeline: several pictures at a time, a conversation, a stream.

``python examples/pipeline_transformers.py`` asks the shipped model; with a directory or a hub id behind it, that one.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor, TextIteratorStreamer, pipeline

import tinygptv_fast.hf


def picture(colour: str) -> Image.Image:
    """A disc of this colour on white."""
    image = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).ellipse((60, 50, 150, 140), fill=colour)
    return image


def ask(text: str, image: Image.Image) -> list[dict[str, Any]]:
    """One message of a user."""
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def main() -> None:
    tinygptv_fast.hf.register()  # the line; everything below is transformers
    name = sys.argv[1] if len(sys.argv) > 1 else "demo"
    path = tinygptv_fast.hf.TinyGPTVConfig.from_pretrained(name).name_or_path

    processor = AutoProcessor.from_pretrained(path)
    model = AutoModelForImageTextToText.from_pretrained(path)
    pipe = pipeline("image-text-to-text", model=model, processor=processor)

    chats = [ask("[vqa] What colour is the circle?", picture(colour)) for colour in ("red", "blue", "green")]
    for records in pipe(text=chats, batch_size=3, return_full_text=False, max_new_tokens=16):
        print("batch:", records[0]["generated_text"])

    talk = pipe(text=chats[0], max_new_tokens=16)[0]["generated_text"]
    talk.append({"role": "user", "content": [{"type": "text", "text": "[vqa] What shape is it?"}]})
    print("second turn:", pipe(text=talk, return_full_text=False)[0]["generated_text"])

    inputs = processor.apply_chat_template(
        ask("[grounding] please describe this image in details", picture("red")),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
    thread = threading.Thread(target=model.generate, kwargs={**inputs, "streamer": streamer, "max_new_tokens": 48})
    thread.start()
    print("streamed:", "".join(streamer).strip())
    thread.join()
    model.close()


if __name__ == "__main__":
    main()
