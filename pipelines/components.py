"""`ComponentsMixin`: what a pipeline does with its components as a whole, whatever the family."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading
from torch import nn

from resdiff.attention import Backend, set_attention_backend
from resdiff.cuda_graphs import disable_cuda_graphs, enable_cuda_graphs, forget_recordings
from resdiff.memory import give_back


class ComponentsMixin:
    """Goes before `DiffusionPipeline` among the bases of a pipeline."""

    components: dict[str, Any]
    _execution_device: torch.device
    _exclude_from_cpu_offload: list[str]

    @property
    def networks(self) -> list[nn.Module]:
        """The components that have weights."""
        return [part for part in self.components.values() if isinstance(part, nn.Module)]

    @property
    def image_networks(self) -> list[nn.Module]:
        """Those that run for every image, tile or step, so that compiling and recording them pays."""
        return [network for network in self.networks if network is not self.components.get("text_encoder")]

    @property
    def recorded_networks(self) -> list[nn.Module]:
        """Those whose calls CUDA graphs record."""
        return self.image_networks

    def set_attention(self, backend: Backend) -> Backend:
        """Choose how attention is computed: "sdpa" (torch's kernels, the default), "xformers" or "eager" (the formula).

        Returns what is active: "sdpa" where xformers is not installed or does not run on the pipeline's device, which
        the log says. For networks of our own the choice holds in the whole process, see `resdiff.attention`; for those
        of diffusers, and the text encoder, which has no xformers, in this pipeline. Raises ValueError for another name.
        """
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor

        processors: Any = {"sdpa": AttnProcessor2_0, "xformers": XFormersAttnProcessor, "eager": AttnProcessor}
        active = set_attention_backend(backend, self._execution_device)
        for network in self.networks:
            processed: Any = network
            if hasattr(network, "set_attn_processor"):  # diffusers'
                processed.set_attn_processor(processors[active]())
            elif hasattr(network, "set_attn_implementation"):  # transformers'
                processed.set_attn_implementation("eager" if active == "eager" else "sdpa")
        return active

    def compile_networks(self, **kwargs: Any) -> None:
        """Compile the blocks that the networks repeat, with the arguments of `torch.compile`.

        Stable Diffusion's autoencoder names none; its residual blocks are.
        """
        from diffusers.models.resnet import ResnetBlock2D

        for network in self.image_networks:
            compile_blocks: Any = getattr(network, "compile_repeated_blocks", None)
            if compile_blocks is not None and getattr(network, "_repeated_blocks", None):
                compile_blocks(**kwargs)
                continue
            for part in network.modules():
                if isinstance(part, ResnetBlock2D):
                    part.compile(**kwargs)

    def give_back(self) -> None:
        """Free what is held for speed alone: recorded CUDA graphs, and what torch's allocator keeps."""
        forget_recordings(self.recorded_networks)
        give_back()

    def enable_cuda_graphs(self, limit: int = 8) -> None:
        """Record and replay the networks' calls on CUDA devices, `limit` shapes each; see `resdiff.cuda_graphs`."""
        enable_cuda_graphs(self.recorded_networks, limit)

    def disable_cuda_graphs(self) -> None:
        """Call the networks directly again, and free what was recorded."""
        disable_cuda_graphs(self.recorded_networks)

    def enable_group_offload(
        self,
        onload_device: torch.device,
        *args: Any,
        exclude_modules: str | list[str] | None = None,
        offload_to_disk_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As diffusers, but what `_exclude_from_cpu_offload` names stays on the device here too.

        On a disk every network has a folder of its own: diffusers names files by what is in a network, and would read
        the UNet's weights for those of a ControlNet, whose blocks are called alike.
        """
        named = [exclude_modules] if isinstance(exclude_modules, str) else exclude_modules or []
        kept = {*named, *self._exclude_from_cpu_offload}
        for name, part in self.components.items():
            if not isinstance(part, nn.Module):
                continue
            if name in kept:
                part.to(onload_device)
                continue
            offload = getattr(part, "enable_group_offload", partial(apply_group_offloading, part))
            folder = None if offload_to_disk_path is None else str(Path(offload_to_disk_path) / name)
            offload(onload_device, *args, offload_to_disk_path=folder, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As diffusers, but the files may be read by whom the umask says: safetensors makes them private."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        umask = os.umask(0)
        os.umask(umask)
        for file in Path(save_directory).rglob("*.safetensors"):
            file.chmod(0o666 & ~umask)
