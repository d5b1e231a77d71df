"""The command line in the test's process, with a pipeline that needs no weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from resdiff import cli
from resdiff.pipelines.call import NoOptions
from resdiff.runs import restorer
from resdiff.tiling import Smooth


class NearestPipeline:
    """Nearest x4 behind the pipeline's call. `trouble` maps the number of a call to what is raised in it."""

    native_scale, default_steps, default_color_fix, takes_prompt = 4, 4, "none", True
    options_type = NoOptions
    device, dtype, components, config = torch.device("cpu"), torch.float32, {}, {}

    def __init__(self):
        self.calls = []
        self.trouble = {}

    def default_guidance_scale(self, negative):
        return 2.0 if negative else 1.0

    def as_tiling(self, tile, tile_batch):
        return Smooth(512, overlap=64)

    def check_inputs(self, call):
        steps = call.num_inference_steps or self.default_steps
        if steps > 15:
            raise ValueError(f"num_inference_steps={steps} must lie between 1 and 15")
        return replace(call, num_inference_steps=1 if call.fidelity == 1 else steps)

    def __call__(self, photos, prompt=None, **options):
        from resdiff.images import to_uint8
        from resdiff.pictures import Picture

        self.calls.append((len(photos), prompt, options))
        if len(self.calls) in self.trouble:
            raise self.trouble[len(self.calls)]
        large = [photo.pixels.repeat_interleave(4, 1).repeat_interleave(4, 2) for photo in photos]
        images = [Picture(to_uint8(x).movedim(0, -1).numpy(), {}) for x in large]
        return type("Output", (), {"images": images, "tile_sizes": [None] * len(images)})


@pytest.fixture
def pipe(monkeypatch) -> NearestPipeline:
    """The pipeline that every command of the test gets; `pipe.settings` is what it was asked for with."""
    fake = NearestPipeline()

    def load(settings):
        fake.settings = settings
        return fake

    monkeypatch.setattr(restorer, "load_pipeline", load)
    return fake


@pytest.fixture
def resdiff(command_environment) -> Callable[..., Result]:
    """Run `resdiff` with these arguments."""
    return lambda *arguments: CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="resdiff")


@pytest.fixture
def refusal(resdiff) -> Callable[..., str]:
    """Return the one line that is said about a command that cannot be carried out."""

    def refused(*arguments) -> str:
        result = resdiff(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        (line,) = result.stderr.splitlines()
        return line.removeprefix("Error: ")

    return refused


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of three images, 6x4."""
    for name in ("one.JPG", "two.png", "sub/deep.webp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "in" / name)
    return tmp_path / "in"
