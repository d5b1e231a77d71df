"""Losses of adversarial training, and the rule that keeps them in proportion to the pixel loss.

Hinge loss (Lim and Ye 2017, 1705.02894; SAGAN 1805.08318), feature matching on the discriminator's own layers
(pix2pixHD, 1711.11585).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of a discriminator for its logits of real and made images, of any shapes; a scalar."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Return the loss of the generator for the discriminator's logits of its images; a scalar."""
    return -fake.mean()


def feature_matching(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return the mean over layers of the L1 distance of features, each relative to the mean size of the real ones."""
    distances = [(f - r.detach()).abs().mean() / r.detach().abs().mean() for f, r in zip(fake, real, strict=True)]
    return torch.stack(distances).mean()


def scaled_gradient(loss: Tensor, image: Tensor, norm: float | Tensor) -> Tensor:
    """Return the gradient of `loss` by `image`, each sample's brought to the given norm; no gradient flows through it.

    With it a loss whose size means nothing, such as a discriminator's, takes part in fixed proportion to one that does:
    add (image * gradient).sum() to the latter. loss: a scalar; image: (B, ...), a leaf that requires a gradient.
    """
    (gradient,) = torch.autograd.grad(loss, image, retain_graph=True)  # another loss may share it
    size = gradient.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, *[1] * (image.ndim - 1))
    return gradient * (norm / size)
