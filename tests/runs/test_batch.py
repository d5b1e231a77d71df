"""Many files past every kind of trouble, with the model kept busy and memory bounded."""

import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from resdiff.images import Photo, to_uint8
from resdiff.pictures import Picture
from resdiff.runs import batch
from resdiff.runs.batch import Saving, Summary, run
from resdiff.runs.errors import describe
from resdiff.runs.inputs import find_inputs
from resdiff.runs.jobs import Job, plan_outputs
from resdiff.runs.restorer import Restored


def photo_file(path: Path, size: tuple[int, int] = (6, 4), value: int = 100, mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path, **options)
    return path


class Model:
    """A model without weights: `restore` on batches, nearest neighbour x4 unless told otherwise."""

    def __init__(self, restore=None):
        self.restore = restore or nearest

    def size(self, photo: Photo) -> tuple[int, int]:
        return 4 * photo.pixels.shape[1], 4 * photo.pixels.shape[2]

    def __call__(self, photos: list[Photo]) -> list[Restored]:
        return self.restore(photos)


def nearest(photos: list[Photo]) -> list[Restored]:
    large = [to_uint8(p.pixels.repeat_interleave(4, 1).repeat_interleave(4, 2)) for p in photos]
    return [Restored(Picture(x.movedim(0, -1).numpy(), {})) for x in large]


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- running ---------------------------------------------------------------------------------------------------------


def jobs_in(tmp_path: Path) -> list[Job]:
    return plan_outputs(find_inputs([str(tmp_path / "in")], tmp_path / "out").inputs, tmp_path / "out")


def test_every_file_is_restored_and_written(tmp_path, capsys):
    for name, size in (("a.png", (6, 4)), ("sub/b.jpg", (5, 3)), ("c.bmp", (6, 4))):
        photo_file(tmp_path / "in" / name, size)
    summary = run(jobs_in(tmp_path), Model(nearest), summary=Summary(skipped=2))
    assert str(summary) == "3 written, 0 failed, 2 skipped" and summary.exit_code == 0
    assert names_below(tmp_path / "out") == ["a.png", "c.png", "sub/b.png"]
    with Image.open(tmp_path / "out" / "sub" / "b.png") as image:
        assert image.size == (20, 12) and image.getpixel((19, 11)) == (100, 100, 100)
    assert "images/s" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [True, False])
def test_bad_files_are_reported_by_name_and_the_rest_goes_on(tmp_path, capsys, beside):
    for name in ("a.png", "m.png", "z.png"):
        photo_file(tmp_path / "in" / name)
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "text.jpg").write_text("hello")
    whole = photo_file(tmp_path / "in" / "cut.png", (60, 60)).read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) - 40])
    jobs = [*jobs_in(tmp_path), Job(tmp_path / "in" / "none.png", tmp_path / "out" / "none.png")]
    summary = run(jobs, Model(nearest), batch_size=2, beside=beside)
    assert str(summary) == "3 written, 4 failed, 0 skipped" and summary.exit_code == 1
    assert names_below(tmp_path / "out") == ["a.png", "m.png", "z.png"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 4
    for name, said in (
        ("empty", "is empty"),
        ("text", "not an image"),
        ("cut", "cannot be read"),
        ("none", "not exist"),
    ):
        assert sum(f"{name}." in line and said in line for line in lines) == 1


def test_an_exception_in_the_model_costs_only_its_file(tmp_path, capsys):
    for index in range(4):
        photo_file(tmp_path / "in" / f"{index}.png", value=index)

    def out_of_memory(photos):
        if any(p.pixels[0, 0, 0] < -0.99 and p.pixels[0, 0, 0] > -1 for p in photos):  # the file of value 1
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return nearest(photos)

    summary = run(jobs_in(tmp_path), Model(out_of_memory), batch_size=4)
    assert (summary.written, summary.failed) == (3, 1)
    assert names_below(tmp_path / "out") == ["0.png", "2.png", "3.png"]
    assert f"Error: {tmp_path / 'in' / '1.png'}: RuntimeError: CUDA out of memory.\n" in capsys.readouterr().err


def test_debug_raises_the_first_failure(tmp_path):
    photo_file(tmp_path / "in" / "a.png")
    with pytest.raises(ZeroDivisionError):
        run(jobs_in(tmp_path), Model(lambda photos: 1 / 0), debug=True)
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        run(jobs_in(tmp_path), Model(nearest), debug=True)


def test_an_unwritable_target_is_reported(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        photo_file(tmp_path / "in" / name)
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    summary = run(jobs_in(tmp_path), Model(nearest))
    assert (summary.written, summary.failed) == (1, 1)
    assert f"{tmp_path / 'out' / 'a.png'} cannot be written: Is a directory; choose another" in capsys.readouterr().err
    assert names_below(tmp_path / "out") == ["b.png"]


def test_transparency_for_jpeg_is_refused_before_the_model_runs(tmp_path, capsys):
    photo_file(tmp_path / "in" / "a.png", mode="RGBA")
    jobs = plan_outputs(find_inputs([str(tmp_path / "in")], tmp_path).inputs, tmp_path / "out", ".jpg")
    summary = run(jobs, Model(lambda photos: pytest.fail("the model ran")))
    assert summary.failed == 1 and "JPEG has no transparency" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_finished_and_leaves_no_half_file(tmp_path):
    for index in range(4):
        photo_file(tmp_path / "in" / f"{index}.png")
    calls = []

    def interrupted(photos):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return nearest(photos)

    summary = run(jobs_in(tmp_path), Model(interrupted))
    assert summary.interrupted and summary.exit_code == 1
    assert (summary.written, summary.failed) == (1, 0)
    assert os.listdir(tmp_path / "out") == ["0.png"]


def test_only_images_of_one_size_share_a_batch(tmp_path):
    for index, size in enumerate([(6, 4), (4, 6), (6, 4), (6, 4), (4, 6), (6, 4)]):
        photo_file(tmp_path / "in" / f"{index}.png", size)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 4x6, shown 6x4
    photo_file(tmp_path / "in" / "6.jpg", (4, 6), exif=exif)
    sizes = []

    def recording(photos):
        sizes.append([tuple(p.pixels.shape[1:]) for p in photos])
        return nearest(photos)

    assert run(jobs_in(tmp_path), Model(recording), batch_size=3).written == 7
    assert sizes == [[(4, 6)] * 3, [(4, 6)] * 2, [(6, 4)] * 2]


def test_at_most_one_batch_is_read_ahead(tmp_path, monkeypatch):
    for index in range(8):
        photo_file(tmp_path / "in" / f"{index}.png")
    lock, read, restored, ahead = threading.Lock(), [], [], []
    decode = batch._decode

    def counting(job, restore):
        with lock:
            read.append(job)
            ahead.append(len(read) - len(restored))
        return decode(job, restore)

    def recording(photos):
        with lock:
            restored.extend(photos)
        return nearest(photos)

    monkeypatch.setattr(batch, "_decode", counting)
    assert run(jobs_in(tmp_path), Model(recording), batch_size=2).written == 8
    assert max(ahead) <= 4  # the batch in the model and the next


def test_errors_are_put_into_one_line():
    assert describe(RuntimeError("a\nb")) == "RuntimeError: a"
    assert describe(ValueError("x is 3; pass 4")) == "x is 3; pass 4"
    assert describe(KeyError()) == "KeyError"
    assert describe(ValueError("in a.png"), Path("a.png")) == "in a.png"
    assert describe(ValueError("bad"), Path("a.png")) == "a.png: bad"


def test_no_warnings_of_our_own(tmp_path):
    photo_file(tmp_path / "in" / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(jobs_in(tmp_path), Model(nearest))


# --- the model is kept busy ------------------------------------------------------------------------------------------


def test_a_slow_encoder_does_not_keep_the_model_waiting(tmp_path, monkeypatch):
    for index in range(12):
        photo_file(tmp_path / "in" / f"{index:02}.png")
    from resdiff import pictures

    save, waits, ended = pictures.save_picture, [], []

    def slow(*arguments, **options):
        time.sleep(0.1)
        save(*arguments, **options)

    def timed(photos):
        if ended:
            waits.append(time.perf_counter() - ended[-1])
        time.sleep(0.02)
        results = nearest(photos)
        ended.append(time.perf_counter())
        return results

    monkeypatch.setattr(pictures, "save_picture", slow)
    assert run(jobs_in(tmp_path), Model(timed)).written == 12
    assert sorted(waits)[-2] < 0.05  # two writers fall behind by 0.03 s an image; the model never notices


def test_pictures_that_wait_to_be_written_are_bounded_by_bytes(tmp_path, monkeypatch):
    for index in range(10):
        photo_file(tmp_path / "in" / f"{index}.png")
    from resdiff import pictures

    lock, alive, most = threading.Lock(), [0], [0]
    save = pictures.save_picture

    def slow(*arguments, **options):
        time.sleep(0.03)
        save(*arguments, **options)
        with lock:
            alive[0] -= 1

    def counting(photos):
        with lock:
            alive[0] += len(photos)
            most[0] = max(most[0], alive[0])
        return nearest(photos)

    monkeypatch.setattr(pictures, "save_picture", slow)
    monkeypatch.setattr(batch, "WRITE_BEHIND", 2 * 24 * 16 * 3)  # two pictures
    assert run(jobs_in(tmp_path), Model(counting)).written == 10
    assert most[0] <= 3 + 1  # two that wait, the one just made, and one that is written but not yet counted off


def test_a_large_image_is_not_read_ahead(tmp_path, monkeypatch):
    for index in range(3):
        photo_file(tmp_path / "in" / f"{index}.png")
    order = []
    decode = batch._decode

    def recording(job, restore):
        order.append(f"read {job.source.stem}")
        return decode(job, restore)

    def restoring(photos):
        time.sleep(0.02)
        order.append("restore")
        return nearest(photos)

    monkeypatch.setattr(batch, "_decode", recording)
    monkeypatch.setattr(batch, "READ_AHEAD", 6 * 4 * 12 - 1)
    assert run(jobs_in(tmp_path), Model(restoring)).written == 3
    assert order == ["read 0", "restore", "read 1", "restore", "read 2", "restore"]


def test_results_are_saved_as_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("resdiff.pictures.save_picture", lambda picture, path, **options: told.append(options))
    photo_file(tmp_path / "in" / "a.png")
    run(jobs_in(tmp_path), Model(), saving=Saving(quality=80, compress_level=3, strip_metadata=True))
    assert told == [{"quality": 80, "compress_level": 3, "strip_metadata": True}]


def test_two_runs_over_the_same_files_both_end_well(tmp_path):
    for index in range(20):
        photo_file(tmp_path / "in" / f"{index:02}.png", value=index)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, jobs_in(tmp_path), Model(), show_bar=False) for _ in range(2)]
    assert [one.result().written for one in runs] == [20, 20]
    assert names_below(tmp_path / "out") == [f"{index:02}.png" for index in range(20)]
    for index in range(20):
        with Image.open(tmp_path / "out" / f"{index:02}.png") as image:
            assert image.size == (24, 16) and image.getpixel((0, 0)) == (index,) * 3


@pytest.mark.parametrize("beside", [True, False])
def test_a_model_that_fills_the_cores_is_not_disturbed_by_threads(tmp_path, monkeypatch, beside):
    for index in range(3):
        photo_file(tmp_path / "in" / f"{index}.png")
    threads, decode = set(), batch._decode
    monkeypatch.setattr(batch, "_decode", lambda *a: threads.add(threading.current_thread()) or decode(*a))
    assert run(jobs_in(tmp_path), Model(nearest), beside=beside).written == 3
    assert (threading.main_thread() in threads) is not beside


def test_nothing_is_read_ahead_of_a_model_that_fills_the_cores(tmp_path, monkeypatch):
    for index in range(3):
        photo_file(tmp_path / "in" / f"{index}.png")
    order, decode = [], batch._decode
    monkeypatch.setattr(batch, "_decode", lambda *a: order.append("read") or decode(*a))

    def recording(photos):
        order.append("restore")
        return nearest(photos)

    run(jobs_in(tmp_path), Model(recording), beside=False)
    assert order == ["read", "restore"] * 3
