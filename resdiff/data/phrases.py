"""Prompts that are true of a crop, drawn from its attributes: what the words of a prompt mean is learned from them.

A prompt says nothing, or something of up to three attributes (`resdiff.data.attributes`, in standard deviations), by
synonyms, degrees and negations; and around that it names things and fills up, as people do, independently of the crop:
from such words nothing can be learned but to ignore them. Data for training; nothing is looked up here at inference.
The wordings and their thresholds are the project's own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resdiff.data.attributes import ATTRIBUTES
from resdiff.data.degradation.base import chance, choose

Words = tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """How it is said that a photo has more, or less, of an attribute than its low-resolution image lets expect."""

    adjectives: Words
    nouns: Words = ()
    verbs: Words = ()  # what one asks for


@dataclass(frozen=True)
class Saying:
    """Ways of saying something whose value, in standard deviations towards the word's meaning, lies in a range."""

    low: float
    high: float
    weight: float  # how often, beside others that hold
    of_adjectives: Words  # {} is the word
    of_nouns: Words


WORDINGS: Mapping[str, tuple[Wording, Wording]] = {  # more, less
    "detail": (
        Wording(
            ("sharp", "crisp", "detailed", "in focus", "sharper", "crisper"),
            ("detail", "details", "fine detail", "sharpness"),
            ("sharpen",),
        ),
        Wording(
            ("soft", "smooth", "blurry", "blurred", "out of focus", "unfocused", "softer", "smoother"),
            ("blur", "softness"),
            ("soften", "blur"),
        ),
    ),
    "grain": (
        Wording(("grainy", "noisy", "grainier"), ("grain", "film grain", "film grain", "noise", "image noise")),
        Wording(
            ("clean", "clean", "clean", "cleaner", "noiseless", "noise free", "noise-free", "grain-free"),
            (),
            ("denoise", "denoised"),
        ),
    ),
    "contrast": (
        Wording(("high contrast", "contrasty", "punchy", "high-contrast"), ("contrast", "local contrast")),
        Wording(("low contrast", "muted", "flat", "low-contrast", "washed out")),
    ),
    "texture": (
        Wording(("textured", "richly textured"), ("texture", "fine texture", "textures")),
        Wording(("plain", "textureless", "untextured")),
    ),
}

SAYINGS = (
    Saying(
        1.0, math.inf, 3, ("{}", "{}", "{}", "more {}"), ("{}", "{}", "{}", "with {}", "more {}", "some {}", "add {}")
    ),
    Saying(
        1.7,
        math.inf,
        4,
        (
            "very {}",
            "very {}",
            "very {}",
            "very very {}",
            "extremely {}",
            "extremely {}",
            "really {}",
            "super {}",
            "highly {}",
            "incredibly {}",
            "ultra {}",
        ),
        ("lots of {}", "a lot of {}", "full of {}", "strong {}", "heavy {}", "much {}"),
    ),
    Saying(
        0.2,
        0.8,
        1.5,
        ("slightly {}", "a bit {}", "a little {}", "somewhat {}", "fairly {}"),
        ("a bit of {}", "slight {}", "subtle {}", "a touch of {}"),
    ),
    Saying(
        -math.inf,
        -0.2,
        1.5,
        ("not {}", "not {}", "not {}", "never {}", "not very {}", "not too {}", "isn't {}", "less {}"),
        (
            "no {}",
            "no {}",
            "without {}",
            "without any {}",
            "less {}",
            "{}-free",
            "free of {}",
            "reduce {}",
            "remove {}",
        ),
    ),
)

OPENINGS = (
    "a photo of", "photo of", "a picture of", "picture of", "an image of", "photograph of", "a shot of", "close-up of",
    "portrait of", "a view of", "my", "our", "the", "a", "an", "this is", "here is", "some", "one of", "macro of",
    "a beautiful photo of", "holiday picture of", "raw photo,", "photo,", "picture,", "please show", "i took", "", "",
)  # fmt: skip
NEUTRAL = (
    "big", "small", "old", "young", "new", "beautiful", "nice", "red", "blue", "green", "yellow", "white", "black", "brown",
    "golden", "wild", "happy", "sleeping", "running", "wooden", "stone", "tall", "long", "round", "famous", "ancient",
    "modern", "sunny", "snowy", "wet", "dry", "warm", "cold", "colorful", "lovely", "pretty", "empty", "busy", "narrow",
    "wide", "striped", "spotted", "hairy", "furry", "fluffy", "leafy", "cute", "good", "best", "professional",
)  # fmt: skip
NOUNS = (
    # animals
    "cat", "dog", "fox", "wolf", "bear", "lion", "tiger", "leopard", "cheetah", "elephant", "zebra", "giraffe", "horse",
    "cow", "sheep", "goat", "pig", "rabbit", "hare", "squirrel", "mouse", "rat", "monkey", "gorilla", "panda", "koala",
    "kangaroo", "deer", "moose", "camel", "bird", "eagle", "owl", "parrot", "penguin", "duck", "swan", "goose", "chicken",
    "rooster", "pigeon", "crow", "sparrow", "flamingo", "peacock", "fish", "shark", "whale", "dolphin", "turtle", "snake",
    "lizard", "frog", "butterfly", "bee", "spider", "beetle", "ant", "snail", "crab", "lobster", "puppy", "kitten", "seal",
    # materials and surfaces
    "fur", "hair", "feathers", "skin", "brick", "bricks", "brick wall", "stone", "stones", "rock", "rocks", "concrete",
    "marble", "granite", "sand", "gravel", "soil", "mud", "wood", "bark", "leaves", "foliage", "grass", "moss", "metal",
    "steel", "iron", "rust", "glass", "plastic", "paper", "fabric", "cloth", "wool", "silk", "leather", "denim", "lace",
    "carpet", "tiles", "roof tiles", "asphalt", "ice", "snow", "water", "waves", "smoke", "fire", "clouds", "sky", "fog",
    # nature and places
    "tree", "trees", "forest", "jungle", "flower", "flowers", "rose", "tulip", "sunflower", "cactus", "mushroom", "fern",
    "mountain", "mountains", "hill", "valley", "canyon", "cliff", "desert", "dunes", "beach", "coast", "sea", "ocean", "lake",
    "river", "waterfall", "island", "field", "meadow", "garden", "park", "sunset", "sunrise", "night sky", "moon", "stars",
    "landscape", "cave", "volcano", "glacier", "pond", "harbor", "village", "town", "city", "street", "road", "highway",
    "bridge", "tower", "castle", "church", "cathedral", "temple", "mosque", "palace", "house", "houses", "cottage", "barn",
    "skyscraper", "skyline", "building", "facade", "window", "windows", "door", "gate", "fence", "wall", "roof", "stairs",
    "square", "market", "station", "airport", "museum", "library", "kitchen", "bedroom", "office", "bathroom", "room",
    # people
    "man", "woman", "boy", "girl", "child", "children", "baby", "people", "family", "crowd", "face", "eyes", "eye", "hand",
    "hands", "beard", "lips", "smile", "old man", "old woman", "bride", "dancer", "singer", "soldier", "farmer", "worker",
    "player", "runner", "cyclist", "tourist", "friends", "couple", "team", "dress", "shirt", "hat", "shoes", "jacket", "scarf",
    # things
    "car", "cars", "truck", "bus", "train", "tram", "bicycle", "motorcycle", "boat", "boats", "ship", "sailboat", "airplane",
    "helicopter", "balloon", "chair", "table", "sofa", "bed", "lamp", "clock", "book", "books", "newspaper", "letter", "pen",
    "computer", "keyboard", "phone", "camera", "guitar", "piano", "violin", "drum", "ball", "toy", "doll", "bottle", "cup",
    "plate", "fork", "knife", "spoon", "bread", "cake", "cheese", "apple", "apples", "orange", "banana", "grapes", "lemon",
    "strawberries", "tomato", "pepper", "onion", "potato", "salad", "pizza", "soup", "coffee", "tea", "wine", "beer", "egg",
    "basket", "box", "bag", "umbrella", "statue", "painting", "poster", "sign", "flag", "coin", "ring", "necklace", "jewel",
    "candle", "mirror", "rope", "chain", "wheel", "engine", "machine", "tool", "hammer", "text", "logo", "film poster",
)  # fmt: skip
PLACES = ("in the garden", "on the table", "in a row", "at night", "at home", "in the sun", "on the wall", "out of town",
          "near the river", "under a tree", "in the background", "in front of the house", "of 2019", "in paris")  # fmt: skip
OTHERWISE = (  # the words of statements, about something else
    "isn't it", "too many", "a little", "not far", "never seen", "in the open", "free range", "high quality", "low light",
    "high resolution", "low angle", "high mountains", "low clouds", "highly rated", "best quality", "low quality", "fine art",
    "film still", "film poster", "local food", "image of the day", "focus group", "ultra hd", "touch of class", "any color",
    "washed", "out of town", "out of the box", "less is more", "and more", "4k", "8k", "hd", "masterpiece", "award winning",
)  # fmt: skip
LOOKALIKES = (  # that share a piece with the words of statements, as CLIP cuts them
    "contraption", "contrabass", "contraband", "pasty", "crusty", "puncture", "punnet", "starchy", "scratchy", "aperture",
    "gravelly", "graze", "softwood", "shar-pei", "hairless", "toothless", "untied", "unopened", "unripe", "denizen",
)  # fmt: skip
COUNTS = (0, 1, 2, 3)  # statements of a prompt
COUNT_WEIGHTS = (0.15, 0.45, 0.25, 0.15)
JOINTS, JOINT_WEIGHTS = (", ", " ", " and ", " but ", "; ", ". ", " - "), (0.5, 0.3, 0.08, 0.05, 0.02, 0.03, 0.02)


def draw_prompt(
    attributes: Sequence[float] | Tensor,  # in standard deviations, NaN where unknown, in the order of `names`
    generator: torch.Generator,
    names: Sequence[str] = ATTRIBUTES,
) -> str:
    """Draw a prompt that is true of a crop with these attributes.

    Raises ValueError for a name without words, and when there are not as many names as attributes.
    """
    if len(attributes) != len(names) or not set(names) <= WORDINGS.keys():
        raise ValueError(
            f"attributes are {len(attributes)} of {', '.join(names)}; words exist for {', '.join(WORDINGS)}"
        )
    known = [(name, float(value)) for name, value in zip(names, attributes, strict=True) if not math.isnan(value)]
    parts = []
    for _ in range(choose(generator, COUNTS, COUNT_WEIGHTS) if known else 0):
        # the same attribute may be spoken of twice: "sharp, detailed"
        if said := draw_statement(*choose(generator, known), generator):
            parts.append(said)
    if not parts or chance(generator, 0.8):
        parts.append(draw_subject(generator))
    if chance(generator, 0.25):
        parts.append(draw_distraction(generator))
    order = torch.randperm(len(parts), generator=generator).tolist()
    prompt = parts[order[0]]
    for i in order[1:]:
        prompt += choose(generator, JOINTS, JOINT_WEIGHTS) + parts[i]
    return prompt


def draw_statement(name: str, value: float, generator: torch.Generator) -> str | None:
    """Draw something true of a crop whose attribute `name` has this value, in standard deviations; None: too ordinary."""
    direction = choose(generator, (1, -1))
    wording = WORDINGS[name][direction < 0]
    holding = [saying for saying in SAYINGS if saying.low < direction * value < saying.high]
    if not holding:
        return None
    saying = choose(generator, holding, [s.weight for s in holding])
    if wording.verbs and saying is SAYINGS[0] and chance(generator, 0.3):
        return choose(generator, wording.verbs)
    if wording.nouns and chance(generator, 0.5):
        return choose(generator, saying.of_nouns).format(choose(generator, wording.nouns))
    return choose(generator, saying.of_adjectives).format(choose(generator, wording.adjectives))


def draw_subject(generator: torch.Generator) -> str:
    """Draw something that is in a picture, independently of any attribute."""
    words = [choose(generator, OPENINGS)]
    if chance(generator, 0.3):
        words.append(choose(generator, NEUTRAL))
    words.append(choose(generator, NOUNS))
    if chance(generator, 0.15):
        words += ["and", choose(generator, NOUNS)]
    if chance(generator, 0.3):
        words.append(choose(generator, PLACES))
    return " ".join(word for word in words if word)


def draw_distraction(generator: torch.Generator) -> str:
    """Draw a saying about something that is not measured: "very big", "no dog"."""
    if chance(generator, 0.4):
        return choose(generator, (*OTHERWISE, *LOOKALIKES))
    saying = choose(generator, SAYINGS)
    if chance(generator, 0.5):
        return choose(generator, saying.of_nouns).format(choose(generator, NOUNS))
    return choose(generator, saying.of_adjectives).format(choose(generator, NEUTRAL))
