"""SeeSR's UNet and ControlNet (2311.16518): Stable Diffusion's, which also attend to tokens of the low-resolution image.

Reference: cswry/SeeSR models/unet_2d_condition.py, unet_2d_blocks.py and controlnet.py, copies of diffusers' with one
flag. Here they are subclasses: after each `Transformer2DModel` that attends to the text runs a second one that attends
to the image tokens. Parameter names are the published ones, `image_attentions.{j}` beside `attentions.{j}`, and those of
the text keep diffusers' names, so that LoRAs of the base fit. Beyond the reference, the ControlNet takes its condition
embedded already, since that is the same in every step.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from diffusers import ControlNetModel, ModelMixin, UNet2DConditionModel  # noqa: F401 (diffusers looks for ModelMixin here)
from diffusers.configuration_utils import register_to_config
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.transformers.transformer_2d import Transformer2DModel, Transformer2DModelOutput
from torch import Tensor, nn

from resdiff.models.network import NetworkMixin

IMAGE_DIM = 512  # width of the image tokens, `image_cross_attention_dim` in the reference, where it is fixed too
TOKENS = "image_encoder_hidden_states"
OURS = "Image"  # in front of the names of blocks in a saved config: diffusers' own classes refuse it, and lose nothing


class TextThenImageTransformer(Transformer2DModel):
    """Attend to the text, then, by `image_attention`, to the image tokens that come in `cross_attention_kwargs`."""

    _image_attention: tuple[Transformer2DModel]  # in a tuple: its parameters belong to the block's `image_attentions`

    def forward(
        self,
        hidden_states: Tensor,  # (B, C, H, W)
        encoder_hidden_states: Tensor | None = None,  # (B, L, text width)
        cross_attention_kwargs: Mapping[str, Any] | None = None,  # with the image tokens (B, N, 512)
        attention_mask: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        return_dict: bool = True,
        **other: Any,  # conditions of other families, None here
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        arguments = dict(cross_attention_kwargs or {})
        tokens = arguments.pop(TOKENS)
        shared = other | {
            "cross_attention_kwargs": arguments,
            "attention_mask": attention_mask,
            "encoder_attention_mask": encoder_attention_mask,
        }
        hidden_states = super().forward(hidden_states, encoder_hidden_states, return_dict=False, **shared)[0]
        (image_attention,) = self._image_attention
        return image_attention(hidden_states, tokens, return_dict=return_dict, **shared)


def add_image_attentions(network: Any) -> None:
    """Put an image attention behind every text attention of a UNet's or ControlNet's blocks, with the same sizes."""
    blocks: list[Any] = [*network.down_blocks, network.mid_block, *getattr(network, "up_blocks", ())]
    for block in blocks:
        if not getattr(block, "has_cross_attention", False):
            continue
        sizes = [{k: v for k, v in part.config.items() if not k.startswith("_")} for part in block.attentions]
        block.attentions = nn.ModuleList(TextThenImageTransformer(**size) for size in sizes)
        image = [Transformer2DModel(**size | {"cross_attention_dim": IMAGE_DIM}) for size in sizes]
        block.image_attentions = nn.ModuleList(image)
        for text, attention in zip(block.attentions, image, strict=True):
            text._image_attention = (attention,)


def with_flag(stock: type) -> Callable[[Callable], Callable]:
    """Give an `__init__` the signature of `stock` and the flag, as diffusers reads it, and register its arguments."""

    def decorate(init: Callable) -> Callable:
        flag = inspect.Parameter("use_image_cross_attention", inspect.Parameter.KEYWORD_ONLY, default=False)
        parameters = inspect.signature(vars(stock)["__init__"]).parameters.values()
        init.__signature__ = inspect.Signature([*parameters, flag])  # type: ignore[attr-defined]
        return register_to_config(init)

    return decorate


def stock_names(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return constructor arguments with diffusers' names of the blocks."""
    changed = {}
    for key in ("down_block_types", "up_block_types"):
        if key in arguments:
            changed[key] = tuple(name.removeprefix(OURS) for name in arguments[key])
    return arguments | changed


class ImageAttentionMixin(NetworkMixin):
    """What the two networks share; goes before diffusers' class among the bases."""

    _repeated_blocks = ["BasicTransformerBlock"]  # noqa: RUF012 (diffusers reads plain lists)
    config: Any

    def _attend_to_images(self) -> None:
        """Add the attentions, and rename the blocks in the config."""
        add_image_attentions(self)
        names = {key: self.config[key] for key in ("down_block_types", "up_block_types") if key in self.config}
        ours = {key: [OURS + name if "CrossAttn" in name else name for name in of] for key, of in names.items()}
        self.register_to_config(**ours)  # type: ignore[attr-defined]

    def _with_tokens(self, tokens: Tensor | None, arguments: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Return `cross_attention_kwargs` with the image tokens; raises ValueError where they are needed and missing."""
        if not self.config.use_image_cross_attention:
            return None if arguments is None else dict(arguments)
        if tokens is None:
            raise ValueError(f"{type(self).__name__} attends to the image; pass {TOKENS}, (B, tokens, {IMAGE_DIM})")
        return dict(arguments or {}) | {TOKENS: tokens}


class SeeSRUNet(ImageAttentionMixin, UNet2DConditionModel):
    """`UNet2DConditionModel` with `use_image_cross_attention`; without that flag it is diffusers' own.

    `forward` takes `image_encoder_hidden_states` (B, N, 512) besides diffusers' arguments; raises ValueError if they
    are missing.
    """

    @with_flag(UNet2DConditionModel)
    def __init__(self, *args: Any, use_image_cross_attention: bool = False, **kwargs: Any):
        super().__init__(*args, **stock_names(kwargs))
        if use_image_cross_attention:
            self._attend_to_images()

    def forward(
        self,
        *args: Any,
        image_encoder_hidden_states: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        carried = self._with_tokens(image_encoder_hidden_states, cross_attention_kwargs)
        return super().forward(*args, cross_attention_kwargs=carried, **kwargs)


class ConditioningEmbedding(ControlNetConditioningEmbedding):
    """diffusers' embedding of the condition, which lets pass what is embedded already."""

    def forward(self, conditioning: Tensor) -> Tensor:
        is_embedded = conditioning.shape[1] == self.conv_out.out_channels
        return conditioning if is_embedded else super().forward(conditioning)


class SeeSRControlNet(ImageAttentionMixin, ControlNetModel):
    """`ControlNetModel` with `use_image_cross_attention`, see `SeeSRUNet`.

    Its condition is the upscaled low-resolution image, RGB in [0, 1], of the full output size; or what
    `embed_condition` made of it, once for all steps.
    """

    @with_flag(ControlNetModel)
    def __init__(self, *args: Any, use_image_cross_attention: bool = False, **kwargs: Any):
        super().__init__(*args, **stock_names(kwargs))
        self.controlnet_cond_embedding = ConditioningEmbedding(
            self.config.block_out_channels[0],
            self.config.conditioning_channels,
            self.config.conditioning_embedding_out_channels,
        )
        if use_image_cross_attention:
            self._attend_to_images()

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        controlnet_conditioning_channel_order: str = "rgb",
        conditioning_embedding_out_channels: tuple[int, ...] | None = (16, 32, 96, 256),
        load_weights_from_unet: bool = True,
        conditioning_channels: int = 3,
    ) -> Self:
        """As diffusers', which knows of no image attentions: those of a `SeeSRUNet` come along, with their weights."""
        order, channels = controlnet_conditioning_channel_order, conditioning_embedding_out_channels
        with torch.device("meta"):
            plain = super().from_unet(unet, order, channels, False, conditioning_channels)
        flag = getattr(unet.config, "use_image_cross_attention", False)
        controlnet = cls.from_config(plain.config, use_image_cross_attention=flag)
        if load_weights_from_unet:
            names = set(controlnet.state_dict())
            shared = {name: weight for name, weight in unet.state_dict().items() if name in names}
            controlnet.load_state_dict(shared, strict=False)  # the rest is the condition's and the zero convolutions
        return controlnet

    def embed_condition(self, image: Tensor) -> Tensor:
        """Return what `forward` takes for `image` (B, 3, H, W): (B, block_out_channels[0], H / 8, W / 8)."""
        if self.config.controlnet_conditioning_channel_order == "rgb":
            return self.controlnet_cond_embedding(image)
        return self.controlnet_cond_embedding(image.flip(1)).flip(1)  # `forward` flips what it is given back

    def forward(
        self,
        *args: Any,
        image_encoder_hidden_states: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        carried = self._with_tokens(image_encoder_hidden_states, cross_attention_kwargs)
        return super().forward(*args, cross_attention_kwargs=carried, **kwargs)
