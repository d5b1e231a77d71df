"""The measurements of `bench_pipeline` for SeeSR and AddSR: full-size networks of random weights, one case per process.

Cost does not depend on what the weights are, but on finite numbers: matrices are normal, norms begin as the identity,
the ControlNet's zero convolutions are not zero. A case builds only the networks that it runs, so that its peak is its own.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import Tensor, nn

from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS, text_encoder_from
from resdiff.eval.bench_cases import Measurement, timed
from resdiff.eval.harness.cost import reset_peak, resident_mib, synchronize
from resdiff.models.ram import RAM
from resdiff.models.seesr import IMAGE_DIM, SeeSRControlNet, SeeSRUNet
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.autoencoding import VaeTiles, VaeTiling, decode, encode
from resdiff.pipelines.denoising import Denoiser
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import sd2_scheduler
from resdiff.text.tokenizer import clip_tokenizer

FamilyName = Literal["seesr", "addsr"]
Work = Literal["step", "encode", "decode", "tagger", "call"]
Way = Literal["plain", "compiled", "graphs"]
Build = Callable[[str, torch.dtype, torch.device], Any]  # name of a network, dtype, device -> network

PIPELINES: dict[FamilyName, type[SeeSRPipeline]] = {"seesr": SeeSRPipeline, "addsr": AddSRPipeline}
GUIDANCE: dict[FamilyName, float] = {"seesr": 5.5, "addsr": 1.0}  # as published; 1 is none
SIDE, LARGE = 512, 2048  # px of results
FACTOR = 8  # of the autoencoder
TEXT_TOKENS, IMAGE_TOKENS = 77, 145
TAGS = 4585
PROMPT = "a photo of a house"
STD = 0.02

STEPS: dict[FamilyName, int] = {"seesr": 50, "addsr": 4}  # as published
TARGET_MS = {("seesr", 0.0): 900, ("addsr", 0.5): 100, ("addsr", 0.0): 60}  # H200, `STEPS` at SIDE, by psr_weight
TARGET_GB = 12  # H200, at LARGE in tiles


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
    other = "bfloat16" if best == "float32" else best  # shown even where it is slower: it is why float32 is chosen
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
    lines = []
    if family == "addsr":
        lines.append("decoding, encoding, the tagger: they are SeeSR's, see --family seesr")
    if cuda and not compiler:
        lines.append("compiled blocks: no C++ compiler was found")
    if not cuda:
        what = f"{STEPS[family]} steps at {SIDE} px eager, compiled and as CUDA graphs, {LARGE} px in tiles"
        lines.append(f"{what}: there is no CUDA device")
    return lines


def target(case: Case, result: Measurement) -> str:
    """Return what is expected of the case on an H200 and whether it is met; empty where nothing is."""
    if case.device != "cuda" or case.work != "call" or case.steps != STEPS[case.family]:
        return ""
    if case.side == LARGE:
        met = result.peak_mib * 2**20 <= TARGET_GB * 1e9
        return f"{TARGET_GB} GB on an H200: {'met' if met else 'not met'}"
    milliseconds = TARGET_MS.get((case.family, case.psr_weight))
    if case.side != SIDE or case.way == "plain" or milliseconds is None:
        return ""
    return f"{milliseconds} ms on an H200: {'met' if result.wall_seconds * 1000 <= milliseconds else 'not met'}"


# --- networks of full size ---------------------------------------------------------------------------------------


def full_size(name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a published architecture by the name of its component, with random weights, without its initialisation."""
    with init_empty_weights():
        network = architecture(name).eval()
    state = {}
    for key, parameter in network.named_parameters():
        weight = torch.empty(parameter.shape, dtype=dtype, device=device)
        if parameter.ndim > 1:
            weight.normal_(std=STD)
        else:
            weight.fill_(0 if key.endswith("bias") else 1)  # 1: of a norm
        state[key] = weight
    network.load_state_dict(state, strict=False, assign=True)  # buffers are there, and have their values
    return network.to(device)


def architecture(name: str) -> Any:
    """Return a network of SeeSR's, on the device and with the weights that its constructor chooses."""
    unet = SD2_CONFIGS["unet"] | {"use_image_cross_attention": True}
    match name:
        case "unet":
            return SeeSRUNet(**unet)
        case "controlnet":
            own = {key: value for key, value in unet.items() if key not in ("sample_size", "up_block_types")}
            return SeeSRControlNet(**own)
        case "vae":
            return AutoencoderKL(**SD2_CONFIGS["vae"])
        case "text_encoder":
            return text_encoder_from(SD2_CONFIGS["text_encoder"])
        case "tagger":
            names = [f"tag {i}" for i in range(TAGS)]
            return RAM(tags=names, thresholds=[1.0] * TAGS)  # finds none: those of random weights are thousands
    raise ValueError(f"{name} is no network of SeeSR")


# --- work --------------------------------------------------------------------------------------------------------


def prepared(case: Case, build: Build) -> Callable[[], Any]:
    """Build the networks of a case and return what is to be timed, which returns a tensor."""
    torch.manual_seed(0)
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)

    def network(name: str) -> Any:
        return build(name, dtype, device)

    prepare = {"step": _step, "encode": _encode, "decode": _decode, "tagger": _tagger, "call": _call}[case.work]
    return prepare(case, network, device)


def _step(case: Case, network: Callable[[str], Any], device: torch.device) -> Callable[[], Tensor]:
    """One evaluation of ControlNet and UNet; texts and image tokens are given."""
    unet, controlnet = network("unet"), network("controlnet")
    text = torch.randn(1, TEXT_TOKENS, unet.config.cross_attention_dim, device=device)
    denoise = Denoiser(
        unet=unet,
        controlnet=controlnet,
        image=torch.rand(1, 3, case.side, case.side, device=device),
        factor=FACTOR,
        prompt_embeds=text,
        negative_prompt_embeds=text.flip(1) if GUIDANCE[case.family] > 1 else None,
        image_embeds=torch.randn(1, IMAGE_TOKENS, IMAGE_DIM, device=device),
        guidance_scale=GUIDANCE[case.family],
        guidance_rescale=0.0,
        tiles=None,
    )
    x, t = torch.randn(latent_shape(case), device=device), torch.tensor(999, device=device)
    return lambda: denoise(x, t, 1.0)


def _encode(case: Case, network: Callable[[str], Any], device: torch.device) -> Callable[[], Tensor]:
    """The LR image, enlarged, through the autoencoder and the ControlNet's embedding of its condition."""
    vae, controlnet = network("vae"), network("controlnet")
    image = torch.rand(case.images, 3, case.side, case.side, device=device)
    noise = torch.randn(latent_shape(case), device=device)

    def run() -> Tensor:
        embedded = controlnet.embed_condition(image.to(controlnet.dtype))
        return encode(vae, image * 2 - 1, noise, vae_tiling(case)).mean() + embedded.mean()

    return run


def _decode(case: Case, network: Callable[[str], Any], device: torch.device) -> Callable[[], Tensor]:
    vae = network("vae")
    latents = torch.randn(latent_shape(case), device=device) * vae.config.scaling_factor
    return lambda: decode(vae, latents, vae_tiling(case))


def _tagger(case: Case, network: Callable[[str], Any], device: torch.device) -> Callable[[], Tensor]:
    tagger = network("tagger")
    image = torch.randn(1, 3, case.side, case.side, device=device, dtype=tagger.dtype)
    return lambda: tagger(image).logits


def _call(case: Case, network: Callable[[str], Any], device: torch.device) -> Callable[[], Tensor]:
    """All of the pipeline: tagger, text encoder, LR image, steps, decoding, colour; as it comes from its constructor."""
    networks = {name: network(name) for name in ("vae", "text_encoder", "unet", "controlnet", "tagger")}
    pipe = PIPELINES[case.family](
        **networks, tokenizer=clip_tokenizer(), scheduler=sd2_scheduler(), process_size=case.side
    )
    pipe.set_progress_bar_config(disable=True)
    if case.way == "compiled":
        pipe.compile_networks(fullgraph=True)
    if case.way == "graphs":
        pipe.enable_cuda_graphs()
    photo = torch.rand(1, 3, case.side // pipe.native_scale, case.side // pipe.native_scale)
    own = {"psr_weight": case.psr_weight} if case.family == "addsr" else {}

    def run() -> Tensor:
        return pipe(
            photo,
            PROMPT,
            num_inference_steps=case.steps,
            guidance_scale=GUIDANCE[case.family],
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
            vae_tiling=vae_tiling(case),
            **own,
        ).images

    return run


def latent_shape(case: Case) -> tuple[int, int, int, int]:
    """Return (B, 4, h, w) of a case's latents."""
    return case.images, 4, case.side // FACTOR, case.side // FACTOR


def vae_tiling(case: Case) -> VaeTiling:
    """Return a case's tiling of the autoencoder as the pipelines take it."""
    return VaeTiles() if case.vae_tiling == "published" else case.vae_tiling


@torch.no_grad()
def measure(case: Case, repeats: int, build: Build = full_size) -> Measurement:
    """Run one case in this process; without repeats the first run is the one that counts.

    build: makes its networks. Raises RuntimeError where a result is not finite: such numbers may take another time.
    """
    device = torch.device(case.device)
    baseline = resident_mib("VmRSS")
    reset_peak(torch.device("cpu"))
    started = time.perf_counter()
    work = prepared(case, build)
    synchronize(device)
    loading = time.perf_counter() - started
    results: list[Any] = []

    def run() -> None:
        results[:] = [work()]
        synchronize(device)

    first, wall, cpu = timed(run, repeats)
    if not torch.isfinite(results[0]).all():
        raise RuntimeError(f"the result of {case.label} is not finite")
    peak = torch.cuda.max_memory_allocated() / 2**20 if case.device == "cuda" else resident_mib("VmHWM") - baseline
    return Measurement(loading, first, wall, cpu, peak)
