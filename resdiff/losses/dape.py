"""DAPE's two losses: a tagger that sees a degraded photo is to say what the same tagger says of the clean one.

SeeSR (2311.16518), section 3.1; cswry/SeeSR basicsr/models/dape_model.py. Both weigh 1 in the sum. The student is RAM
with low-rank updates on the degraded image, the teacher RAM as published on the original; no gradient goes to it.
"""

import torch.nn.functional as F
from torch import Tensor


def dape_feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared error between image embeddings of the same shape, (B, 1 + N, D): a float32 scalar."""
    return F.mse_loss(student.float(), teacher.detach().float())


def dape_logits_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the cross entropy of tags, -(p log q + (1 - p) log(1 - q)), the mean over (B, classes): a float32 scalar.

    Both arguments are logits; p = sigmoid(teacher), q = sigmoid(student). Formed from the logits: the reference takes
    logarithms of q, which are infinite where a float32 sigmoid is 0 or 1.
    """
    return F.binary_cross_entropy_with_logits(student.float(), teacher.detach().float().sigmoid())
