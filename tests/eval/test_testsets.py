"""Test sets: their kinds, how partners are found, what is refused, and LR that is made."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.eval.harness.degrading import make_lr
from resdiff.eval.harness.images import read_image
from resdiff.eval.harness.results import find_results
from resdiff.eval.harness.testsets import Sample, TestSet, digest, open_testset, open_testsets, restored_size
from resdiff.resize import matlab_legacy

DATA = Path(os.environ.get("RESDIFF_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.cumsum(rng.integers(-9, 10, (height, width, 3)), axis=0) + 128).clip(0, 255).astype(np.uint8)


def save(path: Path, height: int, width: int, seed: int = 0, grey: bool = False) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pixels(height, width, seed)[..., 0] if grey else pixels(height, width, seed)
    Image.fromarray(values).save(path)
    return values


def pair(root: Path, hr: str, lr: str, seed: int = 0) -> None:
    values = save(root / hr, 24, 32, seed)
    (root / lr).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(matlab_legacy(values, 0.25)).save(root / lr)


@pytest.fixture
def pairs(tmp_path) -> Path:
    for i, name in enumerate(("b", "a")):
        pair(tmp_path / "tiny", f"HR/{name}.png", f"LRx4/{name}.png", i)
    return tmp_path / "tiny"


def test_a_folder_of_images_is_lr_alone(tmp_path):
    save(tmp_path / "photos" / "b.jpg", 5, 7)
    save(tmp_path / "photos" / "a.png", 9, 4)
    (tmp_path / "photos" / "readme.txt").write_text("no image")
    testset = open_testset(str(tmp_path / "photos"), 4)
    assert (testset.name, testset.has_hr, testset.degradation) == ("photos", False, None)
    assert [(s.name, s.lr.name, s.hr) for s in testset.samples] == [("a", "a.png", None), ("b", "b.jpg", None)]


@pytest.mark.parametrize("hr", ["HR", "GT", "gt", "test_HR"])
@pytest.mark.parametrize("lr", ["LRx4", "LR", "lq", "test_LR"])
def test_pairs_lie_in_two_folders_of_the_usual_names(tmp_path, hr, lr):
    pair(tmp_path / "s", f"{hr}/1.png", f"{lr}/1.png")
    testset = open_testset(str(tmp_path / "s"), 4)
    assert testset.has_hr and [(s.lr.parent.name, s.hr.parent.name) for s in testset.samples] == [(lr, hr)]


def test_folders_of_other_names_are_given_and_may_lie_anywhere(tmp_path):
    pair(tmp_path, "a/sharp/1.png", "b/blurred/1.png")
    testset = open_testset(f"{tmp_path / 'a'} hr=sharp lr={tmp_path / 'b' / 'blurred'} name=mine", 4)
    assert testset.name == "mine" and testset.samples[0].lr == tmp_path / "b" / "blurred" / "1.png"
    assert not open_testset(f"{tmp_path / 'b'} lr=blurred", 4).has_hr


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("0801", "0801x4"),
        ("Canon_004_HR", "Canon_004_LR4"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR"),
        ("DSC_1_x1", "DSC_1_x4"),
        ("img-gt", "img-lq"),
        ("a", "a"),
    ],
)
def test_partners_may_differ_by_an_ending(tmp_path, hr, lr):
    pair(tmp_path / "s", f"HR/{hr}.png", f"LR/{lr}.webp")
    pair(tmp_path / "s", "HR/other.png", "LR/other.webp")
    samples = {s.name: s.hr.stem for s in open_testset(str(tmp_path / "s"), 4).samples}
    assert samples == {lr: hr, "other": "other"}


def test_images_without_partner_are_named_on_either_side(pairs):
    save(pairs / "LRx4" / "c.png", 6, 8)
    save(pairs / "HR" / "d.png", 24, 32)
    with pytest.raises(ValueError) as caught:
        open_testset(str(pairs), 4)
    assert "1 of the 3 LR images have no HR (c.png) and 1 of the 3 HR images have no LR (d.png)" in str(caught.value)


def test_endings_that_fit_twice_pair_nothing(tmp_path):
    pair(tmp_path / "s", "HR/1_HR.png", "LR/1_LR4.png")
    save(tmp_path / "s" / "LR" / "1x4.png", 6, 8)
    with pytest.raises(ValueError, match=r"2 of the 2 LR images have no HR \(1_LR4.png, 1x4.png\)"):
        open_testset(str(tmp_path / "s"), 4)


def test_sizes_that_do_not_fit_are_counted_and_the_first_named(pairs):
    for name in "cdefg":
        save(pairs / "LRx4" / f"{name}.png", 6, 8)
        save(pairs / "HR" / f"{name}.png", 24, 33)
    with pytest.raises(ValueError) as caught:
        open_testset(str(pairs), 4)
    message = str(caught.value)
    assert "5 of the 7 HR images of tiny are not 4 times as large" in message
    assert "c.png (33x24, LR 8x6)" in message and "2 more" in message and "f.png" not in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sead=1", "did you mean 'seed'"),
        ("seed=1", "seed= without degradation="),
        ("degradation=bicubicmatlab", "did you mean 'bicubic-matlab'"),
        ("degradation=stablesr", "the scale is 4; choose one of realesrgan"),
        ("degradation=light seed=-1", "seed=-1 is no seed"),
        ("degradation=light lr=LRx4", "both lr= and degradation="),
        ("hr=HR", "LR in no folder"),
        ("hr=HR lr=HR", "in one folder"),
        ("lr=LRx2", "lr=LRx2 is not a folder"),
        ("name=a/b", "cannot be the name"),
        ("name=", "cannot be the name"),
    ],
)
def test_wrong_settings_are_one_line(pairs, words, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_testset(f"{pairs} {words}", 4)
    assert "\n" not in str(caught.value)


def test_folders_without_images_are_refused(tmp_path, pairs):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no image; it is empty"):
        open_testset(str(tmp_path / "empty"), 4)
    with pytest.raises(ValueError, match="holds no image; it has the folders empty, tiny, name one of them"):
        open_testset(str(tmp_path), 4)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        open_testset(str(tmp_path / "nowhere"), 4)


def test_a_scale_without_lr_says_what_to_add(pairs):
    with pytest.raises(ValueError, match=r"LR in no folder LRx2 or .*add lr=FOLDER, or degradation=PRESET"):
        open_testset(str(pairs), 2)


def test_files_that_are_no_images_are_counted_and_one_named(pairs):
    (pairs / "LRx4" / "a.png").write_bytes(b"not a picture")
    (pairs / "HR" / "b.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 files of data set tiny cannot be read; the first: .*LRx4/a.png"):
        open_testset(str(pairs), 4)


def test_two_files_of_one_stem_are_ambiguous(pairs):
    save(pairs / "HR" / "a.bmp", 24, 32)
    with pytest.raises(ValueError, match=r"a.bmp and a.png differ only in their suffix"):
        open_testset(str(pairs), 4)


def test_two_sets_of_one_name_need_another(pairs):
    made = f"{pairs} degradation=bicubic-matlab"
    with pytest.raises(ValueError, match="two sets are called 'tiny'"):
        open_testsets([str(pairs), made], 4)
    assert [s.name for s in open_testsets([str(pairs), f"{made} name=made"], 4)] == ["tiny", "made"]


def test_a_folder_that_is_only_called_hr_lends_the_name_of_the_one_above(pairs):
    assert open_testset(f"{pairs / 'HR'} degradation=light", 4).name == "tiny"


def test_lr_made_by_the_old_matlab_kernel_is_that_of_the_pairs(pairs):
    made = open_testset(f"{pairs} degradation=bicubic-matlab-legacy", 4)
    assert made.seed == 0 and made.samples[0].lr is None
    for sample, other in zip(made.samples, open_testset(str(pairs), 4).samples, strict=True):
        assert torch.equal(degraded(made, sample), read_image(other.lr))


def degraded(testset: TestSet, sample: Sample) -> torch.Tensor:
    return make_lr(read_image(sample.hr), testset.degradation, testset.seed, sample.name)


def test_random_lr_depends_on_seed_and_name_and_on_nothing_else():
    hr = torch.from_numpy(pixels(48, 64)).permute(2, 0, 1)
    first = make_lr(hr, "realesrgan", 0, "a")
    torch.manual_seed(99)
    make_lr(hr, "realesrgan", 3, "z")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(make_lr(hr, "realesrgan", 0, "a"), first)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert first.shape == (3, 12, 16) and first.dtype == torch.uint8
    assert not torch.equal(make_lr(hr, "realesrgan", 0, "b"), first)
    assert not torch.equal(make_lr(hr, "realesrgan", 1, "a"), first)


def test_grey_stays_grey_unless_the_degradation_adds_colour(tmp_path):
    values = save(tmp_path / "s" / "HR" / "1.png", 24, 32, grey=True)
    testset = open_testset(f"{tmp_path / 's'} degradation=bicubic-matlab-legacy", 4)
    lr = degraded(testset, testset.samples[0])
    assert torch.equal(lr, torch.from_numpy(matlab_legacy(values, 0.25))[None])


def test_hr_that_no_grid_of_lr_fits_is_refused_with_the_way_out(tmp_path):
    save(tmp_path / "s" / "1.png", 26, 32)
    with pytest.raises(
        ValueError, match=r"1 of the 1 HR images .* 1.png \(32x26\); make the set with eval/make_testset"
    ):
        open_testset(f"{tmp_path / 's'} degradation=light", 4)


def test_the_digest_is_of_names_and_bytes(pairs):
    testset = open_testset(str(pairs), 4)
    first = digest(testset)
    assert first == digest(open_testset(f"{pairs} name=other", 4)) and len(first) == 64
    content = (pairs / "HR" / "a.png").read_bytes()
    (pairs / "HR" / "a.png").write_bytes(content + b"\0")
    assert digest(testset) != first


def test_results_of_other_tools_are_found_by_name(pairs, tmp_path):
    testset = open_testset(str(pairs), 4)
    for folder in (tmp_path / "flat", tmp_path / "nested" / "tiny"):
        save(folder / "a.png", 24, 32)
        save(folder / "b_x4.webp", 24, 32)
    flat = find_results(tmp_path / "flat", testset)
    assert {name: path.name for name, path in flat.items()} == {"a": "a.png", "b": "b_x4.webp"}
    assert find_results(tmp_path / "nested", testset)["a"] == tmp_path / "nested" / "tiny" / "a.png"


def test_a_result_has_the_size_of_hr_or_the_enlarged_lr(pairs):
    for spec in (f"{pairs}", f"{pairs} lr=LRx4", f"{pairs} degradation=light"):
        assert restored_size(open_testset(spec, 4).samples[0], 4) == (24, 32)


def test_results_that_are_missing_or_of_another_size_are_named(pairs, tmp_path):
    testset = open_testset(str(pairs), 4)
    save(tmp_path / "r" / "a.png", 24, 31)
    with pytest.raises(ValueError, match="lacks 1 of the 2 images of tiny: b;"):
        find_results(tmp_path / "r", testset)
    save(tmp_path / "r" / "b.png", 24, 32)
    with pytest.raises(ValueError, match=r"1 of the 2 results .* a.png \(31x24, not 32x24\)"):
        find_results(tmp_path / "r", testset)
    alone = open_testset(f"{pairs} lr=LRx4", 4)
    with pytest.raises(ValueError, match=r"a.png \(31x24, not 32x24\)"):
        find_results(tmp_path / "r", alone)
    with pytest.raises(ValueError, match="does not exist"):
        find_results(tmp_path / "none", testset)


@pytest.mark.skipif(not (DATA / "set5").is_dir(), reason=f"no test sets in {DATA}")
def test_set5_is_reproduced_bit_for_bit():
    published, made = open_testsets(
        [f"{DATA / 'set5'}", f"{DATA / 'set5'} degradation=bicubic-matlab-legacy name=m"], 4
    )
    assert len(published.samples) == 5
    for one, other in zip(published.samples, made.samples, strict=True):
        assert torch.equal(read_image(one.lr), degraded(made, other))


@pytest.mark.skipif(not (DATA / "realpairs").is_dir(), reason=f"no test sets in {DATA}")
def test_published_results_of_real_pairs_are_found():
    testset = open_testset(str(DATA / "realpairs" / "realsr"), 4)
    found = find_results(DATA / "realpairs" / "realsr" / "SR_osediff", testset)
    assert list(found) == ["Canon_004_LR4", "Canon_031_LR4", "Nikon_006_LR4", "Nikon_031_LR4"]
