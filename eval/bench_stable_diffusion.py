"""What the measurements of `bench_pipeline` for the families on Stable Diffusion share, one case per process.

Networks have their full size and random weights. Cost does not depend on what the weights are, but on finite numbers:
matrices are normal, norms begin as the identity, what a constructor leaves at zero (a ControlNet's last convolutions) is
not zero. A case builds only the networks that it runs, so that its peak is its own.
"""

import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import Tensor, nn

from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS, text_encoder_from
from resdiff.eval.bench_cases import Measurement, timed
from resdiff.eval.harness.cost import reset_peak, resident_mib, synchronize
from resdiff.pipelines.denoising import Denoiser, Networks

Way = Literal["plain", "compiled", "graphs", "compiled, graphs"]
Build = Callable[[str, torch.dtype, torch.device], Any]  # name of a network, dtype, device -> network
Network = Callable[[str], Any]  # the same, of the dtype and device of a case
Run = Callable[[], Tensor]  # what is timed

SIDE, LARGE = 512, 2048  # px of results
FACTOR = 8  # of the autoencoder
TEXT_TOKENS = 77
PROMPT = "a photo of a house"
STD = 0.02
TARGET_GB = 12  # H200, at LARGE in tiles


# --- which cases -------------------------------------------------------------------------------------------------


def other_dtype(best: str) -> str:
    """Return what stands beside float32, also where it is slower: it is why float32 is chosen."""
    return "bfloat16" if best == "float32" else best


def left_out_without(cuda: bool, compiler: bool, steps: int) -> list[str]:
    """Return a line for each kind of case that a machine without CUDA, or a GPU without C++ compiler, cannot run."""
    if cuda:
        return [] if compiler else ["compiled blocks: no C++ compiler was found"]
    what = f"{steps} steps at {SIDE} px eager, compiled and as CUDA graphs, {LARGE} px in tiles"
    return [f"{what}: there is no CUDA device"]


def time_target(result: Measurement, milliseconds: float) -> str:
    """Return what a call is expected to take on an H200 and whether it does."""
    return _judged(f"{milliseconds:g} ms", result.wall_seconds * 1000 <= milliseconds)


def memory_target(result: Measurement) -> str:
    """Return what a call at LARGE is expected to need on an H200 and whether it does."""
    return _judged(f"{TARGET_GB} GB", result.peak_mib * 2**20 <= TARGET_GB * 1e9)


def _judged(expected: str, is_met: bool) -> str:
    return f"{expected} on an H200: {'met' if is_met else 'not met'}"


# --- networks of full size ---------------------------------------------------------------------------------------


def base_network(name: str) -> Any:
    """Return a network that the adapters take from Stable Diffusion 2 as it is, initialised by its constructor."""
    match name:
        case "vae":
            return AutoencoderKL(**SD2_CONFIGS["vae"])
        case "text_encoder":
            return text_encoder_from(SD2_CONFIGS["text_encoder"])
    raise ValueError(f"{name} is no network that this benchmark knows")


def with_random_weights(architecture: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return the network that `architecture` makes, in eval mode; its own initialisation, which is slow, is skipped."""
    with init_empty_weights():
        network = architecture().eval()
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


# --- work --------------------------------------------------------------------------------------------------------


def latent_shape(side: int, images: int = 1) -> tuple[int, int, int, int]:
    """Return (B, 4, h, w) of the latents of images of `side` px."""
    return images, 4, side // FACTOR, side // FACTOR


def step_of(networks: Networks, text_width: int, guidance_scale: float, side: int, device: torch.device) -> Run:
    """One evaluation of a family's networks, untiled, with random texts; a scale of 1 is without guidance."""
    text = torch.randn(1, TEXT_TOKENS, text_width, device=device)
    denoise = Denoiser(
        networks=networks,
        prompt_embeds=text,
        negative_prompt_embeds=text.flip(1) if guidance_scale > 1 else None,
        guidance_scale=guidance_scale,
        guidance_rescale=0.0,
        tiles=None,
    )
    x, t = torch.randn(latent_shape(side), device=device), torch.tensor(999, device=device)
    return lambda: denoise(x, t)


def call_of(pipe: Any, way: Way, side: int, **arguments: Any) -> Run:
    """One call of a pipeline for a result of `side` px: texts, LR image, steps, decoding, colour."""
    pipe.set_progress_bar_config(disable=True)
    if way.startswith("compiled"):
        pipe.compile_networks(fullgraph=True)
    if way.endswith("graphs"):
        pipe.enable_cuda_graphs()
    photo = torch.rand(1, 3, side // pipe.native_scale, side // pipe.native_scale)

    def run() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe(photo, PROMPT, generator=generator, output_type="pt", **arguments).images

    return run


@torch.no_grad()
def measured(prepare: Callable[[], Run], label: str, device: torch.device, repeats: int) -> Measurement:
    """Run one case in this process; without repeats the first run is the one that counts.

    prepare: builds the networks, which is timed as loading. Raises RuntimeError where a result is not finite: such
    numbers may take another time.
    """
    baseline = resident_mib("VmRSS")
    reset_peak(torch.device("cpu"))
    torch.manual_seed(0)
    started = time.perf_counter()
    work = prepare()
    synchronize(device)
    loading = time.perf_counter() - started
    results: list[Tensor] = []

    def run() -> None:
        results[:] = [work()]
        synchronize(device)

    first, wall, cpu = timed(run, repeats)
    if not torch.isfinite(results[0]).all():
        raise RuntimeError(f"the result of {label} is not finite")
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident_mib("VmHWM") - baseline
    return Measurement(loading, first, wall, cpu, peak)
