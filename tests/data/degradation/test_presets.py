"""Every degradation by name: determinism, sizes, ranges; and degradations as YAML."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader

from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.bicubic import Bicubic
from resdiff.data.degradation.face import CODEFORMER, Face
from resdiff.data.degradation.light import LIGHT
from resdiff.data.degradation.presets import CLASSES, PRESETS, from_yaml, preset, to_yaml

every_preset = pytest.mark.parametrize("degradation", PRESETS.values(), ids=PRESETS)
RANDOM = {name: d for name, d in PRESETS.items() if not isinstance(d, Bicubic)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(batch: int, height: int, width: int) -> torch.Tensor:
    coarse = torch.rand(batch, 3, 8, 8, generator=seeded(5))
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def share_of_differences(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs() > 1e-5).float().mean())


@every_preset
@pytest.mark.parametrize(("height", "width"), [(52, 68), (44, 36)])
def test_lr_has_its_size_lies_in_the_unit_range_and_is_finite(
    degradation: Degradation, height: int, width: int
) -> None:
    hr = photos(2, height, width)
    lr = degradation(hr, seeded(1))
    assert lr.shape == (2, 3, height // degradation.scale, width // degradation.scale)
    assert lr.dtype == torch.float32 and lr.isfinite().all() and lr.min() >= 0 and lr.max() <= 1
    assert lr.std() > 0.01 and not lr.requires_grad


@pytest.mark.parametrize("name", [name for name, d in PRESETS.items() if d.scale == 1])
def test_presets_at_hrs_own_size_take_odd_sides(name: str) -> None:
    assert PRESETS[name](photos(2, 37, 51), seeded(0)).shape == (2, 3, 37, 51)


@every_preset
def test_the_same_generator_gives_the_same_pair(degradation: Degradation) -> None:
    hr = photos(2, 52, 68)
    before = hr.clone()
    assert torch.equal(degradation(hr, seeded(4)), degradation(hr, seeded(4)))
    assert torch.equal(hr, before)  # and HR is left as it was
    drawn = [degradation.pair(hr, [degradation.draw(52, 68, seeded(i)) for i in (8, 9)]) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


@pytest.mark.parametrize("degradation", RANDOM.values(), ids=RANDOM)
def test_other_seeds_give_other_images(degradation: Degradation) -> None:
    hr = photos(1, 52, 68)
    lr = [degradation(hr, seeded(i)) for i in range(8)]
    assert len({tuple(x.flatten().tolist()) for x in lr}) > 2


@every_preset
def test_a_batch_is_three_single_images(degradation: Degradation) -> None:
    hr = photos(3, 52, 68)
    for seed in range(4):
        draws = [degradation.draw(52, 68, seeded(10 * seed + i)) for i in range(3)]
        together = degradation.pair(hr, draws)
        for i in range(3):
            alone = degradation.pair(hr[i : i + 1], draws[i : i + 1])
            assert torch.allclose(together[0][i], alone[0][0], atol=1e-5)
            # a value on a tie of a JPEG coefficient or of the last rounding may fall to the other side
            assert share_of_differences(together[1][i], alone[1][0]) < 0.02


@every_preset
def test_a_list_of_generators_gives_each_image_its_own(degradation: Degradation) -> None:
    hr = photos(1, 44, 36)
    lr = degradation(hr.expand(3, -1, -1, -1), [seeded(1), seeded(2), seeded(1)])
    assert share_of_differences(lr[0], lr[2]) < 0.02


@every_preset
def test_draws_travel_between_processes(degradation: Degradation) -> None:
    hr = photos(1, 44, 36)
    draws = [degradation.draw(44, 36, seeded(2))]
    (sent, itself) = next(iter(DataLoader([(draws, degradation)], collate_fn=lambda items: items[0], num_workers=1)))
    assert sent is not draws and itself is not degradation
    assert torch.equal(degradation.pair(hr, draws)[1], degradation.pair(hr, sent)[1])
    assert itself == degradation


@every_preset
def test_a_degradation_prints_its_numbers_and_stays_frozen(degradation: Degradation) -> None:
    assert repr(degradation).startswith(f"{type(degradation).__name__}(")
    field = dataclasses.fields(degradation)[0].name
    assert f"{field}=" in repr(degradation)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(degradation, field, 3)


@every_preset
def test_yaml_gives_an_equal_degradation_back(degradation: Degradation) -> None:
    text = to_yaml(degradation)
    assert from_yaml(text) == degradation
    assert from_yaml(yaml.safe_load(text)) == degradation
    assert text.splitlines()[0] == f"_class_name: {type(degradation).__name__}"


def test_names_are_of_different_degradations() -> None:
    values = list(PRESETS.values())
    assert all(a != b for i, a in enumerate(values) for b in values[:i])
    assert {type(d) for d in values} == set(CLASSES.values())


def test_a_preset_is_found_by_name() -> None:
    assert preset("light") is LIGHT and preset("face-codeformer") is CODEFORMER


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("realesgran", "did you mean 'realesrgan'?"),
        ("bicubic_pil", "did you mean 'bicubic-pil'?"),
        ("RESSHIFT", "did you mean 'resshift'?"),
        ("jpeg2000", "choose one of realesrgan, resshift, "),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"^degradation .* is unknown, ") as error:
        preset(name)
    assert hint in str(error.value) and "\n" not in str(error.value)


def test_fields_left_out_keep_their_defaults() -> None:
    assert from_yaml("_class_name: Bicubic") == Bicubic()
    assert from_yaml({"_class_name": "Bicubic", "kernel": "pil", "scale": 2}) == Bicubic(kernel="pil", scale=2)


def test_whole_numbers_pass_as_floats_and_lists_as_tuples() -> None:
    text = "{_class_name: Face, sigma: [1, 2], reduction: [1, 4], noise: [0, 5], jpeg: [60, 90]}"
    face = from_yaml(text)
    assert face == Face(sigma=(1.0, 2.0), reduction=(1.0, 4.0), noise=(0.0, 5.0), jpeg=(60.0, 90.0))
    assert all(type(v) is float for v in face.sigma)


FACE = "_class_name: Face, sigma: [1, 2], reduction: [1, 4], noise: [0, 5]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{_class_name: Bicubic, kernal: pil}", "Bicubic has no field 'kernal', did you mean 'kernel'?"),
        ("{_class_name: Bicubic, 7: pil}", "Bicubic has no field 7, choose one of kernel, scale, round8"),
        ("{_class_name: Bicubic, scale: 4.0}", "Bicubic.scale is 4.0, give a value of type int"),
        ("{_class_name: Bicubic, scale: true}", "Bicubic.scale is True, give a value of type int"),
        ("{_class_name: Bicubic, scale: [4]}", "Bicubic.scale is [4], give a value of type int"),
        ("{_class_name: Bicubic, round8: 1}", "Bicubic.round8 is 1, give a value of type bool"),
        ("{_class_name: Bicubic, scale: 0}", "scale is 0, give a whole factor of at least 1"),
        ("{_class_name: Light, clean_prob: 1e-1}", "Light.clean_prob is '1e-1', give a value of type float"),
        ("{_class_name: Light, clean_prob: true}", "Light.clean_prob is True, give a value of type float"),
        ("{_class_name: Light, noise: [1]}", "Light.noise is [1], give a value of type tuple[float, float]"),
        ("{_class_name: Light, noise: [1, x]}", "Light.noise[1] is 'x', give a value of type float"),
        ("{_class_name: Light, noise: 3}", "Light.noise is 3, give a value of type tuple[float, float]"),
        (f"{{{FACE}}}", "Face.jpeg is missing, give a value of type tuple[float, float]"),
        ("{_class_name: bsrgan}", "_class_name is 'bsrgan', did you mean 'BSRGAN'?"),
        ("{_class_name: Jpeg}", "_class_name is 'Jpeg', choose one of RealESRGAN, BSRGAN, Bicubic, Face, Light"),
        ("{_class_name: Lihgt}", "_class_name is 'Lihgt', did you mean 'Light'?"),
        ("{_class_name: 4}", "_class_name is 4, choose one of RealESRGAN, BSRGAN, Bicubic, Face, Light"),
        ("{_class_name: [Light]}", "_class_name is ['Light'], did you mean 'Light'?"),
        ("{scale: 4}", "degradation has no _class_name, add one of RealESRGAN, BSRGAN, Bicubic, Face, Light"),
        ("realesrgan", "degradation is 'realesrgan', give a mapping with a _class_name and its fields"),
        ("", "degradation is None, give a mapping with a _class_name and its fields"),
        (
            "{_class_name: Bicubic, kernel: lanczos}",
            "Bicubic.kernel is 'lanczos', give a value of type 'matlab' | 'matlab_legacy' | 'pil' | 'torch'",
        ),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        from_yaml(text)
    assert str(error.value) == message


def test_broken_yaml_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^degradation is not readable as YAML: ") as error:
        from_yaml("{_class_name: Light\nscale: [4")
    assert "\n" not in str(error.value)


def test_fields_of_a_nested_stage_are_checked_and_named() -> None:
    content = yaml.safe_load(to_yaml(preset("realesrgan")))
    content["first"]["kernels"]["sizes"][2] = 7.5
    with pytest.raises(ValueError, match=r"^RealESRGAN.first.kernels.sizes\[2\] is 7.5, give a value of type int$"):
        from_yaml(content)
    del content["first"]["kernels"]["sizes"]
    with pytest.raises(ValueError, match=r"^RealESRGAN.first.kernels.sizes is missing"):
        from_yaml(content)
    content["first"] = 3
    with pytest.raises(ValueError, match=r"^RealESRGAN.first is 3, give a value of type Stage$"):
        from_yaml(content)
