"""Super-resolution pipelines: `SRPipeline` and one file per family."""

from resdiff.pipelines.base import SRPipeline

__all__ = ["SRPipeline"]
