"""Which pipeline class opens a saved folder. Adding a family is one line here."""

from importlib import import_module

from resdiff.pipelines.base import SRPipeline

# class -> module, imported when it is needed: some need libraries that take seconds to import
FAMILIES: dict[str, str] = {
    "BicubicPipeline": "resdiff.pipelines.bicubic",
    "ResShiftPipeline": "resdiff.pipelines.resshift",
    "SeeSRPipeline": "resdiff.pipelines.seesr",
    "AddSRPipeline": "resdiff.pipelines.addsr",
    "StableSRPipeline": "resdiff.pipelines.stablesr",
}


def family(name: str) -> type[SRPipeline]:
    """Return the class of `FAMILIES` called `name`."""
    return getattr(import_module(FAMILIES[name]), name)
