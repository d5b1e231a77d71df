"""What distilling at full size costs, counted and not measured, for `eval/bench_training.py`.

FLOPs and memory of the recipes are how often a step evaluates which network (`evaluations`), times what each evaluation
costs on the meta device (`count_blocks`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from resdiff.eval.distillation_cost import FULL_RECIPES, distillation_arguments, vgg_layers
from resdiff.eval.training_cost import V1, Case, Settings, training_arguments
from resdiff.metrics.lpips import LPIPS
from resdiff.metrics.trunks import VGG
from resdiff.models.norm import GroupNorm32
from resdiff.models.projected_discriminator import Heads
from resdiff.models.vq import VQAutoencoder
from resdiff.train import resshift
from resdiff.train.critic import PROJECTION_DIM
from resdiff.train.distill_add import FIRST_STEP_SHARE
from resdiff.train.distill_resshift import Arguments
from resdiff.train.recipe import build_unet, construct

# ---- How often a step evaluates which network

Block = Literal[
    "encode",  # VQ encoder
    "decode",  # VQ decoder
    "decode_back",  # ... and backward, to the latents
    "unet",  # UNet
    "unet_back",  # ... frozen, and backward to x_t
    "unet_train",  # ... and backward to its weights
    "look",  # encoder half of the UNet
    "look_back",  # ... frozen, and backward to x_t
    "judge_back",  # the critic's heads, frozen, and backward to the features
    "judge_train",  # ... and backward to their weights
    "judge_deep_back",  # the head on the deepest features alone
    "judge_deep_train",
    "lpips",  # of two images, and backward
]
Evaluations = dict[Block, float]  # on one image
TRAINING: Evaluations = {"encode": 2, "unet_train": 1}  # by train/resshift.py: HR and enlarged LR; the loss


@dataclass(frozen=True)
class Step:
    """What a step evaluates on each image of its batch."""

    student: Evaluations  # in the update of the student
    opponents: Evaluations = field(default_factory=dict)  # in an update of fake and critic
    updates: int = 0  # of these, each on images of its own (rsd) or on those of the student (add)


def evaluations(args: Arguments, timesteps: int) -> Step:
    """Return what a step of a latent recipe evaluates, train/distill_*.py, for a teacher of so many timesteps.

    The critic of add is taken to look through the teacher, and not to be penalised for its gradient.
    """
    steps, image = args.num_inference_steps, int(args.loss_in_image_space)
    if args.method == "sinsr":
        inverse, gt = int(args.inverse_weight > 0), int(args.gt_weight > 0)
        student: Evaluations = {
            "encode": 2,  # HR, enlarged LR
            "unet": timesteps + gt,  # the teacher's chain; from the photo to the noise
            "unet_train": steps + inverse + gt * steps,  # mse, mse_xT, mse_gt
            "decode": image * steps,  # where the teacher arrives
            "decode_back": image * (steps + gt),  # where the student does, by mse and mse_gt
        }
        return Step(student)
    weight = args.adversarial_weight
    judged = int(weight > 0 if weight is not None else args.method == "add")
    if args.method == "rsd":
        lpips, detached = int(args.lpips_weight > 0), int(args.detached)
        student = {
            "encode": 2,
            "unet_train": 1,
            "unet": 2 * detached,  # teacher and fake on what it made
            "unet_back": 2 * (1 - detached),
            "decode_back": lpips,
            "lpips": lpips,
            "look": judged,  # the condition
            "look_back": judged,
            "judge_deep_back": judged,
        }
        others: Evaluations = {
            "encode": 2,
            "unet": 1,  # what the student makes, for fake and critic alike
            "unet_train": 1,  # the fake
            "look": 3 * judged,  # the condition, the photo and what was made of it
            "judge_deep_train": 2 * judged,
        }
        return Step(student, others, args.fake_updates)
    before = (1 - FIRST_STEP_SHARE) * steps / 2 if steps > 1 else 0.0  # steps ahead of the trained one, on average
    student = {
        "encode": 3,  # HR, enlarged LR, and what HR reduces to
        "unet": before + args.teacher_draws,
        "unet_train": 1,
        "decode": (before if args.psr_weight else 0) + image * args.teacher_draws,  # what the student sees; the targets
        "decode_back": image,
        "look": judged,
        "look_back": judged,
        "judge_back": judged,
    }
    critic: Evaluations = {"look": 3, "judge_train": 2}
    return Step(student, critic, 1)


# ---- What an evaluation costs

IN_HALF = {torch.conv1d, torch.conv2d, F.linear, F.scaled_dot_product_attention}
IN_FLOAT = {F.group_norm, torch.linalg.vector_norm}


class Autocast(TorchFunctionMode):
    """What autocast on CUDA does with the functions that these networks call; on the meta device there is none."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = torch.bfloat16 if func in IN_HALF else torch.float32 if func in IN_FLOAT else None
        if dtype is not None:
            args = tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, args)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Cost:
    """Of one evaluation."""

    flops: int  # a multiply-add is two
    saved: int  # bytes that it keeps for the backward pass, without the network's own


def counted(network: nn.Module, call: Callable[..., Tensor | Sequence[Tensor]], *inputs: Any) -> Cost:
    """Count a call of a network on the meta device, with the backward pass if anything of it has a gradient."""
    own = {x.untyped_storage()._cdata for x in (*network.parameters(), *network.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no two of them have one address

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return x

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            results = call(*inputs)
        total = torch.stack([x.sum() for x in ([results] if isinstance(results, Tensor) else results)]).sum()
        if total.requires_grad:
            total.backward()
    return Cost(counter.get_total_flops(), sum(storage.nbytes() for storage in saved.values()))


@dataclass(frozen=True)
class Counts:
    """What a step is made of."""

    blocks: dict[Block, Cost]
    unet: int  # parameters
    heads: int
    deep_head: int
    vae: int

    def flops(self, evaluated: Evaluations) -> float:
        """Return the FLOPs of evaluations."""
        return sum(times * self.blocks[name].flops for name, times in evaluated.items())

    def saved(self, evaluated: Evaluations) -> float:
        """Return the bytes that they keep, one backward pass being for all of them."""
        return sum(times * self.blocks[name].saved for name, times in evaluated.items())

    def held(self, method: str) -> int:
        """Return the bytes of weights, gradients and what optimizers and averages keep of them, whatever the batch.

        With the critic that the recipes have.
        """
        opponents = {"sinsr": 0, "rsd": self.unet + self.deep_head, "add": self.heads}[method]
        numbers = (1 + 1 + 2 + 1) * self.unet + (1 + 1 + 2) * opponents  # weight, gradient, moments, average
        return 4 * (numbers + self.unet) + 2 * self.vae  # the teacher; the autoencoder is in half precision


def count_blocks(args: resshift.Arguments) -> Counts:
    """Count the networks of a latent recipe on one image, in bfloat16 as under autocast; nothing is computed.

    The choice of the nearest codes, some thousandths, is left out.
    """
    height, width = args.crop
    with torch.device("meta"), Autocast():
        vae, unet = construct(VQAutoencoder, args.vae or {}, "vae"), build_unet(args.unet)
        dims = unet.encoder_dims
        heads, deep_head = (Heads(seen, sum(seen), PROJECTION_DIM) for seen in (dims, dims[-1:]))
        lpips = LPIPS(vgg_layers("meta"), VGG, [torch.empty(1, c, 1, 1) for c in VGG.channels])
        parameters = [sum(p.numel() for p in network.parameters()) for network in (unet, heads, deep_head, vae)]
        for network in (vae, lpips, unet):
            network.requires_grad_(network is unet).bfloat16()
        for module in unet.modules():
            if isinstance(module, GroupNorm32):
                module.float()  # its weights are not cast

        image, t = torch.empty(1, 3, height, width), torch.zeros(1, dtype=torch.int64)
        x, lq = vae.encode(image).float(), torch.empty(1, 3, height // args.scale, width // args.scale)
        with torch.no_grad():
            features = [y.float().flatten(2) for y in unet.encode(x, t, lq)]
            means = [y.mean(dim=2) for y in features]
        of_image, of_x, *of_features = (y.clone().requires_grad_() for y in (image, x, *features))
        decode = partial(vae.decode, force_not_quantize=True)
        condition, deep = torch.cat(means, dim=1), means[-1]
        blocks: dict[Block, Cost] = {
            "unet_train": counted(unet, unet, x, t, lq),
            "judge_train": counted(heads, heads, features, condition),
            "judge_deep_train": counted(deep_head, deep_head, features[-1:], deep),
        }
        for network in (unet, heads, deep_head):
            network.requires_grad_(False)
        blocks |= {
            "encode": counted(vae, vae.encode, image),
            "decode": counted(vae, decode, x),
            "decode_back": counted(vae, decode, of_x),
            "unet": counted(unet, unet, x, t, lq),
            "unet_back": counted(unet, unet, of_x, t, lq),
            "look": counted(unet, unet.encode, x, t, lq),
            "look_back": counted(unet, unet.encode, of_x, t, lq),
            "judge_back": counted(heads, heads, of_features, condition),
            "judge_deep_back": counted(deep_head, deep_head, of_features[-1:], deep),
            "lpips": counted(lpips, lpips.differences, of_image, image),
        }
    return Counts(blocks, *parameters)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A full-size recipe, counted."""

    recipe: str
    tflop: float  # of a step, for each image of the student's batch
    ratio: float  # of that to training
    held: int  # bytes, whatever the batch
    saved: float  # bytes for the backward pass, for each image of a micro-batch


def count_recipes(settings: Settings) -> list[Counted]:
    """Count the full-size recipes."""
    training = training_arguments(Case(recipe=V1), settings, Path("unused"))
    counts = count_blocks(training)

    def count(recipe: str) -> Counted:
        args = distillation_arguments(recipe, settings, Path("unused"))
        step = evaluations(args, training.scheduler["num_train_timesteps"])
        flops = counts.flops(step.student) + step.updates * counts.flops(step.opponents)
        return Counted(
            recipe=recipe,
            tflop=flops / 1e12,
            ratio=flops / counts.flops(TRAINING),
            held=counts.held(args.method),
            saved=max(counts.saved(step.student), counts.saved(step.opponents)),
        )

    return [count(recipe) for recipe in FULL_RECIPES]
