"""Many files past every kind of trouble, and the settings on their way to the pipeline."""

import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff import batch
from resdiff.batch import Settings, describe, run
from resdiff.images import Photo, to_pil
from resdiff.jobs import Job, find_inputs, plan_outputs


def photo_file(path: Path, size: tuple[int, int] = (6, 4), value: int = 100, mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * len(mode)).save(path, **options)
    return path


def nearest(photos: list[Photo]) -> list[Image.Image]:
    """A model without weights: nearest neighbour x4."""
    return [to_pil(p.pixels.repeat_interleave(4, 1).repeat_interleave(4, 2), p) for p in photos]


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- running ---------------------------------------------------------------------------------------------------------


def jobs_in(tmp_path: Path) -> list[Job]:
    return plan_outputs(find_inputs([str(tmp_path / "in")], tmp_path / "out"), tmp_path / "out")


def test_every_file_is_restored_and_written(tmp_path, capsys):
    for name, size in (("a.png", (6, 4)), ("sub/b.jpg", (5, 3)), ("c.bmp", (6, 4))):
        photo_file(tmp_path / "in" / name, size)
    summary = run(jobs_in(tmp_path), nearest, skipped=2)
    assert str(summary) == "3 written, 0 failed, 2 skipped" and summary.exit_code == 0
    assert names_below(tmp_path / "out") == ["a.png", "c.png", "sub/b.png"]
    with Image.open(tmp_path / "out" / "sub" / "b.png") as image:
        assert image.size == (20, 12) and image.getpixel((19, 11)) == (100, 100, 100)
    assert "images/s" in capsys.readouterr().err


def test_bad_files_are_reported_by_name_and_the_rest_goes_on(tmp_path, capsys):
    for name in ("a.png", "m.png", "z.png"):
        photo_file(tmp_path / "in" / name)
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "text.jpg").write_text("hello")
    whole = photo_file(tmp_path / "in" / "cut.png", (60, 60)).read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) - 40])
    jobs = [*jobs_in(tmp_path), Job(tmp_path / "in" / "none.png", tmp_path / "out" / "none.png")]
    summary = run(jobs, nearest, batch_size=2)
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

    summary = run(jobs_in(tmp_path), out_of_memory, batch_size=4)
    assert (summary.written, summary.failed) == (3, 1)
    assert names_below(tmp_path / "out") == ["0.png", "2.png", "3.png"]
    assert f"Error: {tmp_path / 'in' / '1.png'}: RuntimeError: CUDA out of memory.\n" in capsys.readouterr().err


def test_debug_raises_the_first_failure(tmp_path):
    photo_file(tmp_path / "in" / "a.png")
    with pytest.raises(ZeroDivisionError):
        run(jobs_in(tmp_path), lambda photos: 1 / 0, debug=True)
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        run(jobs_in(tmp_path), nearest, debug=True)


def test_an_unwritable_target_is_reported(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        photo_file(tmp_path / "in" / name)
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    summary = run(jobs_in(tmp_path), nearest)
    assert (summary.written, summary.failed) == (1, 1)
    assert f"{tmp_path / 'out' / 'a.png'} cannot be written: Is a directory; choose another" in capsys.readouterr().err
    assert names_below(tmp_path / "out") == ["b.png"]


def test_transparency_for_jpeg_is_refused_before_the_model_runs(tmp_path, capsys):
    photo_file(tmp_path / "in" / "a.png", mode="RGBA")
    jobs = plan_outputs(find_inputs([str(tmp_path / "in")], tmp_path), tmp_path / "out", ".jpg")
    summary = run(jobs, lambda photos: pytest.fail("the model ran"))
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

    summary = run(jobs_in(tmp_path), interrupted)
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

    assert run(jobs_in(tmp_path), recording, batch_size=3).written == 7
    assert sizes == [[(4, 6)] * 3, [(4, 6)] * 2, [(6, 4)] * 2]


def test_at_most_one_batch_is_read_ahead(tmp_path, monkeypatch):
    for index in range(8):
        photo_file(tmp_path / "in" / f"{index}.png")
    lock, read, restored, ahead = threading.Lock(), [], [], []
    decode = batch._decode

    def counting(job):
        with lock:
            read.append(job)
            ahead.append(len(read) - len(restored))
        return decode(job)

    def recording(photos):
        with lock:
            restored.extend(photos)
        return nearest(photos)

    monkeypatch.setattr(batch, "_decode", counting)
    assert run(jobs_in(tmp_path), recording, batch_size=2).written == 8
    assert max(ahead) <= 4  # the batch in the model and the next


def test_errors_are_put_into_one_line():
    assert describe(RuntimeError("a\nb")) == "RuntimeError: a"
    assert describe(ValueError("x is 3; pass 4")) == "x is 3; pass 4"
    assert describe(KeyError()) == "KeyError"
    assert describe(ValueError("in a.png"), Path("a.png")) == "in a.png"
    assert describe(ValueError("bad"), Path("a.png")) == "a.png: bad"


# --- the pipeline ----------------------------------------------------------------------------------------------------


class NoisyPipeline:
    """Nearest x4 plus noise drawn from the generators, as a diffusion pipeline would."""

    native_scale, default_steps = 4, 3

    def __init__(self):
        self.calls = []
        self.generators = []

    def as_tiling(self, tile):
        return tile

    def check_inputs(self, *, steps, **others):
        if steps > 15:
            raise ValueError(f"num_inference_steps={steps} must lie between 1 and 15")

    def __call__(self, photos, prompt=None, *, generator, **options):
        self.calls.append((prompt, options))
        self.generators.append(generator)
        generators = generator if isinstance(generator, list) else [generator] * len(photos)
        images = []
        for image, one in zip(nearest(photos), generators, strict=True):
            noise = torch.randint(0, 100, (image.height, image.width, 3), generator=one, dtype=torch.uint8)
            images.append(Image.fromarray(np.array(image.convert("RGB")) + noise.numpy()))
        return type("Output", (), {"images": images})


def results(tmp_path: Path, out: str, arguments: list[str], batch_size: int, seed: int = 0) -> dict[str, bytes]:
    jobs = plan_outputs(find_inputs(arguments, tmp_path / out), tmp_path / out)
    restore = batch.restorer(NoisyPipeline(), Settings(seed=seed))
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
        scale=2.5, num_inference_steps=4, prompt="fur", color_fix="luma", tile=96, mask=mask, model="x", dtype="fp32"
    )
    batch.restorer(pipe, settings)([Photo(torch.zeros(3, 2, 2))])
    assert pipe.calls == [
        ("fur", {"mask": mask, "scale": 2.5, "num_inference_steps": 4, "color_fix": "luma", "tile": 96})
    ]


def test_published_tiling_gets_the_one_generator_it_draws_from():
    pipe = NoisyPipeline()
    photos = [Photo(torch.zeros(3, 2, 2))]
    batch.restorer(pipe, Settings(tile="reference", seed=5))(photos)
    batch.restorer(pipe, Settings(seed=5))(photos)
    alone, (listed,) = pipe.generators
    assert alone.initial_seed() == listed.initial_seed() == 5


def test_what_the_model_cannot_do_is_found_before_the_first_file():
    with pytest.raises(ValueError, match="num_inference_steps=99"):
        batch.restorer(NoisyPipeline(), Settings(num_inference_steps=99))


# --- convert ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def published(monkeypatch):
    """Stands in for a pipeline read from published files; `fail` is raised while it is saved."""
    from resdiff.pipelines.resshift import ResShiftPipeline

    class Published:
        fail = None

        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "model_index.json").write_text("{}")
            if self.fail:
                raise self.fail

    pipe = Published()

    def from_published(files, known_as, dtype):
        pipe.arguments = (files, known_as, dtype)
        return pipe

    monkeypatch.setattr(ResShiftPipeline, "from_published", from_published)
    return pipe


def test_converted_checkpoints_appear_whole_or_not_at_all(tmp_path, published):
    file = tmp_path / "a.pth"
    file.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for out in ("new", "deep/er", "empty"):
        batch.convert_checkpoints([file], tmp_path / out, "sinsr-v1", "fp16")
        assert names_below(tmp_path / out) == ["model_index.json"]
    assert published.arguments == ([file], "sinsr-v1", torch.float16)
    published.fail = KeyboardInterrupt()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        batch.convert_checkpoints([file], tmp_path / "other", None, "fp32")
    assert sorted(os.listdir(tmp_path)) == before


def test_convert_refuses_what_it_would_overwrite_and_what_is_missing(tmp_path, published):
    file = tmp_path / "a.pth"
    file.write_bytes(b"")
    for out in (tmp_path, file):
        with pytest.raises(ValueError, match="exists and is not an empty folder"):
            batch.convert_checkpoints([file], out, None, "fp32")
    with pytest.raises(ValueError, match=r"none\.pth does not exist"):
        batch.convert_checkpoints([tmp_path / "none.pth"], tmp_path / "out", None, "fp32")
    with pytest.raises(ValueError, match="is a folder; pass a file"):
        batch.convert_checkpoints([tmp_path], tmp_path / "out", None, "fp32")
    with pytest.raises(ValueError, match=r"cannot be made: .* is a file; choose another"):
        batch.convert_checkpoints([file], file / "out", None, "fp32")


def test_a_folder_that_fails_to_be_written_is_named_and_nothing_is_left(tmp_path, published):
    file = tmp_path / "a.pth"
    file.write_bytes(b"")
    published.fail = OSError(28, "No space left on device")
    with pytest.raises(OSError, match=r"out cannot be written: No space left on device; choose another folder$"):
        batch.convert_checkpoints([file], tmp_path / "out", None, "fp32")
    assert os.listdir(tmp_path) == ["a.pth"]


def test_no_warnings_of_our_own(tmp_path):
    photo_file(tmp_path / "in" / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(jobs_in(tmp_path), nearest)
