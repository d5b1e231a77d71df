"""`PromptEncoder`: from the words of a prompt to what they say of a photo.

The answer is the expectation of a few measured attributes (`resdiff.data.attributes`), in standard deviations from what
is usual for such an image, over the photos of which such a prompt would be true. A recurrence reads the tokens in their
order; each changes the state by the product of two linear maps, one of the token and one of the state (an Elman network
with the multiplicative integration of 1606.06630), so that "not" and "very" act on what follows them:

    h <- h + tanh(U (V e * tanh(Q [h, 1]))),    h = 0 at first,    attributes = shrink(3 tanh(W h / 3))

Nothing stands in a token's way that has a bias: one whose embedding e is zero changes no bit, and where no token is
open, the attributes are exactly zero. So they are where all that is said is less than a tenth of a standard deviation
(shrink takes that off, towards zero). All embeddings start at zero; the training opens those words that pay.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from resdiff.models.clip_tokenizer import PADDING, VOCABULARY_SIZE

BOUND = 3.0  # standard deviations
WHISPER = 0.1  # the same; less than this is not said: "very" alone is silent, and "sharp" on contrast


class Usual(NamedTuple):
    """Attributes of photos that look alike, (B, A) each: their mean, and the standard deviation from it."""

    mean: Tensor
    std: Tensor

    def standardize(self, measured: Tensor) -> Tensor:
        """Return measured attributes (B, A) in standard deviations; NaN stays."""
        return (measured - self.mean) / self.std


class PromptEncoder(ModelMixin, ConfigMixin):
    """Reads the tokens of `tokenize`; see the module docstring. Any dtype of storage, arithmetic in float32."""

    @register_to_config
    def __init__(
        self,
        vocab_size: int = VOCABULARY_SIZE,
        dim: int = 16,  # of a token's embedding
        width: int = 32,  # of the state
        attributes: tuple[str, ...] = ("detail", "grain", "contrast", "texture"),
        mean: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),  # of each attribute over the training photos, traits being 0
        std: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),  # its standard deviation there, from the usual
        slope: tuple[tuple[float, ...], ...] = (),  # of each mean, in each trait of the prediction; (): none
        log_std_slope: tuple[tuple[float, ...], ...] = (),  # the same, of the logarithm of each std
    ):
        super().__init__()
        if not len(attributes) == len(mean) == len(std) or min(std, default=0) <= 0:
            raise ValueError(f"attributes={attributes}, mean={mean} and std={std} must be as many, and std positive")
        for name, rows in (("slope", slope), ("log_std_slope", log_std_slope)):
            if rows and len(rows) != len(attributes):
                raise ValueError(f"{name}={rows} must have a row for each of {attributes}")
        self.table = nn.Embedding(vocab_size, dim)
        self.token_in = nn.Linear(dim, width, bias=False)  # V
        self.state_in = nn.Linear(width, width)  # Q
        self.mix = nn.Linear(width, width, bias=False)  # U
        self.readout = nn.Linear(width, len(attributes), bias=False)  # W
        nn.init.zeros_(self.table.weight)
        nn.init.normal_(self.token_in.weight, std=1 / math.sqrt(dim))
        nn.init.ones_(self.state_in.bias)  # tokens begin as a bag of words

    def open_tokens(self) -> Tensor:
        """Return which tokens change anything: (vocab_size,) bool."""
        return (self.table.weight != 0).any(dim=1)

    def usual(self, traits: Tensor) -> Usual:
        """Return what photos usually have of which predictions have these `traits` (B, T)."""
        config = self.config
        mean, std = (traits.new_tensor(row).expand(len(traits), -1) for row in (config.mean, config.std))
        if config.slope:
            mean = mean + traits @ traits.new_tensor(config.slope).T
        if config.log_std_slope:
            std = std * (traits @ traits.new_tensor(config.log_std_slope).T).exp()
        return Usual(mean, std)

    def forward(self, ids: Tensor) -> Tensor:
        """Read prompts.

        ids: (B, L) int64 of `tokenize`, 0 is padding. Returns (B, A) float32 in (-3, 3), zeros where no token is open.
        Raises ValueError for ids of another shape.
        """
        if ids.ndim != 2:
            raise ValueError(f"ids are of shape {tuple(ids.shape)}; give (B, L), as tokenize returns them")
        if not self.training:
            ids = self._open_first(ids)
        embeddings = F.embedding(ids, self.table.weight).float() * (ids != PADDING)[..., None]  # (B, L, dim)
        token_in, state_in, mix, readout = (
            layer.weight.float() for layer in (self.token_in, self.state_in, self.mix, self.readout)
        )
        bias = self.state_in.bias.float()
        h = embeddings.new_zeros(len(ids), len(mix))
        with torch.autocast(h.device.type, enabled=False):  # a training's; what is said does not depend on it
            for e in embeddings.unbind(1):
                gate = torch.tanh(F.linear(h, state_in, bias))
                h = h + torch.tanh(F.linear(F.linear(e, token_in) * gate, mix))
            said = BOUND * torch.tanh(F.linear(h, readout) / BOUND)
        return F.softshrink(said, WHISPER) + 0.0  # no zero is negative

    def _open_first(self, ids: Tensor) -> Tensor:
        """Move open tokens to the front, in their order, and cut off what no prompt needs: the rest says nothing."""
        is_open = self.open_tokens()[ids] & (ids != PADDING)
        order = (~is_open).long().argsort(dim=1, stable=True)
        kept = torch.where(is_open, ids, PADDING).gather(1, order)
        return kept[:, : int(is_open.sum(1).max()) if ids.numel() else 0]
