"""Which pipeline class opens a saved folder. Adding a family is one line here."""

from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.pipelines.resshift import ResShiftPipeline

FAMILIES: dict[str, type[SRPipeline]] = {
    "BicubicPipeline": BicubicPipeline,
    "ResShiftPipeline": ResShiftPipeline,
}
