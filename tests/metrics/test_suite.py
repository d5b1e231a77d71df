"""The figures under a protocol: what each name means there, what is missing, and what one image or set scores."""

import pytest
import torch

from resdiff.metrics import measures
from resdiff.metrics.catalogue import FIGURES, figure
from resdiff.metrics.measures import GROUPS, Images
from resdiff.metrics.niqe import niqe
from resdiff.metrics.optional_pyiqa import PYIQA
from resdiff.metrics.protocols import BASICSR_Y, CLASSIC_Y, FULL_SIZE, PROTOCOLS, protocol
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.metrics.suite import OF_SETS, Suite

CPU = torch.device("cpu")


@pytest.fixture
def images() -> Images:
    random = torch.Generator().manual_seed(0)
    hr = torch.rand(1, 3, 24, 48, generator=random)
    hr = torch.nn.functional.interpolate(hr, scale_factor=8, mode="bilinear")
    sr = (hr + 0.03 * torch.randn(hr.shape, generator=random)).clamp(0, 1)
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    return Images(*((x * 255).round().to(torch.uint8) for x in (sr, hr, lr)))


def suite(names: str, chosen=CLASSIC_Y, **arguments) -> Suite:
    return Suite(names.split(), chosen, scale=4, device=CPU, **arguments)


def test_every_name_belongs_to_exactly_one_group_or_to_pyiqa() -> None:
    grouped = [name for group in GROUPS for name in group]
    assert len(grouped) == len(set(grouped))
    assert {*grouped, *PYIQA, *OF_SETS} == set(FIGURES) and not set(grouped) & set(PYIQA)
    assert {name for name, one in FIGURES.items() if one.of_set} == set(OF_SETS)


@pytest.mark.parametrize(
    ("chosen", "psnr_options", "ssim_options", "border", "luma"),
    [
        (CLASSIC_Y, {"round_y": True}, {"round_y": True}, 4, "bt601"),
        (BASICSR_Y, {"round_y": False}, {"round_y": False}, 4, "bt601"),
        (FULL_SIZE, {"round_y": False, "eps": 1e-8}, {"round_y": True, "clamp": True}, 0, "yiq"),
    ],
)
def test_a_protocol_decides_luma_rounding_border_clamp_and_niqes_luma(
    images, chosen, psnr_options, ssim_options, border, luma
) -> None:
    found = suite("psnr_y ssim_y niqe", chosen).measure(images, ["psnr_y", "ssim_y", "niqe"])
    assert found["psnr_y"] == psnr(images.sr, images.hr, border, **psnr_options).item()
    assert found["ssim_y"] == ssim(images.sr, images.hr, border, **ssim_options).item()
    assert found["niqe"] == niqe(images.sr, luma=luma).item()


def test_protocols_differ_in_what_they_say_and_in_their_numbers(images) -> None:
    variants = {p.name: suite("psnr_y", p).columns["psnr_y"].variant for p in (CLASSIC_Y, BASICSR_Y, FULL_SIZE)}
    assert len(set(variants.values())) == 3 and variants["classic-y"] == "BT.601 Y rounded, crop 4"
    values = {
        p.name: suite("ssim_y", p).measure(images, ["ssim_y"])["ssim_y"] for p in (CLASSIC_Y, BASICSR_Y, FULL_SIZE)
    }
    assert len(set(values.values())) == 3


def test_the_named_protocols_are_those_of_the_tables() -> None:
    assert [p.name for p in PROTOCOLS] == [
        "classic-y", "basicsr-y", "stablesr-crop512", "full-size", "resshift-imagenet256"
    ]  # fmt: skip
    assert [p.hr_size for p in PROTOCOLS] == [None, None, 512, None, 256]
    with pytest.raises(ValueError, match=r"did you mean 'full-size'\?"):
        protocol("fullsize")


def test_a_figure_that_needs_what_is_not_there_has_no_value(images) -> None:
    alone = Images(sr=images.sr[..., :90, :90])
    found = suite("psnr_y niqe lr_consistency sharpness").measure(
        alone, ["psnr_y", "niqe", "lr_consistency", "sharpness"]
    )
    assert found["psnr_y"] is found["niqe"] is found["lr_consistency"] is None
    assert found["sharpness"] > 0


@pytest.mark.parametrize(("name", "chosen", "side"), [
    ("ssim_y", CLASSIC_Y, 19), ("ssim_y", FULL_SIZE, 11), ("psnr_y", CLASSIC_Y, 9), ("psnr_y", FULL_SIZE, 1),
    ("flat_noise", CLASSIC_Y, 11), ("sharpness", CLASSIC_Y, 3),
])  # fmt: skip
def test_the_smallest_image_of_a_figure_has_a_value_and_a_smaller_one_has_none(name, chosen, side) -> None:
    own = suite(name, chosen)
    assert own.columns[name].figure.smallest == (side, side)
    random = torch.Generator().manual_seed(0)
    sr, hr = torch.randint(100, 104, (2, 1, 3, side, side), dtype=torch.uint8, generator=random)
    assert own.measure(Images(sr=sr, hr=hr), [name])[name] is not None
    if side > 1:
        smaller = Images(sr=sr[..., 1:], hr=hr[..., 1:])
        assert own.measure(smaller, [name])[name] is None


def test_an_infinite_psnr_is_no_number(images) -> None:
    same = Images(sr=images.hr, hr=images.hr)
    assert suite("psnr_y").measure(same, ["psnr_y"]) == {"psnr_y": None}
    assert suite("psnr_y", FULL_SIZE).measure(same, ["psnr_y"])["psnr_y"] == pytest.approx(80)


def test_only_what_is_asked_for_is_computed(images, monkeypatch) -> None:
    monkeypatch.setattr(measures, "ssim", lambda *_, **__: pytest.fail("was not asked for"))
    assert set(suite("psnr_y ssim_y").measure(images, ["psnr_y"])) == {"psnr_y"}


def test_both_clip_figures_come_out_of_one_forward_pass(images, monkeypatch, tmp_path) -> None:
    calls = []
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.9]])
    monkeypatch.setattr(measures, "load_clip_iqa", lambda **_: lambda x: calls.append(x.shape) or probabilities)
    (tmp_path / "RN50.pt").write_bytes(b"weights")
    monkeypatch.setattr(measures, "find_clip", lambda *_: tmp_path / "RN50.pt")
    both = suite("clip_iqa clip_iqa_pair")
    found = both.measure(images, ["clip_iqa", "clip_iqa_pair"])
    assert found == {"clip_iqa": pytest.approx(0.3), "clip_iqa_pair": pytest.approx(0.9)} and len(calls) == 1
    assert both.columns["clip_iqa"].weights == both.columns["clip_iqa_pair"].weights
    assert len(both.columns["clip_iqa"].weights["RN50.pt"]) == 64


def test_sets_are_compared_by_features_and_a_set_with_itself_has_no_distance(images, monkeypatch, tmp_path) -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    monkeypatch.setattr("resdiff.metrics.inception.load_inception", lambda _: network)
    monkeypatch.setattr("resdiff.metrics.suite.find_weights", lambda *_: tmp_path / "w")
    (tmp_path / "w").write_bytes(b"weights")
    of_sets = suite("psnr_y fid kid")
    assert of_sets.of_image == ["psnr_y"] and of_sets.of_set == ["fid", "kid"]
    assert of_sets.embed(images.sr).shape == (12,)
    assert of_sets.embed(images.sr[:, :1]).shape == (12,)  # grey
    a, b = torch.randn(2, 30, 12, generator=torch.Generator().manual_seed(0))
    assert of_sets.measure_set(a, a)["fid"] == pytest.approx(0, abs=1e-9)
    assert of_sets.measure_set(a, b + 1)["fid"] > 5


def test_missing_weights_are_an_error_or_a_column_that_says_what_is_missing(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79\.pth"):
        suite("psnr_y lpips", weights_dir=tmp_path)
    some = suite("lpips psnr_y fid", weights_dir=tmp_path, skip_missing=True)
    assert list(some.columns) == ["lpips", "psnr_y", "fid"]
    assert some.of_image == ["psnr_y"] and some.of_set == []
    assert "alexnet-owt-7be5be79.pth" in some.columns["lpips"].missing


def test_pyiqas_metrics_are_columns_that_say_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyiqa", None)
    column = suite("musiq", skip_missing=True).columns["musiq"]
    assert column.figure.better == "higher" and "pip install 'resdiff[pyiqa]'" in column.missing


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metric 'lpip' is unknown; did you mean 'lpips'\?"):
        figure("lpip")
    with pytest.raises(ValueError, match="name each once"):
        suite("psnr_y psnr_y")
    with pytest.raises(ValueError, match="metrics are none"):
        suite("")
