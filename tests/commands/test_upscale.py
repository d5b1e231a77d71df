"""`resdiff upscale`, as it is typed: what it says, what it writes, how it exits."""

import json
import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import Result

from resdiff.commands import upscale as command
from resdiff.commands.messages import INTERRUPTED
from resdiff.files.formats import temporary_beside
from resdiff.runs import restorer

RUN = ".resdiff-run.json"


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("Error: ")]


def files_below(folder: Path) -> list[str]:
    """The results below a folder, without the record of the run."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return [name for name in found if name != RUN]


def test_folders_are_enlarged_with_their_structure(resdiff, pipe, photos, tmp_path):
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == "3 written, 0 failed, 0 skipped\n"
    assert "images/s" in result.stderr
    assert files_below(tmp_path / "out") == ["one.png", "sub/deep.png", "two.png"]
    with Image.open(tmp_path / "out" / "two.png") as image:
        assert image.size == (24, 16)


def test_one_file_to_one_file(resdiff, pipe, photos, tmp_path):
    assert resdiff("upscale", photos / "one.JPG", "-o", tmp_path / "x.webp").exit_code == 0
    with Image.open(tmp_path / "x.webp") as image:
        assert (image.format, image.size) == ("WEBP", (24, 16))


@pytest.mark.parametrize("name", ["jpg", "JPEG", ".webp", "avif", "tif"])
def test_the_format_of_the_results(resdiff, pipe, photos, tmp_path, name):
    assert resdiff("upscale", photos / "two.png", "-o", tmp_path / "out", "--format", name).exit_code == 0
    assert files_below(tmp_path / "out") == ["two." + name.lower().lstrip(".")]


def test_quoted_patterns_are_expanded(resdiff, pipe, photos, tmp_path):
    assert resdiff("upscale", f"{photos}/**/*.webp", "-o", tmp_path / "out").exit_code == 0
    assert files_below(tmp_path / "out") == ["sub/deep.png"]


def test_existing_results_are_skipped_on_demand(resdiff, pipe, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "two.png").write_bytes(b"old")
    result = resdiff("upscale", photos, "-o", tmp_path / "out", "--skip-existing")
    assert result.stdout == "2 written, 0 failed, 1 skipped\n"
    assert (tmp_path / "out" / "two.png").read_bytes() == b"old"
    calls = len(pipe.calls)
    assert (
        resdiff("upscale", photos, "-o", tmp_path / "out", "--skip-existing").stdout
        == "0 written, 0 failed, 3 skipped\n"
    )
    assert len(pipe.calls) == calls
    assert resdiff("upscale", photos, "-o", tmp_path / "out").stdout == "3 written, 0 failed, 0 skipped\n"
    assert (tmp_path / "out" / "two.png").read_bytes() != b"old"


def test_one_bad_file_does_not_stop_the_others(resdiff, pipe, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n")
    result = resdiff("upscale", photos, photos / "gone.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == "3 written, 2 failed, 0 skipped\n"
    assert [line.split(": ")[1] for line in errors(result)] == [
        f"{photos / 'broken.png'} is not an image that can be read; copy it again, or save it as PNG or JPEG",
        f"{photos / 'gone.png'} does not exist; check the name",
    ]


def test_running_out_of_memory_on_one_file_is_one_line(resdiff, pipe, photos, tmp_path):
    pipe.trouble[2] = RuntimeError("out of memory\nmore")
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "2 written, 1 failed, 0 skipped\n")
    assert errors(result) == [f"Error: {photos / 'sub' / 'deep.webp'}: RuntimeError: out of memory"]
    assert "Traceback" not in result.output


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(resdiff, pipe, photos, tmp_path, monkeypatch, how):
    pipe.trouble[1] = RuntimeError("out of memory")
    if how == "environment":
        monkeypatch.setenv("RESDIFF_DEBUG", "1")
    result = resdiff("upscale", photos, "-o", tmp_path / "out", *(["--debug"] if how == "option" else []))
    assert isinstance(result.exception, RuntimeError)


def test_ctrl_c_keeps_finished_files_and_leaves_nothing_else(resdiff, pipe, photos, tmp_path):
    pipe.trouble[2] = KeyboardInterrupt()
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"1 written, 0 failed, 0 skipped; {INTERRUPTED}"
    assert "Traceback" not in result.output
    assert files_below(tmp_path / "out") == ["one.png"]


def test_ctrl_c_while_the_model_is_loaded_is_one_line(resdiff, photos, tmp_path, monkeypatch):
    def interrupt(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(restorer, "load_pipeline", interrupt)
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (1, f"{INTERRUPTED}\n")


def test_options_reach_the_pipeline(resdiff, pipe, photos, tmp_path):
    (tmp_path / "mask.png").write_bytes((photos / "two.png").read_bytes())
    options = (
        "--model m --as sinsr-v1 --scale 2 --steps 3 --prompt fur --seed 7 --fidelity 0.5 "
        "--negative-prompt soft --guidance-scale 1.5 --color-fix luma --tile 96 --tile-batch 2 "
        f"--device cpu --dtype fp32 --mask {tmp_path / 'mask.png'}"
    ).split()
    assert resdiff("upscale", photos / "two.png", "-o", tmp_path / "out", *options).exit_code == 0
    assert (pipe.settings.model, pipe.settings.known_as) == ("m", "sinsr-v1")
    assert (pipe.settings.device, pipe.settings.dtype) == ("cpu", "fp32")
    ((count, prompt, call),) = pipe.calls
    (generator,) = call.pop("generator")
    assert (count, prompt, generator.initial_seed()) == (1, "fur", 7)
    assert call == {
        "scale": 2,
        "num_inference_steps": 3,
        "negative_prompt": "soft",
        "guidance_scale": 1.5,
        "fidelity": 0.5,
        "color_fix": "luma",
        "tile": 96,
        "mask": tmp_path / "mask.png",
        "tile_batch": 2,
        "output_type": "picture",
    }


def test_images_are_batched_unless_the_published_order_of_draws_is_asked_for(resdiff, pipe, photos, tmp_path):
    for tile, sizes in (("auto", [3]), ("reference", [1, 1, 1]), ("reference:64", [1, 1, 1])):
        pipe.calls.clear()
        assert resdiff("upscale", photos, "-o", tmp_path / tile, "--batch-size", 8, "--tile", tile).exit_code == 0
        assert [count for count, _, _ in pipe.calls] == sizes


def test_warnings_are_one_line_each(resdiff, pipe, photos, tmp_path, monkeypatch):
    def warn(call):
        warnings.warn("this model takes no text\nmore", stacklevel=1)
        return replace(call, num_inference_steps=4)

    monkeypatch.setattr(pipe, "check_inputs", warn)
    result = resdiff("upscale", photos / "two.png", "-o", tmp_path / "out", "--prompt", "fur")
    assert result.stderr.splitlines()[0] == "Warning: this model takes no text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--scale 0", "scale is 0.0; pass a positive number"),
        ("--scale 1e307", "scale is 1e+307; pass a positive number up to 1000"),
        ("--scale nan", "scale is nan; pass a positive number"),
        ("--steps -1", "steps is -1; pass a positive number"),
        ("--steps 99", "num_inference_steps=99 must lie between 1 and 15"),
        ("--fidelity 2", "fidelity is 2.0; pass a number from 0 to 1"),
        ("--fidelity nan", "fidelity is nan; pass a number from 0 to 1"),
        ("--guidance-scale -1", "guidance-scale is -1.0; pass a number from 0"),
        ("--guidance-scale inf", "guidance-scale is inf; pass a number from 0"),
        ("--color-fix sepia", "color-fix is 'sepia'; choose auto, none, adain, wavelet, luma"),
        ("--tile big", "tile is 'big'; choose auto, off, reference[:size[:stride]] or a size in pixels"),
        ("--tile 0", "tile is '0'; choose"),
        ("--seed 18446744073709551616", "seed is 18446744073709551616; pass a 64-bit integer"),
        ("--format gif", "format is 'gif'; choose png, jpg"),
        ("--mask none.png", "mask is none.png: pass exactly one input"),
        ("--shard 3/2", "shard is '3/2'; pass i/n with i from 1 to n"),
        ("--report photo.jpg", "report is photo.jpg; pass the name of a file that ends in .json"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(refusal, pipe, photos, tmp_path, options, message):
    assert message in refusal("upscale", photos, "-o", tmp_path / "out", *options.split())
    assert not (tmp_path / "out").exists() and not pipe.calls


@pytest.mark.parametrize(
    "options", ["--bogus 1", "--quality 0", "--quality 101", "--batch-size 0", "--compress-level 10", "--steps many"]
)
def test_options_that_cannot_be_parsed_exit_with_2(resdiff, pipe, photos, tmp_path, options):
    result = resdiff("upscale", photos, "-o", tmp_path / "out", *options.split())
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert options.split()[0] in errors(result)[0]


def test_missing_arguments_exit_with_2(resdiff, photos):
    assert "IN" in errors(resdiff("upscale"))[0]
    assert "--output" in errors(resdiff("upscale", photos))[0]


def test_bad_paths_are_one_line_and_exit_code_2_before_the_model_is_loaded(refusal, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(restorer, "load_pipeline", lambda settings: pytest.fail("the model was loaded"))
    (tmp_path / "empty").mkdir()
    two = photos / "two.png"
    for arguments, message in (
        ((tmp_path / "none.png", "-o", tmp_path / "out"), "none.png does not exist"),
        ((tmp_path / "empty", "-o", tmp_path / "out"), "holds no image"),
        ((f"{photos}/*.avif", "-o", tmp_path / "out"), "holds no image"),
        ((photos, "-o", two / "out"), f"cannot be made: {two} is a file"),
        ((photos, "-o", tmp_path / "x.png"), "there are 3 inputs; pass a folder"),
        ((photos, "-o", photos), "two.png is an input and would be overwritten"),
        ((two, "-o", two), "two.png is an input and would be overwritten"),
        ((two, "-o", tmp_path / "x.gif"), "cannot write .gif"),
        ((two, "-o", tmp_path / "x.png", "--mask", tmp_path / "none.png"), "none.png: it is no file"),
    ):
        assert message in refusal("upscale", *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--dtype int8", "dtype is 'int8'; choose fp32, fp16 or bf16"),
        ("--device cpu --dtype fp16", "dtype is fp16, which CPUs do not compute with"),
        ("--device gpu", "device is 'gpu'; choose cpu, cuda"),
        ("--device cuda:99", "device is 'cuda:99', but this machine has"),
        ("--model no-such-model", "no-such-model"),
    ],
)
def test_models_and_devices_that_do_not_exist_are_one_line_and_exit_code_2(refusal, photos, tmp_path, options, message):
    assert message in refusal("upscale", photos, "-o", tmp_path / "out", *options.split())


def test_an_unforeseen_error_while_loading_is_one_line_and_exit_code_1(resdiff, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(restorer, "load_pipeline", lambda settings: {}["unet"])
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (1, "Error: KeyError: 'unet'\n")
    assert isinstance(resdiff("upscale", photos, "-o", tmp_path / "out", "--debug").exception, KeyError)


def test_png_compression_and_metadata_are_chosen(resdiff, pipe, photos, tmp_path):
    Image.effect_noise((40, 40), 9).convert("RGB").save(photos / "two.png", dpi=(72, 72))
    sizes = {}
    for level in (0, 9):
        out = tmp_path / str(level)
        assert resdiff("upscale", photos / "two.png", "-o", out, "--compress-level", level).exit_code == 0
        sizes[level] = (out / "two.png").stat().st_size
    assert sizes[9] < sizes[0] / 2


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pillow_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def test_too_many_pixels_are_refused_and_the_limit_can_be_raised(resdiff, pipe, photos, tmp_path, pillow_limit):
    Image.new("L", (50, 50)).save(photos / "two.png")
    arguments = ("upscale", photos / "two.png", "-o", tmp_path / "out")
    result = resdiff(*arguments, "--max-pixels", 2000)
    assert result.exit_code == 1 and "50x50" in errors(result)[0] and not pipe.calls
    assert resdiff(*arguments, "--max-pixels", 2500).exit_code == 0


def test_an_output_that_cannot_be_meant_is_refused_before_the_model_works(
    resdiff, pipe, photos, tmp_path, pillow_limit
):
    arguments = ("upscale", photos / "two.png", "-o", tmp_path / "out")
    result = resdiff(*arguments, "--scale", 1000, "--max-pixels", 100)
    assert "6000x4000 pixels, above 16 times the input's limit of 100" in errors(result)[0]
    Image.new("L", (20, 4)).save(photos / "two.png")
    result = resdiff(*arguments, "--scale", 1000, "--format", "webp")
    assert "at most 16383 pixels a side" in errors(result)[0]
    assert not pipe.calls and files_below(tmp_path / "out") == []


# --- resume ----------------------------------------------------------------------------------------------------------


def test_a_stopped_run_is_resumed_and_leftovers_of_dead_processes_go(resdiff, pipe, photos, tmp_path):
    out = tmp_path / "out"
    pipe.trouble[2] = KeyboardInterrupt()
    assert resdiff("upscale", photos, "-o", out).exit_code == 1
    first = (out / "one.png").stat()
    name = temporary_beside(out / "x").name
    (out / name).touch()  # of another process that had this number
    (out / name.replace(f"-{os.getpid()}-", "-4194399-")).touch()  # beyond any number of a process
    other = out / ".resdiff-another.host-4194399-0123456789abcdef.tmp"
    other.touch()
    pipe.trouble.clear()
    result = resdiff("upscale", photos, "-o", out, "--resume")
    assert result.stdout == "2 written, 0 failed, 1 skipped\n"
    assert files_below(out) == [other.name, "one.png", "sub/deep.png", "two.png"]
    assert (out / "one.png").stat().st_mtime_ns == first.st_mtime_ns


def test_a_run_is_resumed_with_its_own_options_only(resdiff, refusal, pipe, photos, tmp_path):
    out = tmp_path / "out"
    assert resdiff("upscale", photos, "-o", out, "--scale", 4).exit_code == 0
    assert resdiff("upscale", photos, "-o", out, "--resume").exit_code == 0  # 4 is the model's own
    for option, was, now in (("scale", "4.0", "2.5"), ("seed", "0", "3"), ("quality", "95", "80"), ("steps", "4", "2")):
        said = refusal("upscale", photos, "-o", out, "--resume", f"--{option}", now)
        assert said.startswith(f"{option} was {was} in the run that began in {out} and is {now} now; ")
    assert "format was 'png'" in refusal("upscale", photos, "-o", out, "--resume", "--format", "webp")
    pipe.components = {"unet": type("Net", (), {"state_dict": lambda self: {}})()}
    assert refusal("upscale", photos, "-o", out, "--resume").startswith("model was ")


def test_results_of_other_options_are_made_again(resdiff, pipe, photos, tmp_path):
    out = tmp_path / "out"
    resdiff("upscale", photos, "-o", out, "--seed", 1)
    old = {name: (out / name).stat().st_mtime_ns for name in files_below(out)}
    time.sleep(0.02)  # a tick of the file system's clock
    pipe.trouble[5] = KeyboardInterrupt()
    resdiff("upscale", photos, "-o", out, "--seed", 2)
    assert resdiff("upscale", photos, "-o", out, "--seed", 2, "--resume").stdout == "2 written, 0 failed, 1 skipped\n"
    assert all((out / name).stat().st_mtime_ns > old[name] for name in files_below(out))


def test_results_that_could_not_be_told_from_inputs_are_refused(refusal, photos):
    for option in ("--resume", "--skip-existing", "--watch"):
        said = refusal("upscale", photos, "-o", photos, "--format", "webp", option)
        assert "could not be told from them later" in said


def test_what_another_process_finished_meanwhile_is_not_made_again(resdiff, pipe, photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    restore = type(pipe).__call__

    def and_another(self, *arguments, **options):
        (out / "two.png").write_bytes(b"another's")
        return restore(self, *arguments, **options)

    monkeypatch.setattr(type(pipe), "__call__", and_another)
    assert resdiff("upscale", photos, "-o", out, "--resume").stdout == "2 written, 0 failed, 1 skipped\n"
    assert (out / "two.png").read_bytes() == b"another's"


def test_a_record_that_is_damaged_is_named(refusal, pipe, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RUN).write_text("{")
    assert f"{RUN} exists and was not written by resdiff" in refusal("upscale", photos, "-o", tmp_path / "out")


# --- report ----------------------------------------------------------------------------------------------------------


def test_the_report_tells_of_each_file(resdiff, pipe, photos, tmp_path):
    (photos / "x.png").write_bytes(b"")
    report = tmp_path / "r" / "report.json"
    assert resdiff("upscale", photos, "-o", tmp_path / "out", "--report", report, "--seed", 7).exit_code == 1
    told = json.loads(report.read_text())
    assert told["settings"]["model"] == "resdiff-small" and "torch" in told["versions"] and told["finished"]
    assert (told["summary"]["written"], told["summary"]["failed"]) == (3, 1)
    files = {Path(one["source"]).name: one for one in told["files"]}
    deep = files["deep.webp"]
    assert (deep["size_in"], deep["size_out"], deep["seed"]) == ([6, 4], [24, 16], 7)
    assert deep["target"] == str(tmp_path / "out" / "sub" / "deep.png") and deep["error"] is None
    assert deep["seconds"] >= 0 and deep["process_peak_mib_so_far"] > 1 and deep["tile"] is None
    assert "is empty" in files["x.png"]["error"]
    (photos / "x.png").unlink()
    resdiff("upscale", photos, "-o", tmp_path / "out", "--report", report, "--seed", 7, "--resume")
    again = json.loads(report.read_text())
    assert again["started"] == told["started"] and deep in again["files"]


def test_a_report_that_cannot_be_written_fails_the_run_not_the_images(resdiff, pipe, photos, tmp_path, monkeypatch):
    def full(path, document):
        raise OSError(f"{path} cannot be written: No space left on device; choose another place")

    monkeypatch.setattr("resdiff.runs.report.write_json", full)
    result = resdiff("upscale", photos, "-o", tmp_path / "out", "--report", tmp_path / "r.json")
    assert (result.exit_code, result.stdout) == (1, "3 written, 0 failed, 0 skipped\n")
    assert "r.json cannot be written" in errors(result)[0]


def test_a_foreign_file_is_not_overwritten_by_a_report(refusal, pipe, photos, tmp_path):
    (tmp_path / "mine.json").write_text("[1, 2]")
    said = refusal("upscale", photos, "-o", tmp_path / "out", "--report", tmp_path / "mine.json")
    assert "mine.json exists and was not written by resdiff" in said


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["option", "launcher"])
def test_shards_share_the_files(resdiff, pipe, photos, tmp_path, monkeypatch, how):
    seen = []
    for index in (1, 2):
        options = ["--shard", f"{index}/2"] if how == "option" else []
        if how == "launcher":
            monkeypatch.setenv("RANK", str(index - 1))
            monkeypatch.setenv("WORLD_SIZE", "2")
        result = resdiff("upscale", photos, "-o", tmp_path / "out", "--report", tmp_path / "r.json", *options)
        assert result.stdout == f"shard {index}/2: {3 - index} written, 0 failed, 0 skipped\n"
        report = json.loads((tmp_path / f"r.{index}-of-2.json").read_text())
        seen.append([Path(one["source"]).name for one in report["files"]])
    assert seen == [["one.JPG", "two.png"], ["deep.webp"]]
    assert files_below(tmp_path / "out") == ["one.png", "sub/deep.png", "two.png"]


# --- trouble ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_run_in_one_line(resdiff, pipe, photos, tmp_path, monkeypatch):
    def full(picture, path, **options):
        raise OSError(28, "No space left on device")

    for index in range(60):
        Image.new("L", (4, 4)).save(photos / f"more{index:02}.png")
    monkeypatch.setattr("resdiff.pictures.save_picture", full)
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert result.exit_code == 1 and len(pipe.calls) < 40
    assert "no room for further results" in result.stderr.splitlines()[-1]
    assert result.stderr.splitlines()[-1].endswith("left: make room and run again with --resume")
    assert "cannot be written: No space left on device" in errors(result)[0]


def test_a_folder_that_cannot_be_read_costs_one_line_and_the_exit_code(resdiff, pipe, photos, tmp_path, unreadable):
    unreadable(photos / "sub")
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "2 written, 1 failed, 0 skipped\n")
    assert errors(result) == [f"Error: {photos / 'sub'} cannot be read: Permission denied; check its permissions"]


@pytest.mark.skipif(os.name == "nt", reason="file names are UTF-16 there")
def test_names_that_are_not_utf_8_are_enlarged_and_told(resdiff, pipe, photos, tmp_path):
    for name, data in ((b"caf\xe9.png", (photos / "two.png").read_bytes()), (b"bad\xff.png", b"")):
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes(data)
    for option in ("--dry-run", "--skip-existing"):
        result = resdiff("upscale", photos, "-o", tmp_path / "out", "--report", tmp_path / "r.json", option)
        assert result.exit_code == 1 and result.exception.__class__ is SystemExit
    assert b"caf\xe9.png" in os.listdir(os.fsencode(tmp_path / "out"))
    assert r"bad\udcff.png is empty" in errors(result)[0]
    sources = [one["source"] for one in json.loads((tmp_path / "r.json").read_text())["files"]]
    assert os.fsdecode(os.fsencode(photos) + b"/caf\xe9.png") in sources


# --- watch -----------------------------------------------------------------------------------------------------------


def test_a_watch_takes_new_files_once_and_ends_with_the_summary(resdiff, pipe, photos, tmp_path, monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            Image.new("RGB", (5, 5)).save(photos / "new.png")
            (photos / "bad.png").write_bytes(b"no image")
        if len(looks) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", sleep)
    result = resdiff("upscale", photos, "-o", tmp_path / "out", "--watch")
    assert (result.exit_code, result.stdout) == (1, "4 written, 1 failed, 0 skipped\n")
    assert len(errors(result)) == 1
    assert files_below(tmp_path / "out") == ["new.png", "one.png", "sub/deep.png", "two.png"]


def test_a_watch_needs_somewhere_to_look(refusal, photos, tmp_path):
    assert "needs a folder" in refusal("upscale", photos / "two.png", "-o", tmp_path / "out", "--watch")
    assert "pass a folder" in refusal("upscale", photos, "-o", tmp_path / "x.png", "--watch")
    assert "one process" in refusal("upscale", photos, "-o", tmp_path / "out", "--watch", "--shard", "1/2")
