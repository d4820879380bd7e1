"""``draw``: a picture of one's own, described in words. No model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .output import console, print_json
from .pictures import check_target, save_picture, show_picture

if TYPE_CHECKING:
    from ..data.world.scene import Scene, Thing

_COLUMNS = 48  # characters of the picture in the terminal


def draw(
    description: Annotated[
        str, typer.Argument(metavar="DESCRIPTION", help="What to draw: 'red star left of blue ring'.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Decides places and all that is not said.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the picture in pixels.")] = 384,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the picture goes (.png or .jpg).")] = Path(
        "drawing.png"
    ),
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw shapes and words as described, in the style of the pictures the demo model knows."""
    from ..data.world.drawing import draw as render
    from ..data.world.layout import arrange

    check_target("--out", out)
    scene = arrange(description, seed)
    picture = render(scene, size)
    save_picture(picture, out)
    if json_output:
        data = {"description": description, "seed": seed, "file": str(out)}
        print_json("drawing", {**data, **_truth(scene, picture.size)})
        return
    if not quiet:
        show_picture(picture, _COLUMNS)
    console().print(f"picture: {out}", soft_wrap=True)


def _truth(scene: Scene, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    return {"width": width, "height": height, "things": [_thing(thing, size) for thing in scene.things]}


def _thing(thing: Thing, size: tuple[int, int]) -> dict[str, Any]:
    """Its attributes, and its box as x1 y1 x2 y2 in pixels and in fractions of the sides."""
    from ..data.world.shapes import to_pixels

    return {
        "shape": thing.shape,
        "colour": thing.colour,
        "size": thing.size,
        "texture": thing.texture,
        "text": thing.text or None,
        "xyxy": list(to_pixels(thing.box, size)),
        "xyxyn": [round(value, 6) for value in thing.box],
    }
