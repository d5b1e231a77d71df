"""`Call`: what a pipeline is asked for beside its images, so that it travels as one thing and is checked once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from resdiff.color import ColorFix
from resdiff.pipelines.finishing import ImageOutput
from resdiff.tiling import Chop, Smooth

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Prompt: TypeAlias = "str | Callable[[Image], str] | Sequence[str] | None"
Fidelity: TypeAlias = "float | Sequence[float] | Tensor | None"
OutputType: TypeAlias = ImageOutput | Literal["latent"]
ColorChoice: TypeAlias = Literal["auto"] | ColorFix
Tile: TypeAlias = str | int | Chop | Smooth


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The options of families that have none besides those of every call."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of `SRPipeline.__call__` that are settings; None is the model's own."""

    prompt: Prompt = None
    negative_prompt: Prompt = None
    guidance_scale: float | None = None
    fidelity: Fidelity = None
    mask: Any = None
    scale: float | None = None
    num_inference_steps: int | None = None
    num_images_per_prompt: int = 1
    color_fix: ColorChoice = "auto"
    color_fix_strength: float = 1.0
    tile: Tile = "auto"
    tile_batch: int = 1
    output_type: OutputType = "pil"
    options: Any = None  # of the family: its `options_type`


def options_of(family: str, options_type: type, given: Mapping[str, Any]) -> Any:
    """Return the options of a family as its frozen dataclass. Raises TypeError, one line, for names that it lacks."""
    known = [field.name for field in fields(options_type)]
    if unknown := [name for name in given if name not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none of its own"
        raise TypeError(f"{', '.join(unknown)}: no option of {family}; {has} besides those of every pipeline")
    return options_type(**given)
