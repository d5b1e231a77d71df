"""resdiff: diffusion-based image super-resolution. `SRPipeline.from_pretrained()(lr)` is the whole story."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SRPipeline", "__version__"]

if TYPE_CHECKING:
    from resdiff.pipelines import SRPipeline


def __getattr__(name: str) -> Any:
    """Import `SRPipeline` on first use, so that `import resdiff` costs milliseconds and no torch."""
    if name == "SRPipeline":
        from resdiff.pipelines import SRPipeline

        return SRPipeline
    raise AttributeError(f"module 'resdiff' has no attribute {name!r}")
