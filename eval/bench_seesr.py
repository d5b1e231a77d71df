"""The measurements of `bench_pipeline` for SeeSR and AddSR, see `bench_stable_diffusion`."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS
from resdiff.eval.bench_cases import Measurement
from resdiff.eval.bench_stable_diffusion import (
    FACTOR,
    LARGE,
    SIDE,
    Build,
    Network,
    Run,
    Way,
    base_network,
    call_of,
    latent_shape,
    left_out_without,
    measured,
    memory_target,
    other_dtype,
    step_of,
    time_target,
    with_random_weights,
)
from resdiff.models.ram import RAM
from resdiff.models.seesr import IMAGE_DIM, SeeSRControlNet, SeeSRUNet
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.autoencoding import VaeTiles, VaeTiling, decode, encode
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.seesr_networks import ControlledUNet
from resdiff.pipelines.tiny import sd2_scheduler
from resdiff.text.tokenizer import clip_tokenizer

FamilyName = Literal["seesr", "addsr"]
Work = Literal["step", "encode", "decode", "tagger", "call"]

PIPELINES: dict[FamilyName, type[SeeSRPipeline]] = {"seesr": SeeSRPipeline, "addsr": AddSRPipeline}
GUIDANCE: dict[FamilyName, float] = {"seesr": 5.5, "addsr": 1.0}  # as published; 1 is none
IMAGE_TOKENS = 145
TAGS = 4585

STEPS: dict[FamilyName, int] = {"seesr": 50, "addsr": 4}  # as published
TARGET_MS = {("seesr", 0.0): 900, ("addsr", 0.5): 100, ("addsr", 0.0): 60}  # H200, `STEPS` at SIDE, by psr_weight


@dataclass(frozen=True)
class Case:
    """One measurement."""

    family: FamilyName
    work: Work  # "step": ControlNet and UNet; "encode": the LR image by VAE and ControlNet; "call": all of the pipeline
    side: int  # of the result, px; of the tagger: of its input
    dtype: str  # float32 or bfloat16
    device: str = "cpu"
    way: Way = "plain"
    steps: int = 1  # of a call
    psr_weight: float = 0.0  # of AddSR's calls
    vae_tiling: Literal["auto", "off", "bands", "published"] = "auto"
    images: int = 1  # encoded at once

    @property
    def label(self) -> str:
        """How the case is called in the table."""
        text = {
            "step": f"one step {'with guidance' if GUIDANCE[self.family] > 1 else 'without guidance'}",
            "encode": "LR image encoded once" if self.images == 1 else f"LR image encoded {self.images} times",
            "decode": "decode in bands" if self.vae_tiling == "bands" else "decode",
            "tagger": "tokens and tags",
            "call": f"call of {self.steps} step{'s' * (self.steps > 1)}",
        }[self.work]
        if self.work == "call" and self.family == "addsr":
            text += f", psr_weight {self.psr_weight:g}"
        if self.work == "call" and self.vae_tiling != "auto":
            text += f", VAE {self.vae_tiling}"
        text += f", {self.side} px, {self.device} {self.dtype}"
        return text if self.way == "plain" else f"{text}, {self.way}"


# --- what is measured --------------------------------------------------------------------------------------------


def groups(family: FamilyName, best: str, cuda: bool, compiler: bool) -> dict[str, list[Case]]:
    """Return what is measured of a family on a machine whose best CPU dtype is `best`: title -> cases."""
    other = other_dtype(best)
    step = Case(family, "step", SIDE, "float32")
    call = Case(family, "call", SIDE, best)
    found = {"One step": [step, replace(step, dtype=other)]}
    if family == "seesr":
        whole = Case(family, "decode", SIDE, "float32", vae_tiling="off")
        bands = replace(whole, vae_tiling="bands")
        found["One decode"] = [whole, bands, replace(whole, dtype=other), replace(bands, dtype=other)]
        large = [replace(case, dtype=best, side=2 * SIDE) for case in (whole, bands)]
        found["Decode of larger canvases"] = [*large, replace(large[1], side=LARGE)]
        lr = Case(family, "encode", SIDE, best)
        found["The LR image once, or for both branches of guidance"] = [lr, replace(lr, images=2)]
        tagger = Case(family, "tagger", 384, "float32")
        found["The tagger"] = [tagger, replace(tagger, dtype=other)]
        found["A whole call"] = [replace(call, dtype="float32"), replace(call, dtype=other)]
    else:
        two = replace(call, steps=2)
        found["Refinement between two steps"] = [two, replace(two, psr_weight=0.5)]
    if cuda:
        found |= gpu_groups(family, compiler)
    return found


def gpu_groups(family: FamilyName, compiler: bool) -> dict[str, list[Case]]:
    """Return the calls with the published number of steps, and those of a large canvas."""
    ways: list[Way] = ["compiled", "graphs"] if compiler else ["graphs"]
    call = Case(family, "call", SIDE, "bfloat16", "cuda", steps=STEPS[family])
    large = replace(call, side=LARGE, vae_tiling="bands")
    found = {}
    for psr_weight in (0.0,) if family == "seesr" else (0.5, 0.0):
        plain = replace(call, psr_weight=psr_weight)
        title = "GPU, all steps" if family == "seesr" else f"GPU, all steps, psr_weight {psr_weight:g}"
        found[title] = [plain, *(replace(plain, way=way) for way in ways)]
    found["GPU, in tiles"] = [large, replace(large, vae_tiling="published")]
    return found


def left_out(family: FamilyName, cuda: bool, compiler: bool) -> list[str]:
    """Return a line for each kind of case that this machine cannot run, or that is measured elsewhere."""
    elsewhere = ["decoding, encoding, the tagger: they are SeeSR's, see --family seesr"] if family == "addsr" else []
    return elsewhere + left_out_without(cuda, compiler, STEPS[family])


def target(case: Case, result: Measurement) -> str:
    """Return what is expected of the case on an H200 and whether it is met; empty where nothing is."""
    if case.device != "cuda" or case.work != "call" or case.steps != STEPS[case.family]:
        return ""
    if case.side == LARGE:
        return memory_target(result)
    milliseconds = TARGET_MS.get((case.family, case.psr_weight))
    if case.side != SIDE or case.way == "plain" or milliseconds is None:
        return ""
    return time_target(result, milliseconds)


# --- networks of full size ---------------------------------------------------------------------------------------


def full_size(name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a published architecture by the name of its component, with random weights."""
    return with_random_weights(lambda: architecture(name), dtype, device)


def architecture(name: str) -> Any:
    """Return a network of SeeSR's, on the device and with the weights that its constructor chooses."""
    unet = SD2_CONFIGS["unet"] | {"use_image_cross_attention": True}
    match name:
        case "unet":
            return SeeSRUNet(**unet)
        case "controlnet":
            own = {key: value for key, value in unet.items() if key not in ("sample_size", "up_block_types")}
            return SeeSRControlNet(**own)
        case "tagger":
            names = [f"tag {i}" for i in range(TAGS)]
            return RAM(tags=names, thresholds=[1.0] * TAGS)  # finds none: those of random weights are thousands
    return base_network(name)


# --- work --------------------------------------------------------------------------------------------------------


def _step(case: Case, network: Network, device: torch.device) -> Run:
    """One evaluation of ControlNet and UNet; texts and image tokens are given."""
    unet = network("unet")
    networks = ControlledUNet(
        unet=unet,
        controlnet=network("controlnet"),
        image=torch.rand(1, 3, case.side, case.side, device=device),
        factor=FACTOR,
        image_embeds=torch.randn(1, IMAGE_TOKENS, IMAGE_DIM, device=device),
    )
    return step_of(networks, unet.config.cross_attention_dim, GUIDANCE[case.family], case.side, device)


def _encode(case: Case, network: Network, device: torch.device) -> Run:
    """The LR image, enlarged, through the autoencoder and the ControlNet's embedding of its condition."""
    vae, controlnet = network("vae"), network("controlnet")
    image = torch.rand(case.images, 3, case.side, case.side, device=device)
    noise = torch.randn(latent_shape(case.side, case.images), device=device)

    def run() -> Tensor:
        embedded = controlnet.embed_condition(image.to(controlnet.dtype))
        return encode(vae, image * 2 - 1, noise, vae_tiling(case)).mean() + embedded.mean()

    return run


def _decode(case: Case, network: Network, device: torch.device) -> Run:
    vae = network("vae")
    latents = torch.randn(latent_shape(case.side), device=device) * vae.config.scaling_factor
    return lambda: decode(vae, latents, vae_tiling(case))


def _tagger(case: Case, network: Network, device: torch.device) -> Run:
    tagger = network("tagger")
    image = torch.randn(1, 3, case.side, case.side, device=device, dtype=tagger.dtype)
    return lambda: tagger(image).logits


def _call(case: Case, network: Network, device: torch.device) -> Run:
    """All of the pipeline: tagger, text encoder, LR image, steps, decoding, colour; as it comes from its constructor."""
    networks = {name: network(name) for name in ("vae", "text_encoder", "unet", "controlnet", "tagger")}
    pipe = PIPELINES[case.family](
        **networks, tokenizer=clip_tokenizer(), scheduler=sd2_scheduler(), process_size=case.side
    )
    own = {"psr_weight": case.psr_weight} if case.family == "addsr" else {}
    return call_of(
        pipe,
        case.way,
        case.side,
        num_inference_steps=case.steps,
        guidance_scale=GUIDANCE[case.family],
        vae_tiling=vae_tiling(case),
        **own,
    )


def vae_tiling(case: Case) -> VaeTiling:
    """Return a case's tiling of the autoencoder as the pipelines take it."""
    return VaeTiles() if case.vae_tiling == "published" else case.vae_tiling


PREPARE = {"step": _step, "encode": _encode, "decode": _decode, "tagger": _tagger, "call": _call}


def measure(case: Case, repeats: int, build: Build = full_size) -> Measurement:
    """Run one case in this process, see `measured`; build: makes its networks."""
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)

    def prepare() -> Run:
        return PREPARE[case.work](case, lambda name: build(name, dtype, device), device)

    return measured(prepare, case.label, device, repeats)
