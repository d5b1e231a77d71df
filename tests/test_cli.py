"""The command line, as it is typed: what it says, what it writes, how it exits."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from resdiff import __version__, batch, cli

PHOTO = Path(__file__).parent / "data" / "photo.jpg"
pytestmark = pytest.mark.usefixtures("command_environment")


class NearestPipeline:
    """Nearest x4 behind the pipeline's call. `trouble` maps the number of a call to what is raised in it."""

    native_scale, default_steps = 4, 4

    def __init__(self):
        self.calls = []
        self.trouble = {}

    def as_tiling(self, tile):
        return tile

    def check_inputs(self, *, steps, **others):
        if steps > 15:
            raise ValueError(f"num_inference_steps={steps} must lie between 1 and 15")

    def __call__(self, photos, prompt=None, **options):
        from resdiff.images import to_pil

        self.calls.append((len(photos), prompt, options))
        if len(self.calls) in self.trouble:
            raise self.trouble[len(self.calls)]
        images = [to_pil(p.pixels.repeat_interleave(4, 1).repeat_interleave(4, 2), p) for p in photos]
        return type("Output", (), {"images": images})


@pytest.fixture
def pipe(monkeypatch):
    """The pipeline that every command of the test gets; `pipe.settings` is what it was asked for with."""
    fake = NearestPipeline()

    def load(settings):
        fake.settings = settings
        return fake

    monkeypatch.setattr(batch, "load_pipeline", load)
    return fake


def resdiff(*arguments) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="resdiff")


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("Error: ")]


def usage_error(result: Result) -> str:
    """Return the one line that is said about a command that cannot be carried out."""
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line.removeprefix("Error: ")


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("one.JPG", "two.png", "sub/deep.webp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# --- starting --------------------------------------------------------------------------------------------------------

LEAN = """
import sys
import resdiff, resdiff.batch, resdiff.cli, resdiff.jobs
from typer.testing import CliRunner
for command in ([], ["upscale"], ["convert"], ["models"], ["info"], ["data"], ["data", "check"]):
    assert CliRunner().invoke(resdiff.cli.app, [*command, "--help"]).exit_code == 0
assert CliRunner().invoke(resdiff.cli.app, ["models"]).exit_code == 0
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "tqdm"} & set(sys.modules)
assert not heavy, heavy
"""


def test_import_and_help_load_nothing_heavy():
    subprocess.run([sys.executable, "-c", LEAN], check=True)


def test_version_and_help():
    assert resdiff("--version").stdout == f"resdiff {__version__}\n"
    for command in ("upscale", "convert", "models", "info", "data"):
        assert command in resdiff("--help").stdout
    names = "model as scale steps prompt seed color-fix tile device dtype format quality batch-size skip-existing mask"
    for option in [f"--{name}" for name in names.split()] + ["-o", "--debug"]:
        assert option in resdiff("upscale", "--help").stdout


def test_models_lists_the_bundled_and_the_published_ones():
    lines = resdiff("models").stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["resdiff-small", "x4"], ["bicubic", "x4"]]
    assert any(line.startswith("sinsr-v1 ") and "S-Lab" in line for line in lines)


def test_info_tells_versions_device_dtype_and_backends():
    lines = dict(line.split(maxsplit=1) for line in resdiff("info").stdout.splitlines())
    assert lines["resdiff"] == __version__
    assert lines["python"] == sys.version.split()[0]
    assert {"torch", "diffusers", "device", "dtype"} < set(lines)
    assert "sdpa" in lines["attention"]


# --- upscale ---------------------------------------------------------------------------------------------------------


def test_folders_are_enlarged_with_their_structure(pipe, photos, tmp_path):
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert result.stdout == "3 written, 0 failed, 0 skipped\n"
    assert "images/s" in result.stderr
    assert files_below(tmp_path / "out") == ["one.png", "sub/deep.png", "two.png"]
    with Image.open(tmp_path / "out" / "two.png") as image:
        assert image.size == (24, 16)


def test_one_file_to_one_file(pipe, photos, tmp_path):
    assert resdiff("upscale", photos / "one.JPG", "-o", tmp_path / "x.webp").exit_code == 0
    with Image.open(tmp_path / "x.webp") as image:
        assert (image.format, image.size) == ("WEBP", (24, 16))


@pytest.mark.parametrize("name", ["jpg", "JPEG", ".webp", "avif", "tif"])
def test_the_format_of_the_results(pipe, photos, tmp_path, name):
    assert resdiff("upscale", photos / "two.png", "-o", tmp_path / "out", "--format", name).exit_code == 0
    assert files_below(tmp_path / "out") == ["two." + name.lower().lstrip(".")]


def test_quoted_patterns_are_expanded(pipe, photos, tmp_path):
    assert resdiff("upscale", f"{photos}/**/*.webp", "-o", tmp_path / "out").exit_code == 0
    assert files_below(tmp_path / "out") == ["sub/deep.png"]


def test_existing_results_are_skipped_on_demand(pipe, photos, tmp_path):
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


def test_one_bad_file_does_not_stop_the_others(pipe, photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n")
    result = resdiff("upscale", photos, photos / "gone.png", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stdout == "3 written, 2 failed, 0 skipped\n"
    assert [line.split(": ")[1] for line in errors(result)] == [
        f"{photos / 'broken.png'} is not an image that can be read; copy it again, or save it as PNG or JPEG",
        f"{photos / 'gone.png'} does not exist; check the name",
    ]


def test_running_out_of_memory_on_one_file_is_one_line(pipe, photos, tmp_path):
    pipe.trouble[2] = RuntimeError("out of memory\nmore")
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "2 written, 1 failed, 0 skipped\n")
    assert errors(result) == [f"Error: {photos / 'sub' / 'deep.webp'}: RuntimeError: out of memory"]
    assert "Traceback" not in result.output


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(pipe, photos, tmp_path, monkeypatch, how):
    pipe.trouble[1] = RuntimeError("out of memory")
    if how == "environment":
        monkeypatch.setenv("RESDIFF_DEBUG", "1")
    result = resdiff("upscale", photos, "-o", tmp_path / "out", *(["--debug"] if how == "option" else []))
    assert isinstance(result.exception, RuntimeError)


def test_ctrl_c_keeps_finished_files_and_leaves_nothing_else(pipe, photos, tmp_path):
    pipe.trouble[2] = KeyboardInterrupt()
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == f"1 written, 0 failed, 0 skipped; {cli.INTERRUPTED}"
    assert "Traceback" not in result.output
    assert files_below(tmp_path / "out") == ["one.png"]


def test_ctrl_c_while_the_model_is_loaded_is_one_line(photos, tmp_path, monkeypatch):
    def interrupt(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "load_pipeline", interrupt)
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (1, f"{cli.INTERRUPTED}\n")


def test_options_reach_the_pipeline(pipe, photos, tmp_path):
    (tmp_path / "mask.png").write_bytes((photos / "two.png").read_bytes())
    options = (
        "--model m --as sinsr-v1 --scale 2 --steps 3 --prompt fur --seed 7 --color-fix luma --tile 96 "
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
        "color_fix": "luma",
        "tile": 96,
        "mask": tmp_path / "mask.png",
    }


def test_images_are_batched_unless_the_published_order_of_draws_is_asked_for(pipe, photos, tmp_path):
    for tile, sizes in (("auto", [3]), ("reference", [1, 1, 1]), ("reference:64", [1, 1, 1])):
        pipe.calls.clear()
        assert resdiff("upscale", photos, "-o", tmp_path / tile, "--batch-size", 8, "--tile", tile).exit_code == 0
        assert [count for count, _, _ in pipe.calls] == sizes


def test_warnings_are_one_line_each(pipe, photos, tmp_path, monkeypatch):
    def warn(**checked):
        warnings.warn("this model takes no text\nmore", stacklevel=1)

    monkeypatch.setattr(pipe, "check_inputs", warn)
    result = resdiff("upscale", photos / "two.png", "-o", tmp_path / "out", "--prompt", "fur")
    assert result.stderr.splitlines()[0] == "Warning: this model takes no text"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--scale 0", "scale is 0.0; pass a positive number"),
        ("--scale nan", "scale is nan; pass a positive number"),
        ("--steps -1", "steps is -1; pass a positive number"),
        ("--steps 99", "num_inference_steps=99 must lie between 1 and 15"),
        ("--color-fix sepia", "color-fix is 'sepia'; choose auto, none, adain, wavelet, luma"),
        ("--tile big", "tile is 'big'; choose auto, off, reference[:size[:stride]] or a size in pixels"),
        ("--tile 0", "tile is '0'; choose"),
        ("--seed 18446744073709551616", "seed is 18446744073709551616; pass a 64-bit integer"),
        ("--format gif", "format is 'gif'; choose png, jpg"),
        ("--mask none.png", "mask is none.png: pass exactly one input"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(pipe, photos, tmp_path, options, message):
    assert message in usage_error(resdiff("upscale", photos, "-o", tmp_path / "out", *options.split()))
    assert not (tmp_path / "out").exists() and not pipe.calls


@pytest.mark.parametrize("options", ["--bogus 1", "--quality 0", "--quality 101", "--batch-size 0", "--steps many"])
def test_options_that_cannot_be_parsed_exit_with_2(pipe, photos, tmp_path, options):
    result = resdiff("upscale", photos, "-o", tmp_path / "out", *options.split())
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert options.split()[0] in errors(result)[0]


def test_the_command_says_what_is_wrong_with_its_options_in_one_line(photos, monkeypatch, capsys):
    for arguments, named in (
        (["upscale", str(photos)], "--output"),
        (["upscale", "x", "--bogus"], "--bogus"),
        (["up"], "up"),
    ):
        monkeypatch.setattr(sys, "argv", ["resdiff", *arguments])
        handler = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        signal.signal(signal.SIGINT, handler)
        said = capsys.readouterr()
        assert caught.value.code == 2 and said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("Error: ") and named in line and "--help" in line


def test_missing_arguments_exit_with_2(photos):
    assert "IN" in errors(resdiff("upscale"))[0]
    assert "--output" in errors(resdiff("upscale", photos))[0]


def test_bad_paths_are_one_line_and_exit_code_2_before_the_model_is_loaded(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "load_pipeline", lambda settings: pytest.fail("the model was loaded"))
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
        assert message in usage_error(resdiff("upscale", *arguments))


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
def test_models_and_devices_that_do_not_exist_are_one_line_and_exit_code_2(photos, tmp_path, options, message):
    assert message in usage_error(resdiff("upscale", photos, "-o", tmp_path / "out", *options.split()))


def test_an_unforeseen_error_while_loading_is_one_line_and_exit_code_1(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "load_pipeline", lambda settings: {}["unet"])
    result = resdiff("upscale", photos, "-o", tmp_path / "out")
    assert (result.exit_code, result.stderr) == (1, "Error: KeyError: 'unet'\n")
    assert isinstance(resdiff("upscale", photos, "-o", tmp_path / "out", "--debug").exception, KeyError)


# --- convert ---------------------------------------------------------------------------------------------------------


def test_convert_takes_files_and_then_the_folder(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(batch, "convert_checkpoints", lambda *arguments: calls.append(arguments))
    result = resdiff("convert", "a.pth", "b.pth", tmp_path / "out", "--as", "sinsr-v1", "--dtype", "fp16")
    assert result.exit_code == 0 and str(tmp_path / "out") in result.stdout
    assert calls == [([Path("a.pth"), Path("b.pth")], tmp_path / "out", "sinsr-v1", "fp16")]


def test_bad_conversions_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    a, out = tmp_path / "a.pth", tmp_path / "out"
    for arguments, message in (
        ((a,), "pass the published files and then the folder to write"),
        ((tmp_path / "none.pth", out), "none.pth does not exist"),
        ((a, tmp_path / "full"), "full exists and is not an empty folder; choose another"),
        ((a, out, "--dtype", "bf16"), "dtype is 'bf16'; choose fp32, fp16"),
        ((a, out), "a.pth"),
    ):
        assert message in usage_error(resdiff("convert", *arguments))
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "full"]


# --- the real thing --------------------------------------------------------------------------------------------------

SLOW = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background inherits it ignored
from resdiff import batch, cli
class Slow:
    native_scale = default_steps = 4
    def as_tiling(self, tile): pass
    def check_inputs(self, **options): pass
    def __call__(self, photos, prompt, **options):
        from resdiff.images import to_pil
        if photos[0].pixels.shape[-1] == 5:
            print("now", flush=True)
            for _ in range(600):
                time.sleep(0.1)  # a signal that comes just before one long sleep would wait for its end
        return type("Output", (), {"images": [to_pil(p.pixels, p) for p in photos]})
batch.load_pipeline = lambda settings: Slow()
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_real_ctrl_c_ends_the_command_in_one_line(tmp_path):
    for name, width in (("a.png", 4), ("b.png", 5), ("c.png", 6)):
        Image.new("L", (width, 4)).save(tmp_path / name)
    command = [sys.executable, "-c", SLOW, "upscale", str(tmp_path), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.splitlines()[-1] == f"1 written, 0 failed, 0 skipped; {cli.INTERRUPTED}" and "Traceback" not in said
    assert os.listdir(tmp_path / "out") == ["a.png"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_after_the_command_has_ended_is_ignored():
    code = "import os, signal, sys; from resdiff import cli\n"
    code += "try:\n    sys.argv[1:] = ['--version']; cli.main()\n"
    code += "finally:\n    os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_real_command_enlarges_a_photo(tmp_path):
    command = [sys.executable, "-m", "resdiff.cli", "upscale", str(PHOTO), "-o", str(tmp_path / "x.png")]
    done = subprocess.run([*command, "--model", "bicubic", "--device", "cpu"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 written, 0 failed, 0 skipped\n"), done.stderr
    assert all("images/s" in line for line in done.stderr.splitlines() if line), done.stderr  # the bar, no chatter
    with Image.open(PHOTO) as before, Image.open(tmp_path / "x.png") as after:
        assert after.size == (4 * before.width, 4 * before.height)
        small = after.convert("RGB").resize(before.size, Image.Resampling.BOX)
        difference = [abs(a - b) for a, b in zip(small.tobytes(), before.convert("RGB").tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 4
    assert os.listdir(tmp_path) == ["x.png"]
