"""Prompts of a training: what is said of each photo, and how far a result is from what was said."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.data.attributes import attributes, traits
from resdiff.data.phrases import draw_prompt
from resdiff.data.training_set import Batch, sample_generator
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.train.adversarial_loss import NOTHING, Made, Said
from resdiff.train.arguments import option

NEIGHBOURS = 7  # cells of the network's pixel shuffle, in each direction


@dataclass(frozen=True, kw_only=True)
class PromptingArguments:
    """How often something is said."""

    prompt_share: float = option(0.5, "of the photos that come with a prompt; the others have none")

    def check_prompts(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        if not 0 <= self.prompt_share <= 1:
            raise ValueError(f"--prompt_share {self.prompt_share} must lie in [0, 1]")


class Prompting:
    """Draws prompts that are true of the photos, and measures results by them."""

    def __init__(self, encoder: PromptEncoder | None, args: PromptingArguments, seed: int, device: torch.device):
        self.encoder, self.share, self.seed = encoder, args.prompt_share, seed
        if encoder is not None:
            encoder.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def say(self, batch: Batch, predicted: Tensor) -> Said:
        """Measure the photos, and say something true of a share of them; nothing without an encoder.

        predicted: the mean that the network predicts, (B, 3, H, W) in [-1, 1].
        """
        if self.encoder is None:
            return NOTHING
        mean = unit(predicted)
        measured, usual = attributes(batch.hr, mean), self.encoder.usual(traits(mean))
        texts = []
        for index, row in zip(batch.index, usual.standardize(measured).cpu(), strict=True):
            generator = sample_generator(self.seed, index, stream="prompt")
            said = float(torch.rand((), generator=generator)) < self.share
            texts.append(draw_prompt(row, generator) if said else "")
        return Said(self.encoder(tokenize(texts).to(predicted.device)), measured, usual)

    def distance(self, level: float, share: float, last: int, scale: int) -> Callable[[Made, Tensor], Tensor] | None:
        """Return the distance of an image's attributes from their target, a scalar; None without an encoder.

        The target is level * usual + share * (the photo's - usual), as far as L1 and the discriminator let images come
        on the average, so that some photos ask for more and some for less: from a target out of reach nothing is learned
        about words. At step `last`, which stays the mean, the level is 0, and images without a prompt are left alone.
        Its gradient asks for no grids and checkerboards, which are sharp and grainy at the least expense, and no detail.
        """
        if self.encoder is None:
            return None

        def distance(made: Made, image: Tensor) -> Tensor:
            prompt, measured, usual = made.said.prompt, made.said.measured, made.said.usual
            assert prompt is not None and measured is not None and usual is not None, (
                "`say` measured: there is an encoder"
            )
            target = share * (measured - usual.mean) + (0 if made.step == last else level) * usual.mean
            image = deaf_to_grids(deaf_to_checkerboards(image), scale)
            found = attributes((image + 1) / 2, unit(made.mean), flat=(made.hr + 1) / 2)
            error = (found - target).abs() / usual.std
            if made.step == last:
                error = error[prompt.any(dim=1)]
            error = error[torch.isfinite(error)]
            return error.mean() if len(error) else error.sum()

        return distance


def deaf_to_grids(image: Tensor, period: int) -> Tensor:
    """Return images (B, C, H, W) as they are; gradients that come back lose what repeats every `period` pixels.

    From each pixel's gradient goes the mean of those at its place in the 7x7 cells around it, less that of all places.
    H and W are multiples of the period.
    """
    cells = F.pixel_unshuffle(image, period).unflatten(1, (image.shape[1], -1))  # (B, C, places, rows, columns)
    near = F.avg_pool2d(cells.flatten(0, 1), NEIGHBOURS, 1, NEIGHBOURS // 2, count_include_pad=False).view_as(cells)
    seen = image - F.pixel_shuffle((near - near.mean(2, keepdim=True)).flatten(1, 2), period)
    return image.detach() + (seen - seen.detach())


def deaf_to_checkerboards(image: Tensor) -> Tensor:
    """Return images (B, C, H, W) as they are; gradients that come back lose what alternates, wherever its phase changes.

    They pass a filter of five taps in each direction, 1 - sin(w / 2)^4 at the frequency w; none of w = pi, 3/4 of w = pi/2.
    """
    taps = image.new_tensor([-1, 4, 10, 4, -1]) / 16
    smooth = F.pad(image, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    smooth = F.conv2d(F.conv2d(smooth, taps[None, None, None]), taps[None, None, :, None]).view_as(image)
    return image.detach() + (smooth - smooth.detach())


def unit(image: Tensor) -> Tensor:
    """Bring an image from [-1, 1], and a little beyond, to [0, 1]."""
    return ((image + 1) / 2).clamp(0, 1)
