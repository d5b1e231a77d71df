"""`resdiff convert` of StableSR, and what the other commands make of the files, the folder and the names."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

# the layouts are modules there, not a package
sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from stablesr_layouts import (
    adapter,
    cfw,
    diffusers_folder,
    lightning_file,
    make_small,
    random_networks,
    states_of,
    whole,
)

from resdiff.checkpoints.known_stablesr import STABLESR_MODELS
from resdiff.pipelines import SRPipeline

SMALL = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WHOLE, CFW, ADAPTER = "stablesr_000117.ckpt", "vqgan_cfw_00011.ckpt", "webui_768v_139.ckpt"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Published files, each in a folder of its own, and two bases; not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    for name in ("whole", "cfw", "adapter"):
        (folder / name).mkdir()
    networks = random_networks(0)
    states = states_of(networks)
    lightning_file(folder / "whole" / WHOLE, whole(states))
    lightning_file(folder / "cfw" / CFW, cfw(states))
    torch.save(adapter(states), folder / "adapter" / ADAPTER)
    diffusers_folder(folder / "base", networks)
    diffusers_folder(folder / "base-v", networks, prediction_type="v_prediction")
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and a Stable Diffusion as small as in the layouts."""
    return make_small(monkeypatch, tmp_path / "cache")


def restored(model, **options):
    pipe = SRPipeline.from_pretrained(model, **options)
    pipe.set_progress_bar_config(disable=True)
    pipe.smallest_side = 1
    generator = torch.Generator().manual_seed(5)
    return pipe(SMALL, num_inference_steps=2, generator=generator, output_type="pt").images


def told(result):
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


# --- convert ---------------------------------------------------------------------------------------------------------


def test_a_converted_folder_gives_the_image_of_the_files_bit_for_bit(resdiff, tree, tmp_path):
    lines = told(resdiff("convert", tree / "cfw" / CFW, tree / "whole" / WHOLE, tmp_path / "out"))
    assert lines[:2] == [
        "stablesr: S-Lab License 1.0, non-commercial",
        "stable-diffusion-2-1-base: CreativeML Open RAIL++-M",
    ]
    wanted = restored(tree / "whole" / WHOLE, cfw_file=tree / "cfw" / CFW)
    torch.testing.assert_close(restored(tmp_path / "out"), wanted, atol=0, rtol=0)
    assert wanted.std() > 0.01
    assert "| stablesr | S-Lab License 1.0, non-commercial | https" in (tmp_path / "out" / "README.md").read_text()


def test_an_adapter_alone_is_converted_with_its_base(resdiff, tree, tmp_path):
    file, base = tree / "adapter" / ADAPTER, tree / "base-v"
    told(resdiff("convert", file, tmp_path / "a", "--base", base))
    told(resdiff("convert", base, file, tmp_path / "b"))
    pipe = SRPipeline.from_pretrained(tmp_path / "b")
    assert pipe.cfw is None and pipe.config.fidelity == 0 and pipe.config.process_size == 768
    torch.testing.assert_close(restored(tmp_path / "a"), restored(tmp_path / "b"), atol=0, rtol=0)


def test_the_name_and_the_prediction_may_be_said(resdiff, tree, tmp_path):
    face = tmp_path / "face_stablesr_000050.ckpt"
    face.write_bytes((tree / "whole" / WHOLE).read_bytes())
    told(resdiff("convert", face, tmp_path / "out", "--prediction-type", "epsilon"))
    pipe = SRPipeline.from_pretrained(tmp_path / "out")
    assert pipe.scheduler.config.prediction_type == pipe.structure_encoder.config.prediction_type == "epsilon"
    told(resdiff("convert", tree / "whole" / WHOLE, tree / "base", tmp_path / "turbo", "--as", "stablesr-turbo"))
    pipe = SRPipeline.from_pretrained(tmp_path / "turbo")
    assert (pipe.default_steps, pipe.default_color_fix) == (4, "wavelet")


def test_what_does_not_go_together_is_one_line_and_nothing_is_written(refusal, tree, tmp_path):
    out, file = tmp_path / "out", tree / "whole" / WHOLE
    for arguments, message in (
        ((tree / "cfw" / CFW,), "no checkpoint of StableSR is given; give one, such as stablesr_000117.ckpt"),
        ((file, tree / "adapter" / ADAPTER), "are both the checkpoint; give one"),
        ((file, "--as", "stablesr-face"), "is stablesr by its name, not stablesr-face; pass --as stablesr"),
        ((file, "--as", "sinsr-v1"), "is not of the ResShift family"),
        ((file, "--as", "stablesr-trubo"), "'stablesr-trubo' is not a known model; choose one of stablesr-turbo"),
        ((file, "--base", tree / "base-v"), "predicts v_prediction, not epsilon; stable-diffusion-2-1-base is needed"),
        ((file, "--prediction-type", "noise"), "prediction_type is 'noise'; choose one of epsilon, v_prediction"),
        ((tree / "adapter" / ADAPTER,), "stable-diffusion-2-1 is needed: give its diffusers folder"),
    ):
        assert message in refusal("convert", *arguments, out), message
    assert not out.exists()


# --- upscale, info, models -------------------------------------------------------------------------------------------


def test_a_converted_folder_enlarges_photos(resdiff, tree, tmp_path):
    told(resdiff("convert", tree / "whole" / WHOLE, tree / "cfw" / CFW, tmp_path / "small"))
    index = tmp_path / "small" / "model_index.json"  # tiny images are not enlarged first
    index.write_text(index.read_text().replace('"process_size": 512', '"process_size": 32'))
    Image.effect_noise((12, 8), 60).convert("RGB").save(tmp_path / "a.png")
    common = ("upscale", tmp_path / "a.png", "--model", tmp_path / "small", "--steps", 2, "--device", "cpu")
    for name, fidelity in (("free", 0), ("near", 1)):
        options = ("-o", tmp_path / f"{name}.png", "--fidelity", fidelity)
        assert "1 written" in told(resdiff(*common, *options))[-1]
    free, near = (Image.open(tmp_path / f"{name}.png") for name in ("free", "near"))
    assert free.size == (48, 32) and free.tobytes() != near.tobytes()


def test_names_are_listed_with_licence_and_with_what_lacks(resdiff, cache):
    def line_of(name):
        (line,) = (line for line in told(resdiff("models")) if line.startswith(f"{name} "))
        return line

    for name, known in STABLESR_MODELS.items():
        line = line_of(name)
        assert " x4 " in line and " - " in line and known.description in line
        assert known.licence in line and known.base.licence in line
    (cache / WHOLE).write_bytes(bytes(3 * 10**6))
    (cache / ADAPTER).write_bytes(bytes(2 * 10**6))
    assert " no cfw " in line_of("stablesr") and " no stable-diffusion-2-1 " in line_of("stablesr-768v")
    (cache / CFW).write_bytes(bytes(10**6))
    assert " 4 MB " in line_of("stablesr") and " - " in line_of("stablesr-turbo")
    assert "addsr, stablesr-face that says what to get by hand" in told(resdiff("models"))[-1]


def test_info_of_a_name_tells_what_is_here_and_where_to_get_the_rest(resdiff, cache, tree):
    lines = told(resdiff("info", "stablesr"))
    assert "family      StableSRPipeline" in lines and "steps       200 by default" in lines
    assert [line.split()[-1].rpartition("/")[2] for line in lines if line.startswith("not here")] == [WHOLE, CFW]
    (said,) = (line for line in told(resdiff("info", "stablesr-face")) if line.startswith("by hand"))
    assert "face_stablesr_000050.ckpt (its address is not known" in said and str(cache) in said


def test_info_of_a_file_tells_its_model_by_what_it_holds(resdiff, refusal, tree, tmp_path):
    lines = told(resdiff("info", tree / "whole" / WHOLE))
    assert lines[0].endswith("stablesr") and any(line.startswith("file") and WHOLE in line for line in lines)
    assert told(resdiff("info", tree / "adapter" / ADAPTER))[0].endswith("stablesr-768v")
    assert told(resdiff("info", tree / "cfw" / CFW))[0].endswith("stablesr")
    assert told(resdiff("info", tree / "whole" / WHOLE, "--as", "stablesr-turbo"))[0].endswith("stablesr-turbo")
    torch.save({"x": torch.zeros(3)}, tmp_path / "my_face.pth")
    assert "say which model it is with --as NAME" in refusal("info", tmp_path / "my_face.pth")
    assert "is a file, and seesr is published as a folder" in refusal("info", tree / "whole" / WHOLE, "--as", "seesr")


def test_info_of_a_converted_folder_points_to_its_card(resdiff, tree, tmp_path):
    told(resdiff("convert", tree / "whole" / WHOLE, tmp_path / "out"))
    lines = told(resdiff("info", tmp_path / "out"))
    assert f"licence     see {tmp_path / 'out' / 'README.md'}" in lines
    assert "scale       x4" in lines and "steps       200 by default" in lines


def test_fetching_and_removing(resdiff, refusal, tree, cache, serve, tmp_path):
    result = resdiff("models", "fetch", "stablesr")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: offline: stablesr needs https://huggingface.co/Iceclear/StableSR/resolve/main/")
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for folder, names in (("whole", (WHOLE, "stablesr_turbo.ckpt")), ("cfw", (CFW,))):
        for name in names:
            (mirror / name).write_bytes((tree / folder / (CFW if folder == "cfw" else WHOLE)).read_bytes())
    serve(mirror)
    first, second = told(resdiff("models", "fetch", "stablesr", "stablesr-turbo"))
    assert first.startswith(f"stablesr: verified {WHOLE} (") and f" and {CFW} (" in first
    assert second.startswith("stablesr-turbo: verified stablesr_turbo.ckpt (")
    (line,) = told(resdiff("models", "rm", "stablesr"))
    assert line == f"stablesr: deleted {WHOLE}, {WHOLE}.sha256; {CFW} stays, stablesr-turbo needs it in {cache}"
    told(resdiff("models", "rm", "stablesr-turbo"))
    assert told(resdiff("models", "rm", "stablesr"))[0] == f"stablesr: nothing to delete in {cache}"
    result = resdiff("models", "fetch", "stablesr-face")
    assert result.exit_code == 1 and "its address is not known" in result.stderr
