"""The training samples: what they depend on, how crops are cut, what happens to photos that cannot be decoded."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from resdiff.data.scan import Scan, scan
from resdiff.data.training_set import (
    Batch,
    TrainingSet,
    collate,
    epoch_order,
    sample_generator,
)

CROP = (16, 16)


class Numbers:
    """Stands for a degradation: draws one number and remembers the size it was asked for."""

    def draw(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int, float]:
        return height, width, float(torch.rand((), generator=generator))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five photos of different sizes; the blue channel of photo i is i everywhere."""
    for i, (height, width) in enumerate([(16, 16), (20, 40), (40, 20), (33, 17), (64, 64)]):
        pixels = noise(height, width, i)
        pixels[..., 2] = i
        save(tmp_path / "photos" / f"{i}.png", pixels)
    return tmp_path / "photos"


def pairs_of(folder: Path, count: int, scale: int = 4) -> Scan:
    """HR photos and LR photos that are their means over blocks."""
    for i in range(count):
        hr = noise(8 * scale, 12 * scale + 4 * scale * i, i)
        lr = hr.reshape(8, scale, -1, scale, 3).mean(axis=(1, 3)).round().astype(np.uint8)
        save(folder / f"hr/{i}.png", hr)
        save(folder / f"lr/{i}.png", lr)
    return scan(folder / "hr", lr_data_dir=folder / "lr", crop=(4 * scale, 4 * scale), scale=scale)


def photo_of(crop: Tensor) -> int:
    return int(crop[2, 0, 0])


def same(a: Batch, b: Batch) -> bool:
    return (a.index, a.draws, a.captions, a.tags) == (b.index, b.draws, b.captions, b.tags) and torch.equal(a.hr, b.hr)


# --- what a sample depends on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("photos_in", ["memory", "disk"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_do_not_depend_on_workers_batches_or_the_place_of_the_pixels(photos, photos_in, num_workers) -> None:
    found = scan(photos, crop=CROP)
    alone = TrainingSet(found, crop=CROP, seed=3, degradation=Numbers())
    data = TrainingSet(found, crop=CROP, seed=3, degradation=Numbers(), photos_in=photos_in)
    torch.manual_seed(num_workers)
    loader = DataLoader(data, batch_size=3, sampler=range(4, 13), collate_fn=collate, num_workers=num_workers)
    for first, batch in zip((4, 7, 10), loader, strict=True):
        assert same(batch, collate([alone[i] for i in range(first, first + 3)]))


def test_the_device_mode_gives_the_same_samples(photos) -> None:
    found = scan(photos, crop=CROP)
    data = TrainingSet(found, crop=CROP, photos_in="device", device=torch.device("cpu"))
    other = TrainingSet(found, crop=CROP, photos_in="disk")
    assert all(torch.equal(data[i].hr, other[i].hr) for i in range(10))


def test_a_sample_depends_on_seed_and_index(photos) -> None:
    found = scan(photos, crop=CROP)
    draws = [TrainingSet(found, crop=CROP, seed=seed, degradation=Numbers())[i].draw for seed in (0, 1) for i in (0, 1)]
    assert len(set(draws)) == 4
    assert {draw[:2] for draw in draws} == {CROP}


def test_sample_generators_are_hashed_from_seed_index_and_stream() -> None:
    def first(*key: object) -> float:
        return float(torch.rand((), generator=sample_generator(*key)))

    keys = [(0, 1), (1, 0), (0, 0), (2**64 - 1, 0), (-1, 0), (0, 1, "diffusion")]
    assert len({first(*key) for key in keys}) == len(keys)
    assert first(0, 1) == first(0, 1, "sample")
    assert first(0, 1) == pytest.approx(0.7826875448)  # as it was first: a run can be repeated with a later version


def test_every_photo_is_seen_once_per_epoch_in_a_new_order(photos) -> None:
    data = TrainingSet(scan(photos, crop=CROP), crop=CROP)
    epochs = [[photo_of(data[i].hr) for i in range(5 * e, 5 * e + 5)] for e in range(8)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4
    assert epochs[3] == epoch_order(0, 3, 5).tolist()
    with pytest.raises(IndexError, match="index is -1"):
        data[-1]


def test_the_first_photos_of_a_scan_can_be_taken_alone(photos) -> None:
    data = TrainingSet(scan(photos, crop=CROP).first(2), crop=CROP)
    assert data.num_photos == 2
    assert {photo_of(data[i].hr) for i in range(10)} == {0, 1}


def test_the_set_travels_whole_to_a_spawned_worker(photos) -> None:
    data = TrainingSet(scan(photos, crop=CROP), crop=CROP, photos_in="memory")
    loader = DataLoader(data, sampler=[7], collate_fn=collate, num_workers=1, multiprocessing_context="spawn")
    (batch,) = loader
    assert batch.index == [7] and torch.equal(batch.hr[0], data[7].hr.float() / 255)


def test_samples_own_their_pixels_and_nothing_more(photos) -> None:
    data = TrainingSet(scan(photos, crop=CROP), crop=CROP, augmentation="none", photos_in="memory")
    for i in range(10):
        hr = data[i].hr
        assert hr.untyped_storage().nbytes() == hr.numel() == 3 * 16 * 16 and hr.is_contiguous()


# --- crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("crop", "scale"), [((16, 16), 4), ((16, 24), 4), ((12, 6), 2)])
@pytest.mark.parametrize("photos_in", ["memory", "disk"])
def test_lr_crops_show_what_hr_crops_show(tmp_path, crop, scale, photos_in) -> None:
    data = TrainingSet(pairs_of(tmp_path, 3, scale), crop=crop, scale=scale, photos_in=photos_in)
    places = set()
    for i in range(40):
        sample = data[i]
        assert sample.lr is not None and sample.hr.shape == (3, *crop)
        height, width = sample.lr.shape[1:]
        means = sample.hr.double().reshape(3, height, scale, width, scale).mean(dim=(2, 4))
        assert (means - sample.lr).abs().max() <= 0.5
        places.add(tuple(sample.lr.flatten().tolist()))
    assert len(places) > 30


def test_rescaled_photos_show_their_whole_shorter_side(tmp_path) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] * 4, (64, 160, 3))
    save(tmp_path / "a.png", np.ascontiguousarray(ramp))
    for photos_in in ("memory", "disk"):
        data = TrainingSet(scan(tmp_path, crop=CROP), crop=CROP, rescale=True, augmentation="none", photos_in=photos_in)
        assert data[0].hr[0, :, 0].tolist() == [6 + 16 * i for i in range(16)]  # means of four rows
    wide = TrainingSet(scan(tmp_path, crop=(8, 32)), crop=(8, 32), rescale=True, augmentation="poses")
    assert {wide[i].hr.shape for i in range(20)} == {(3, 8, 32)}


def test_photos_are_upright_before_they_are_cut(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first column is the top row, right to left
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    hr = TrainingSet(scan(tmp_path, crop=(32, 16)), crop=(32, 16), augmentation="none")[0].hr
    assert hr[0, :16].max() == 0 and hr[0, 16:].min() == 200


def test_a_crop_brings_its_caption_and_tags(photos) -> None:
    for i in range(5):
        (photos / f"{i}.txt").write_text(f"photo {i}")
    (photos / "2.tags.txt").write_text("a, b")
    data = TrainingSet(scan(photos, crop=CROP), crop=CROP)
    for i in range(10):
        sample = data[i]
        assert sample.caption == f"photo {photo_of(sample.hr)}"
        assert sample.tags == (("a", "b") if photo_of(sample.hr) == 2 else ())


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_float_in_0_1_with_everything_in_order(tmp_path) -> None:
    data = TrainingSet(pairs_of(tmp_path, 2), crop=CROP)
    samples = [data[i] for i in (5, 3)]
    batch = collate(samples)
    assert batch.index == [5, 3] and batch.draws == [None, None] and batch.captions == ["", ""]
    assert batch.hr.dtype == torch.float32 and batch.hr.shape == (2, 3, 16, 16)
    assert batch.lr is not None and batch.lr.shape == (2, 3, 4, 4)
    assert torch.equal(batch.hr[1], samples[1].hr / 255) and batch.hr.max() <= 1
    moved = batch.to("meta")
    assert moved.hr.device.type == "meta" and moved.lr is not None and moved.lr.device.type == "meta"
    assert moved.index == [5, 3]


# --- photos that cannot be decoded -----------------------------------------------------------------------------------


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("photos_in", ["memory", "disk"])
def test_a_torn_photo_is_reported_once_and_the_next_one_takes_its_place(photos, photos_in, caplog) -> None:
    whole = TrainingSet(scan(photos, crop=CROP), crop=CROP, photos_in="memory")
    tear(photos / "1.png")
    with caplog.at_level(logging.WARNING):
        data = TrainingSet(scan(photos, crop=CROP), crop=CROP, photos_in=photos_in)
        assert len(caplog.records) == (1 if photos_in == "memory" else 0)
        shown = [data[i] for i in range(15)]
    (record,) = caplog.records
    assert "1.png cannot be read: " in record.getMessage()
    for i, sample in enumerate(shown):
        order = epoch_order(0, i // 5, 5).tolist()
        expected = order[i % 5]
        assert photo_of(sample.hr) == (order[(i + 1) % 5] if expected == 1 else expected)
        if expected != 1:
            assert torch.equal(sample.hr, whole[i].hr)


def test_a_torn_photo_is_reported_once_by_all_workers_together(photos, tmp_path) -> None:
    tear(photos / "1.png")
    data = TrainingSet(scan(photos, crop=CROP), crop=CROP, photos_in="disk")
    log = logging.FileHandler(tmp_path / "log")  # forked workers write to it as well
    logging.getLogger("resdiff").addHandler(log)
    try:
        for samples in (range(5), range(5, 20)):  # the torn photo comes up once, then three times in both workers
            list(DataLoader(data, batch_size=5, sampler=samples, collate_fn=collate, num_workers=2))
    finally:
        logging.getLogger("resdiff").removeHandler(log)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "1.png cannot be read: " in line and line.endswith("the next photo takes its place")


@pytest.mark.parametrize("photos_in", ["memory", "disk"])
def test_a_set_without_any_whole_photo_is_refused_in_one_line(photos, photos_in) -> None:
    for path in photos.iterdir():
        tear(path)
    with pytest.raises(ValueError, match="none of the 5 photos can be decoded"):
        TrainingSet(scan(photos, crop=CROP), crop=CROP, photos_in=photos_in)[0]


# --- arguments -------------------------------------------------------------------------------------------------------


def test_auto_holds_photos_in_memory_only_where_they_fit(photos, monkeypatch) -> None:
    found = scan(photos, crop=CROP)
    assert TrainingSet(found, crop=CROP).photos_in == "memory"
    needed = 3 * sum(file.height * file.width for file in found.used)
    for free, processes, expected in ((3 * needed, 1, "memory"), (3 * needed - 1, 1, "disk"), (3 * needed, 2, "disk")):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: type("", (), {"available": free}))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert TrainingSet(found, crop=CROP).photos_in == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentation": "turn"}, "augmentation is 'turn'; choose none, flip, poses"),
        ({"photos_in": "ram"}, "photos_in is 'ram'; choose auto, memory, disk, device"),
        ({"photos_in": "device"}, "device is None; pass the device"),
        ({"crop": (32, 16)}, "0.png is 16x16; pass a size that every photo holds"),
    ],
)
def test_arguments_are_checked_in_one_line(photos, options, message) -> None:
    with pytest.raises(ValueError) as caught:
        TrainingSet(scan(photos, crop=CROP), **({"crop": CROP} | options))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_pairs_cannot_be_asked_for_is_told_in_one_line(tmp_path, photos) -> None:
    pairs = pairs_of(tmp_path / "pairs", 2)
    for options, message in (
        ({"crop": (16, 18)}, "crop is (16, 18), which pairs of scale 4 cannot be cut to"),
        ({"rescale": True}, "rescale is given, but the files have LR partners already"),
        ({"degradation": Numbers()}, "degradation is given, but the files have LR partners already"),
    ):
        with pytest.raises(ValueError) as caught:
            TrainingSet(pairs, **({"crop": CROP} | options))
        assert message in str(caught.value)
    mixed = Scan(pairs.used + scan(photos, crop=CROP).used, [])
    with pytest.raises(ValueError, match="2 of 7 files have an LR partner"):
        TrainingSet(mixed, crop=CROP)
    with pytest.raises(ValueError, match="nothing is used"):
        TrainingSet(Scan([], []), crop=CROP)
