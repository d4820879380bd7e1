"""Find things in pictures, draw them, and write one COCO file with the ids of one's own data set.

Run: python examples/grounding_to_coco.py [OUT [PICTURE ...]]; without pictures three are drawn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import tinygptv_fast as tgv
from tinygptv_fast.data.world.drawing import draw
from tinygptv_fast.data.world.layout import arrange

SCENES = ["red circle left of blue star", "red circle above green ring", "two plain hearts"]
CATEGORIES = {"circle": 1, "star": 2, "heart": 3}


def main(arguments: list[str]) -> None:
    out = Path(arguments[0] if arguments else "found")
    out.mkdir(parents=True, exist_ok=True)
    files = arguments[1:] or [_drawn(out, number, scene) for number, scene in enumerate(SCENES)]
    coco: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    with tgv.TinyGPTV.from_pretrained("demo") as model:
        for image_id, file in enumerate(files, 1):
            state = model.encode_image(file)  # seen once for all categories
            found = tgv.Boxes([box for name in CATEGORIES for box in model.detect(state, name)])
            rows = found.to_coco(
                image_ids=[image_id], categories=CATEGORIES, first_annotation_id=len(coco["annotations"]) + 1
            )
            size = {"id": image_id, "file_name": file, "width": state.width, "height": state.height}
            coco["images"].append(size)
            coco["annotations"] += rows["annotations"]
            found.draw(file).save(out / f"{Path(file).stem}.boxes.png")
            print(f"{file}: {len(found)} boxes")
    categories = [{"id": number, "name": name} for name, number in CATEGORIES.items()]
    (out / "coco.json").write_text(json.dumps({**coco, "categories": categories}, indent=1))


def _drawn(out: Path, number: int, scene: str) -> str:
    path = out / f"{number}.png"
    draw(arrange(scene, 5), 384).save(path)
    return str(path)


if __name__ == "__main__":
    main(sys.argv[1:])
