"""Words: what "sharp", "soft", "grainy", "clean", nouns, "not" and "very" do to the pictures, image by image.

At the model's own settings, the empty prompt beside every other. Prompts of which the network gets to know the same are
one picture, made once. Two figures say what kind of change "sharp" is: its correlation with what is missing to HR,
beside that of unsharp masks of equal sharpness, and the share of it that the best 9x9 linear filter explains.
"""

import random
from collections.abc import Sequence

from torch import Tensor

from resdiff.eval.promises.part import Figures, Sets, geometric_mean, mean, share, values
from resdiff.eval.promises.pictures import SCALE, Enlarger, Meaning, Pair
from resdiff.eval.promises.planes import (
    MOST_GRID,
    correlation,
    grid_excess,
    has_flat_noise,
    linear_filter_share,
    luma_plane,
    unsharp_mask_of_sharpness,
)
from resdiff.eval.promises.promise import Promise, at_least, at_most
from resdiff.metrics.psnr import psnr
from resdiff.metrics.texture import flat_noise, sharpness

# things that photos show, and some that none of them would be described by
NOUNS = (
    "apple", "balcony", "basket", "beard", "bicycle", "boat", "bottle", "bridge", "cactus", "candle", "car", "castle",
    "cathedral", "chair", "cheese", "cliff", "clock", "cloud", "coat", "dog", "door", "eagle", "elephant", "engine",
    "face", "feather", "fence", "flag", "flower", "forest", "fountain", "garden", "guitar", "hat", "horse", "island",
    "kitchen", "ladder", "lamp", "lighthouse", "market", "mirror", "mountain", "mushroom", "ocean", "orange", "painter",
    "parrot", "piano", "pillow", "river", "road", "roof", "sandal", "shell", "snow", "spoon", "statue", "stone",
    "teapot", "tower", "train", "umbrella", "violin", "wall", "window", "zebra",
)  # fmt: skip
SEED = 0
DRAWN = tuple(random.Random(SEED).sample(NOUNS, 10))
LEFT_OUT = {"set5"}  # the promises are about Set14 and BSD100
LEAST = 1.1  # ratio of neighbours in an order
SHARE = 0.95  # of the images on which a statement must hold
NOUN_CHANGE = 0.02  # of the sharpness, when the noun is another
PSNR_LOSS = 0.05  # dB, that the branch of words may cost
SIGMAS = (1.0, 1.5, 2.0)  # of the unsharp masks, pixels


def measure(pair: Pair, enlarge: Enlarger) -> dict[str, float]:
    """Return the figures of one image, those of a prompt as `sharpness <prompt>` and `grain <prompt>`."""
    made: dict[Meaning, Tensor] = {}

    def said(prompt: str) -> Tensor:
        meaning = enlarge.meaning(prompt)
        if meaning not in made:
            made[meaning] = enlarge(pair.lr, prompt=prompt)
        return made[meaning]

    nouns = [f"{word} {noun}" for noun in DRAWN for word in ("sharp", "soft")]
    prompts = ("", "sharp fur", "soft fur", "sharp", "not sharp", "very sharp", *nouns)
    figures = {f"sharpness {prompt}": float(sharpness(said(prompt)[None])) for prompt in prompts}
    if has_flat_noise(pair.hr):
        for prompt in ("", "grainy photo", "clean photo"):
            figures[f"grain {prompt}"] = float(flat_noise(said(prompt)[None], pair.hr[None]))
    hr = luma_plane(pair.hr)
    figures["grid sharp fur"] = grid_excess(luma_plane(said("sharp fur")), hr, SCALE)
    figures |= _kind_of_change(luma_plane(said("")), luma_plane(said("sharp")), hr, figures)
    for name, sr in {
        "with words": enlarge(pair.lr, prompt="", steps=1),
        "without words": enlarge.without_words(pair.lr, steps=1),
    }.items():
        figures[f"psnr {name}"] = float(psnr(sr[None], pair.hr[None], SCALE))
    return figures


def promises(sets: Sets) -> list[Promise]:
    """Judge all sets together, but for Set5."""
    judged = {where: images for where, images in sets.items() if where not in LEFT_OUT}
    images = [figures for own in judged.values() for figures in own]
    where = " + ".join(judged)
    found = [
        _order("sharpness", ("sharp fur", "", "soft fur"), images, where),
        _order("grain", ("grainy photo", "", "clean photo"), images, where),
    ]
    orders = {noun: _share_in_order("sharpness", (f"sharp {noun}", "", f"soft {noun}"), images) for noun in DRAWN}
    worst = min(orders, key=lambda noun: orders[noun])
    changes = {noun: [_change(figures, noun) for figures in images] for noun in DRAWN}
    most = max(DRAWN, key=lambda noun: max(changes[noun], default=0))
    unchanged = share(max(change) < NOUN_CHANGE for change in zip(*changes.values(), strict=True))
    bicubic_like = {sigma: mean(images, f"towards hr unsharp {sigma:g}") for sigma in SIGMAS}
    nearest = max(SIGMAS, key=lambda sigma: bicubic_like[sigma])
    lost = mean(images, "psnr without words") - mean(images, "psnr with words")
    return [
        *found,
        at_least(f"the same with ten nouns for fur ({', '.join(DRAWN)}): least share of images", where, orders[worst], SHARE, remark=f"({worst})"),
        at_least("sharpness changes by less than 2 % with any of the nouns: share of images", where, unchanged, SHARE, remark=f"(most: {max(changes[most], default=0):.4f}, {most})"),
        at_least("'not sharp' is no sharper than no prompt: share of images", where, _share_no_sharper("not sharp", "", images), SHARE),
        at_least("'very sharp' is no softer than 'sharp': share of images", where, _share_no_sharper("sharp", "very sharp", images), SHARE),
        at_most("'sharp fur': power at 4 px and its harmonics over HR's", where, geometric_mean(images, "grid sharp fur"), MOST_GRID),
        at_most("one-step PSNR-Y that the words cost an empty prompt, dB", where, lost, PSNR_LOSS),
        Promise(name="correlation of the change by 'sharp' with HR less no prompt", where=where, measured=mean(images, "towards hr sharp")),
        Promise(name="the same of the best unsharp mask of equal sharpness", where=where, measured=bicubic_like[nearest], remark=f"(sigma {nearest:g})"),
        Promise(name="share of the change by 'sharp' that the best 9x9 linear filter explains", where=where, measured=mean(images, "linear share")),
    ]  # fmt: skip


def _kind_of_change(plain: Tensor, sharp: Tensor, hr: Tensor, figures: Figures) -> dict[str, float]:
    """Compare the change of the luma (H, W) by "sharp" with filters of the picture without a prompt."""
    change, wanted = sharp - plain, hr - plain
    found = {"towards hr sharp": correlation(change, wanted), "linear share": linear_filter_share(plain, change)}
    for sigma in SIGMAS:
        mask = unsharp_mask_of_sharpness(plain, sigma, figures["sharpness sharp"])
        found[f"towards hr unsharp {sigma:g}"] = correlation(mask - plain, wanted)
    return found


def _order(figure: str, prompts: tuple[str, str, str], images: Sequence[Figures], where: str) -> Promise:
    """Judge on how many images the prompts follow each other by 10 %, the most first."""
    means = [mean(images, f"{figure} {prompt}") for prompt in prompts]
    said = " > ".join(f"'{prompt}'" for prompt in prompts)
    count = len(values(images, f"{figure} "))
    return at_least(
        f"{figure}: {said}, each by 10 %: share of images", where, _share_in_order(figure, prompts, images), SHARE,
        remark=f"({count} images; means {', '.join(f'{m:.2f}' for m in means)})",
    )  # fmt: skip


def _share_in_order(figure: str, prompts: tuple[str, str, str], images: Sequence[Figures]) -> float:
    most, middle, least = (values(images, f"{figure} {prompt}") for prompt in prompts)
    return share(a >= LEAST * b and b >= LEAST * c for a, b, c in zip(most, middle, least, strict=True))


def _share_no_sharper(less: str, more: str, images: Sequence[Figures]) -> float:
    return share(figures[f"sharpness {less}"] <= figures[f"sharpness {more}"] for figures in images)


def _change(figures: Figures, noun: str) -> float:
    """Return by which part of it the sharpness differs from that of "sharp fur"."""
    return abs(figures[f"sharpness sharp {noun}"] / figures["sharpness sharp fur"] - 1)
