"""The measurements of `bench_pipeline` for StableSR, see `bench_stable_diffusion`."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS
from resdiff.eval.bench_cases import Measurement
from resdiff.eval.bench_stable_diffusion import (
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
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.spade import SpadeModulation
from resdiff.models.time_aware_encoder import TimeAwareEncoder
from resdiff.pipelines.autoencoding import Fusion, decode, encode
from resdiff.pipelines.stablesr import NEGATIVE_GUIDANCE, StableSRPipeline
from resdiff.pipelines.stablesr_networks import ModulatedUNet
from resdiff.schedulers.spaced import SpacedDDPMScheduler
from resdiff.text.tokenizer import clip_tokenizer
from resdiff.tiling import Box

Work = Literal["unet", "step", "encode", "decode", "call"]

STEPS, FIDELITY = 200, 0.5  # as published
FEW_STEPS = 4  # on a large canvas, whose peak does not depend on how many there are
TARGET_MS = 2500  # H200, `STEPS` at SIDE


@dataclass(frozen=True)
class Case:
    """One measurement."""

    work: Work  # "unet": the base's alone; "step": time-aware encoder and modulated UNet; "encode": the LR image by VAE
    side: int  # of the result, px
    dtype: str  # float32 or bfloat16
    device: str = "cpu"
    way: Way = "plain"
    steps: int = 1  # of a call
    guidance_scale: float = 1.0  # of steps and calls, as published; 1 is none
    fidelity: float = FIDELITY  # of decoding and calls; 0: the base's own decoder
    vae_tiling: Literal["auto", "off", "bands"] = "auto"

    @property
    def label(self) -> str:
        """How the case is called in the table."""
        guidance = "with guidance" if self.guidance_scale > 1 else "without guidance"
        text = {
            "unet": f"one step of the UNet alone {guidance}",
            "step": f"one step {guidance}",
            "encode": "LR image encoded",
            "decode": f"decode{' in bands' * (self.vae_tiling == 'bands')}, fidelity {self.fidelity:g}",
            "call": f"call of {self.steps} step{'s' * (self.steps > 1)}, fidelity {self.fidelity:g}",
        }[self.work]
        text += f", {self.side} px, {self.device} {self.dtype}"
        return text if self.way == "plain" else f"{text}, {self.way}"


# --- what is measured --------------------------------------------------------------------------------------------


def groups(best: str, cuda: bool, compiler: bool) -> dict[str, list[Case]]:
    """Return what is measured on a machine whose best CPU dtype is `best`: title -> cases, the one to compare with first."""

    def both(*cases: Case) -> list[Case]:
        return [replace(case, dtype=dtype) for dtype in ("float32", other_dtype(best)) for case in cases]

    decoded = plain_and_fused(Case("decode", SIDE, best, vae_tiling="off"))
    large = plain_and_fused(Case("decode", 2 * SIDE, best, vae_tiling="bands"))
    found = {
        "One step": both(*steps(Case("unet", SIDE, best))),
        "One decode": both(*decoded),
        "Decode of a larger canvas": [*large, replace(large[1], vae_tiling="off")],
        "The LR image": both(Case("encode", SIDE, best)),
        "A whole call": both(Case("call", SIDE, best)),
    }
    return found | gpu_groups(compiler) if cuda else found


def gpu_groups(compiler: bool) -> dict[str, list[Case]]:
    """Return the parts on a GPU, the calls with the published number of steps, and those of a large canvas."""
    ways: list[Way] = ["compiled", "graphs", "compiled, graphs"] if compiler else ["graphs"]
    call = Case("call", SIDE, "bfloat16", "cuda", steps=STEPS)
    return {
        "GPU, one step": steps(Case("unet", SIDE, "bfloat16", "cuda")),
        "GPU, decode in bands": plain_and_fused(Case("decode", LARGE, "bfloat16", "cuda", vae_tiling="bands")),
        "GPU, all steps": [call, *(replace(call, way=way) for way in ways)],
        "GPU, in tiles": plain_and_fused(replace(call, side=LARGE, steps=FEW_STEPS)),
    }


def steps(unet: Case) -> list[Case]:
    """Return what shows the cost of the adapter and of guidance, beside the UNet alone."""
    step = replace(unet, work="step")
    return [unet, step, replace(step, guidance_scale=NEGATIVE_GUIDANCE)]


def plain_and_fused(case: Case) -> list[Case]:
    """Return what shows the cost of controllable feature wrapping."""
    return [replace(case, fidelity=0.0), replace(case, fidelity=FIDELITY)]


def left_out(cuda: bool, compiler: bool) -> list[str]:
    """Return a line for each kind of case that this machine cannot run."""
    return left_out_without(cuda, compiler, STEPS)


def target(case: Case, result: Measurement) -> str:
    """Return what is expected of the case on an H200 and whether it is met; empty where nothing is."""
    if case.device != "cuda" or case.work != "call":
        return ""
    if case.side == LARGE:
        return memory_target(result)
    if case.side != SIDE or case.steps != STEPS or case.way == "plain":
        return ""
    return time_target(result, TARGET_MS)


# --- networks of full size ---------------------------------------------------------------------------------------


def full_size(name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a published architecture by the name of its component, with random weights."""
    return with_random_weights(lambda: architecture(name), dtype, device)


def architecture(name: str) -> Any:
    """Return a network of StableSR's, on the device and with the weights that its constructor chooses."""
    match name:
        case "unet":
            return UNet2DConditionModel(**SD2_CONFIGS["unet"])
        case "structure_encoder":
            return TimeAwareEncoder()
        case "modulation":
            return SpadeModulation()
        case "cfw":
            return ControllableFeatureWrapping()
    return base_network(name)


# --- work --------------------------------------------------------------------------------------------------------


def _unet(case: Case, network: Network, device: torch.device) -> Run:
    """One evaluation of the base's UNet, which sees nothing of the LR image."""
    unet = network("unet")

    def alone(x: Tensor, t: Tensor, text: Tensor, boxes: list[Box]) -> Tensor:
        return unet(x.to(unet.dtype), t, text.to(unet.dtype), return_dict=False)[0]

    return step_of(alone, unet.config.cross_attention_dim, case.guidance_scale, case.side, device)


def _step(case: Case, network: Network, device: torch.device) -> Run:
    """One evaluation of time-aware encoder and modulated UNet; texts are given."""
    unet, modulation = network("unet"), network("modulation")
    z = torch.randn(latent_shape(case.side), device=device)
    networks = ModulatedUNet(unet, network("structure_encoder"), z)
    evaluate = step_of(networks, unet.config.cross_attention_dim, case.guidance_scale, case.side, device)

    def run() -> Tensor:
        with modulation.attached(unet):
            return evaluate()

    return run


def _encode(case: Case, network: Network, device: torch.device) -> Run:
    """The LR image, enlarged, through the autoencoder."""
    vae = network("vae")
    image = torch.rand(1, 3, case.side, case.side, device=device) * 2 - 1
    noise = torch.randn(latent_shape(case.side), device=device)
    return lambda: encode(vae, image, noise, case.vae_tiling)


def _decode(case: Case, network: Network, device: torch.device) -> Run:
    """Latents through the decoder; above fidelity 0 also the LR image through the encoder, for its features."""
    vae, fusion = network("vae"), None
    latents = torch.randn(latent_shape(case.side), device=device) * vae.config.scaling_factor
    if case.fidelity:
        image = torch.rand(1, 3, case.side, case.side, device=device) * 2 - 1
        fusion = Fusion(network("cfw"), image, torch.tensor([case.fidelity], device=device))
    return lambda: decode(vae, latents, case.vae_tiling, fusion)


def _call(case: Case, network: Network, device: torch.device) -> Run:
    """All of the pipeline: text encoder, LR image, steps, decoding, colour."""
    return call_of(
        pipeline(case, network),
        case.way,
        case.side,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance_scale,
        fidelity=case.fidelity,
        vae_tiling=case.vae_tiling,
    )


def pipeline(case: Case, network: Network) -> StableSRPipeline:
    """Return the pipeline of a call, as it comes from its constructor."""
    names = ["vae", "text_encoder", "unet", "structure_encoder", "modulation", *["cfw"] * (case.fidelity > 0)]
    return StableSRPipeline(
        **{name: network(name) for name in names},
        tokenizer=clip_tokenizer(),
        scheduler=SpacedDDPMScheduler(),
        process_size=min(case.side, SIDE),  # also the tile's: a large canvas is cut
    )


PREPARE = {"unet": _unet, "step": _step, "encode": _encode, "decode": _decode, "call": _call}


def measure(case: Case, repeats: int, build: Build = full_size) -> Measurement:
    """Run one case in this process, see `measured`; build: makes its networks."""
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)

    def prepare() -> Run:
        return PREPARE[case.work](case, lambda name: build(name, dtype, device), device)

    return measured(prepare, case.label, device, repeats)
