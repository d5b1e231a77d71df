"""What the two ways to compute an AutoencoderKL in parts share (`vae_bands`, and the published `vae_hook`).

The network as a list of layers, where its weights are under offloading, GroupNorm (1803.08494) with statistics from
outside, and encoding and decoding with the network computed by a function of the caller's choice.
"""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, DiagonalGaussianDistribution, Encoder
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

Coder = Callable[[AutoencoderKL, Tensor], Tensor]  # the VAE, and the input of its encoder or decoder -> the output


# --- the network as a list of layers -----------------------------------------------------------------------------


def expect(fits: bool, layer: nn.Module) -> None:
    """Raise ValueError for a layer that is not one of Stable Diffusion's VAE."""
    if not fits:
        raise ValueError(
            f"the VAE has a {type(layer).__name__} of a kind that cannot be computed in parts; call it untiled"
        )


def checked(layer: nn.Module) -> nn.Module:
    """Return a layer if it is of a kind that the functions here compute, else raise ValueError."""
    match layer:
        case ResnetBlock2D():
            absent = (layer.time_emb_proj, layer.upsample, layer.downsample)
            expect(all(part is None for part in absent), layer)
        case Attention():
            absent = (layer.spatial_norm, layer.norm_q, layer.norm_k)
            expect(all(part is None for part in absent) and layer.group_norm is not None, layer)
        case Downsample2D():
            expect(layer.use_conv and layer.padding == 0 and layer.norm is None, layer)
        case Upsample2D():
            plain = layer.use_conv and layer.interpolate and not layer.use_conv_transpose
            expect(plain and layer.norm is None, layer)
        case _:
            expect(False, layer)
    return layer


def middle_layers(block: UNetMidBlock2D) -> list[nn.Module]:
    """Residual blocks of the lowest resolution, with the attention between them where there is any."""
    expect(isinstance(block, UNetMidBlock2D), block)
    first, *others = block.resnets
    pairs = [layer for pair in zip(block.attentions, others, strict=True) for layer in pair if layer is not None]
    return [checked(layer) for layer in (first, *pairs)]


def encoder_layers(encoder: Encoder) -> list[nn.Module]:
    """Return what an encoder computes between `conv_in` and `conv_norm_out`, in order.

    Raises:
        ValueError: a layer is not one of Stable Diffusion's VAE.
    """
    layers: list[nn.Module] = []
    for block in encoder.down_blocks:
        expect(isinstance(block, DownEncoderBlock2D), block)
        layers += [checked(layer) for layer in (*block.resnets, *(block.downsamplers or ()))]
    expect(isinstance(encoder.conv_norm_out, nn.GroupNorm), encoder.conv_norm_out)
    return [*layers, *middle_layers(encoder.mid_block)]


def decoder_layers(decoder: Decoder) -> list[nn.Module]:
    """Return what a decoder computes between `conv_in` and `conv_norm_out`, in order.

    Raises:
        ValueError: a layer is not one of Stable Diffusion's VAE.
    """
    layers = middle_layers(decoder.mid_block)
    for block in decoder.up_blocks:
        expect(isinstance(block, UpDecoderBlock2D), block)
        layers += [checked(layer) for layer in (*block.resnets, *(block.upsamplers or ()))]
    expect(isinstance(decoder.conv_norm_out, nn.GroupNorm), decoder.conv_norm_out)
    return layers


def vae_factor(vae: AutoencoderKL) -> int:
    """Return the image's side over that of its latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def check_image(vae: AutoencoderKL, image: Tensor) -> None:
    """Raise ValueError for an image of less than one latent."""
    factor = vae_factor(vae)
    if min(image.shape[-2:]) < factor:
        raise ValueError(f"image is {image.shape[-2]}x{image.shape[-1]}; both sides must be at least {factor}")


# --- where the weights are ---------------------------------------------------------------------------------------


def execution_device(vae: AutoencoderKL) -> torch.device:
    """Return the device that a VAE computes on, which under offloading is not where its weights are."""
    hooks = (getattr(module, "_hf_hook", None) for module in vae.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in devices if device is not None), None)
    return vae.device if device is None else torch.device(device)


def check_offloading(network: nn.Module) -> None:
    """Raise ValueError where weights come in by whole blocks, whose calls only bring them in: blocks are not called."""
    registries = (getattr(module, "_diffusers_hook", None) for module in network.modules())
    hooks = (registry.get_hook("group_offloading") for registry in registries if registry is not None)
    if any(hook is not None and hook.config.offload_type.value == "block_level" for hook in hooks):
        name = type(network).__name__
        raise ValueError(f"{name} is offloaded by blocks, but computed by layers; use offload_type='leaf_level'")


def scale_and_shift(norm: nn.GroupNorm, mean: Tensor, var: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a, b in float32, (B, C, 1, 1), so that a x + b is `norm` with given statistics (B, groups) of its groups.

    The weights are read, not called for, so that accelerate's sequential offloading is asked for them as a call would.
    """
    hook = getattr(norm, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(norm)
    weight, bias = (parameter.detach().to(device, torch.float32) for parameter in (norm.weight, norm.bias))
    if hook is not None:
        hook.post_forward(norm, None)
    size = norm.num_channels // norm.num_groups
    mean, std = (x.float().repeat_interleave(size, dim=1).to(device) for x in (mean, (var + norm.eps).sqrt()))
    scale = weight / std
    return scale[..., None, None], (bias - mean * scale)[..., None, None]


# --- the whole VAE -----------------------------------------------------------------------------------------------


@apply_forward_hook
@torch.no_grad()
def encode_with(vae: AutoencoderKL, image: Tensor, encoder: Coder) -> DiagonalGaussianDistribution:
    """Return what `vae.encode(image).latent_dist` is, with the encoder computed by another function."""
    moments = encoder(vae, image)
    if vae.quant_conv is not None:
        moments = vae.quant_conv(moments.to(execution_device(vae))).to(image.device)
    return DiagonalGaussianDistribution(moments)


@apply_forward_hook
def decode_with(vae: AutoencoderKL, z: Tensor, decoder: Coder) -> Tensor:
    """Return what `vae.decode(z).sample` is, with the decoder computed by another function, which decides on gradients."""
    if vae.post_quant_conv is not None:
        z = vae.post_quant_conv(z.to(execution_device(vae))).to(z.device)
    return decoder(vae, z)
