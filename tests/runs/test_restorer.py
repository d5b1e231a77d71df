"""The settings on their way to the pipeline, and what stands for them in the record of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from resdiff.images import Photo, to_uint8
from resdiff.pictures import Picture
from resdiff.pipelines.call import NoOptions
from resdiff.runs.batch import run
from resdiff.runs.inputs import find_inputs
from resdiff.runs.jobs import plan_outputs
from resdiff.runs.restorer import Restorer, Settings, load_pipeline, process_peak_mib, weights_hash
from resdiff.tiling import Smooth


def photo_file(path: Path, value: int = 100, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), value if mode == "L" else (value,) * 3).save(path)
    return path


class NoisyPipeline:
    """Nearest x4 plus noise drawn from the generators, as a diffusion pipeline would."""

    native_scale, default_steps, default_color_fix, takes_prompt = 4, 3, "none", True
    options_type = NoOptions
    device, dtype, components, config = torch.device("cpu"), torch.float32, {}, {}

    def __init__(self):
        self.calls = []
        self.generators = []

    def default_guidance_scale(self, negative):
        return 2.0 if negative else 1.0

    def as_tiling(self, tile, tile_batch):
        return Smooth(512, overlap=64)

    def check_inputs(self, call):
        steps = call.num_inference_steps or self.default_steps
        if steps > 15:
            raise ValueError(f"num_inference_steps={steps} must lie between 1 and 15")
        return replace(call, num_inference_steps=1 if call.fidelity == 1 else steps)

    def __call__(self, photos, prompt=None, *, generator, **options):
        self.calls.append((prompt, options))
        self.generators.append(generator)
        generators = generator if isinstance(generator, list) else [generator] * len(photos)
        images = []
        for photo, one in zip(photos, generators, strict=True):
            height, width = (4 * side for side in photo.pixels.shape[1:])
            noise = torch.randint(0, 100, (height, width, 3), generator=one, dtype=torch.uint8)
            images.append(Picture(noise.numpy() + to_uint8(photo.pixels).numpy()[0, 0, 0], {}))
        return type("Output", (), {"images": images, "tile_sizes": [32] * len(images)})


def results(tmp_path: Path, out: str, arguments: list[str], batch_size: int, seed: int = 0) -> dict[str, bytes]:
    jobs = plan_outputs(find_inputs(arguments, tmp_path / out).inputs, tmp_path / out)
    restore = Restorer(NoisyPipeline(), Settings(seed=seed))
    assert run(jobs, restore, batch_size=batch_size).written == len(jobs)
    return {job.target.name: job.target.read_bytes() for job in jobs}


def test_every_file_is_seeded_alike_whatever_the_order_and_the_batch_size(tmp_path):
    paths = [str(photo_file(tmp_path / "in" / f"{index}.png", value=10 * index)) for index in range(4)]
    alone = {name: data for path in paths for name, data in results(tmp_path, f"o{Path(path).stem}", [path], 1).items()}
    assert results(tmp_path, "forwards", paths, 1) == alone
    assert results(tmp_path, "backwards", paths[::-1], 3) == alone
    assert results(tmp_path, "seeded", paths, 1, seed=1) != alone


def test_settings_reach_the_pipeline(tmp_path):
    pipe = NoisyPipeline()
    mask = photo_file(tmp_path / "m.png", mode="L")
    settings = Settings(
        scale=2.5,
        num_inference_steps=4,
        prompt="fur",
        negative_prompt="soft",
        guidance_scale=1.5,
        fidelity=0.25,
        color_fix="luma",
        tile=96,
        tile_batch=2,
        mask=mask,
        model="x",
        dtype="fp32",
    )
    Restorer(pipe, settings)([Photo(torch.zeros(3, 2, 2))])
    assert pipe.calls == [
        (
            "fur",
            {
                "negative_prompt": "soft",
                "guidance_scale": 1.5,
                "fidelity": 0.25,
                "mask": mask,
                "scale": 2.5,
                "num_inference_steps": 4,
                "color_fix": "luma",
                "tile": 96,
                "tile_batch": 2,
                "output_type": "picture",
            },
        )
    ]


def test_networks_are_compiled_and_recorded_when_asked(monkeypatch):
    from resdiff.models.pixel_unet import PixelUNet
    from resdiff.pipelines import SRPipeline

    asked = []
    monkeypatch.setattr(PixelUNet, "compile_repeated_blocks", lambda network: asked.append("compile"))
    monkeypatch.setattr(SRPipeline, "enable_cuda_graphs", lambda pipe: asked.append("graphs"))
    monkeypatch.setattr("resdiff.devices.find_cpp_compiler", lambda: "/usr/bin/g++")
    load_pipeline(Settings(device="cpu"))
    assert asked == []
    load_pipeline(Settings(device="cpu", compile=True, cuda_graphs=True))
    assert asked == ["compile", "graphs"]
    monkeypatch.setattr("resdiff.devices.find_cpp_compiler", lambda: None)
    with pytest.raises(ValueError, match=r"compile needs a C\+\+ compiler.*install g\+\+"):
        load_pipeline(Settings(device="cpu", compile=True))


def test_published_tiling_gets_the_one_generator_it_draws_from():
    pipe = NoisyPipeline()
    photos = [Photo(torch.zeros(3, 2, 2))]
    Restorer(pipe, Settings(tile="reference", seed=5))(photos)
    Restorer(pipe, Settings(seed=5))(photos)
    alone, (listed,) = pipe.generators
    assert alone.initial_seed() == listed.initial_seed() == 5


@pytest.mark.parametrize(
    ("options", "expected"), [({"tile": "reference:64"}, True), ({"options": ("faithful=true",)}, True), ({}, False)]
)
def test_published_draws_are_those_of_one_generator(options, expected):
    assert Settings(**options).one_generator is expected
    assert not Settings(options=("faithful=false", "eta=1")).one_generator


def test_what_the_model_cannot_do_is_found_before_the_first_file():
    with pytest.raises(ValueError, match="num_inference_steps=99"):
        Restorer(NoisyPipeline(), Settings(num_inference_steps=99))


def test_results_come_with_their_size_tile_and_memory():
    restore = Restorer(NoisyPipeline(), Settings(scale=2.5))
    assert restore.size(Photo(torch.zeros(3, 3, 5))) == (8, 13)
    (made,) = Restorer(NoisyPipeline(), Settings())([Photo(torch.zeros(3, 2, 2))])
    assert made.tile == 32 and 10 < made.peak_mib <= process_peak_mib()


def test_the_record_holds_the_defaults_that_were_used(tmp_path):
    record = Restorer(NoisyPipeline(), Settings()).record()
    assert record == Restorer(NoisyPipeline(), Settings(scale=4, num_inference_steps=3, color_fix="none")).record()
    assert (record["scale"], record["steps"], record["dtype"], record["device"]) == (4.0, 3, "float32", "cpu")
    assert record["steps"] != Restorer(NoisyPipeline(), Settings(fidelity=1.0)).record()["steps"] == 1
    masks = [photo_file(tmp_path / f"{value}.png", value, "L") for value in (1, 2, 1)]
    hashes = [Restorer(NoisyPipeline(), Settings(mask=mask)).record()["mask"] for mask in masks]
    assert hashes[0] != hashes[1]
    assert Restorer(NoisyPipeline(), Settings(seed=1)).record() != record


def test_the_record_tells_apart_what_was_said():
    def record(**settings) -> dict:
        return Restorer(NoisyPipeline(), Settings(**settings)).record()

    unsaid = record()
    assert [unsaid[key] for key in ("prompt", "negative-prompt", "guidance-scale", "fidelity")] == [None] * 4
    assert record(guidance_scale=3) == unsaid  # there is nothing to guide
    assert record(prompt="fur") == record(prompt="fur", guidance_scale=1)
    assert record(negative_prompt="soft") == record(negative_prompt="soft", guidance_scale=2)
    said = [
        {"prompt": "fur"},
        {"negative_prompt": "fur"},
        {"prompt": "fur", "guidance_scale": 2},
        {"fidelity": 0},
        {"fidelity": 0.5},
    ]
    records = [unsaid, *(record(**settings) for settings in said)]
    assert all(a != b for i, a in enumerate(records) for b in records[:i])


def test_weights_are_told_apart_by_their_numbers_and_settings():
    class Pipeline:
        def __init__(self, value: float):
            self.config = {"scale": 4, "_name_or_path": "here"}
            net = torch.nn.Linear(30, 10)
            torch.nn.init.constant_(net.weight, value)
            torch.nn.init.zeros_(net.bias)
            self.components = {"unet": net, "vae": None}

    one = weights_hash(Pipeline(1.0))
    assert one == weights_hash(Pipeline(1.0)) and len(one) == 16
    assert one != weights_hash(Pipeline(1.001))
    other = Pipeline(1.0)
    other.config = {"scale": 2, "_name_or_path": "here"}
    assert one != weights_hash(other)
    other.config = {"scale": 4, "_name_or_path": "there"}
    assert one == weights_hash(other)
