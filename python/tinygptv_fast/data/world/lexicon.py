"""What the world knows by name, and what of it is never shown in training."""

from __future__ import annotations

from ..colours import COLOURS

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
TEXTURES = ("plain", "striped", "dotted")
#: Drawn text counts as two more sorts of thing; they have no size word and no texture.
TEXT_SORTS = ("word", "number")

#: √(width x height) of a thing's box, width and height as fractions of the picture's. The gaps keep the words apart.
SIZES: dict[str, tuple[float, float]] = {"small": (0.155, 0.195), "medium": (0.23, 0.275), "large": (0.315, 0.375)}
MIN_SIDE, MAX_SIDE = 0.12, 0.40  # of a shape's box

MAX_THINGS = 6
NUMBERS = tuple(str(n) for n in range(100))

#: (colour, shape) never drawn and never named in training: each colour and each shape once, so that none is missing.
HELD_OUT_PAIRS = frozenset(
    {
        ("pink", "star"),
        ("black", "diamond"),
        ("green", "cross"),
        ("orange", "triangle"),
        ("purple", "circle"),
        ("blue", "heart"),
        ("yellow", "ring"),
        ("red", "square"),
    }
)
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
TRAIN_PAIRS = tuple(pair for pair in PAIRS if pair not in HELD_OUT_PAIRS)

#: Words that may be drawn in training. Common, short, and none of them a word of the questions.
TRAIN_WORDS = tuple(
    """
    ant apple arm art aunt baby bag ball band bank barn basket bath bay beach bean bear bed bee bell belt bench bike
    bird boat body bone book boot bottle bowl box bread brick bridge broom brush bucket bus butter button cabin cake
    camel camp candle cap car card carpet carrot castle cat chair chalk cheese cherry chess chin city clay clock cloud
    coast coat coffee coin comb cook copper corn cotton cow cup daisy dance deer desk dinner doctor dog door dove dream
    dress drum duck eagle ear earth egg elbow engine fan farm father feast fence fern field finger fire fish flag floor
    flour fork forest fox frame friend frog fruit garden gate gift glass glove goat gold grape grass guitar hair hall
    ham hammer hand harbor hat hay hen hill honey horse hotel house ice ink iron island jacket jam jar jeans jewel juice
    jungle key king kite knee ladder lake lamp lawn leaf lemon lid lion lunch magnet map market meadow melon milk mint
    mirror money monkey moon mother mouse mud museum music nail neck nest nose nurse oak oil olive onion orchid oven owl
    paint palace pan paper park pea peach pear pebble pencil pepper piano pillow pin pipe plate plum pocket pond pony
    """.split()
)
#: Words that are drawn only in examinations.
HELD_OUT_WORDS = tuple(
    """
    potato queen rabbit radio river rocket roof rope salad salt sand school ship shoe silk spoon sugar sun table tea
    tiger tower train tulip
    """.split()
)

#: Things that are never drawn: asked about, the answer is that they are not known.
TRAIN_UNKNOWN = tuple(
    """
    dog cat horse cow bird fish elephant giraffe car bus bicycle van boat plane tree flower house door window chair
    shelf bed lamp clock phone computer camera man woman child face hand shirt hat sock banana apple pizza cake cup
    bottle knife fork book ball kite umbrella bench bridge mountain stone cloud beach
    cube arrow hexagon spiral smiley
    """.split()
)
HELD_OUT_UNKNOWN = tuple(
    """
    zebra wolf crab spider truck motorbike ladle violin drone sofa lizard sandwich tomato pigeon backpack
    skateboard lighthouse penguin statue volcano
    pyramid octagon cone
    """.split()
)

ONLY_KNOWN = "I only know drawn shapes, colours and words"


def plural(noun: str) -> str:
    """``cross`` → ``crosses``, ``star`` → ``stars``."""
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    irregular = {"man": "men", "woman": "women", "child": "children", "knife": "knives"}
    return irregular.get(noun, noun + "s")


def article(phrase: str) -> str:
    """``a`` or ``an``, by the first letter: right for every word of this world but the letters of drawn words."""
    return "an" if phrase[0] in "aeiou" else "a"
