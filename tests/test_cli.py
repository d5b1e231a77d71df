"""The command line as a whole: its start, its help, its exit, and the real command in a process of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from resdiff import __version__, cli
from resdiff.commands.messages import EXIT_CODES, INTERRUPTED

PHOTO = Path(__file__).parent / "data" / "photo.jpg"
RUN = ".resdiff-run.json"
pytestmark = pytest.mark.usefixtures("command_environment")


def resdiff(*arguments) -> Result:
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], prog_name="resdiff")


LEAN = """
import sys
import resdiff, resdiff.runs.batch, resdiff.cli, resdiff.runs.resume, resdiff.runs.watch
from typer.testing import CliRunner
for command in ([], ["upscale"], ["convert"], ["models"], ["info"], ["doctor"], ["data"], ["data", "check"]):
    assert CliRunner().invoke(resdiff.cli.app, [*command, "--help"]).exit_code == 0
heavy = {"torch", "diffusers", "transformers", "numpy", "PIL"}
assert not (heavy | {"tqdm"}) & set(sys.modules), set(sys.modules)
assert CliRunner().invoke(resdiff.cli.app, ["models"]).exit_code == 0
assert not heavy & set(sys.modules), set(sys.modules)
"""


def test_import_and_help_load_nothing_heavy():
    subprocess.run([sys.executable, "-c", LEAN], check=True)


def test_version_and_help():
    assert resdiff("--version").stdout == f"resdiff {__version__}\n"
    for command in ("upscale", "convert", "models", "info", "doctor", "data"):
        assert command in resdiff("--help").stdout
    for text in (resdiff("--help").stdout, resdiff("upscale", "--help").stdout):
        assert EXIT_CODES in " ".join(text.split())
    names = "resume report shard watch dry-run max-pixels strip-metadata compress-level tile-batch "
    names += "model as scale steps prompt seed color-fix tile device dtype format quality batch-size skip-existing mask"
    for option in [f"--{name}" for name in names.split()] + ["-o", "--debug"]:
        assert option in resdiff("upscale", "--help").stdout


def test_the_command_says_what_is_wrong_with_its_options_in_one_line(monkeypatch, capsys):
    for arguments, named in (
        (["upscale", "x"], "--output"),
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


# --- the real thing --------------------------------------------------------------------------------------------------

SLOW = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background inherits it ignored
from resdiff import cli
from resdiff.runs import restorer
class Slow:
    native_scale = default_steps = 4
    from resdiff.pipelines.call import NoOptions as options_type
    default_color_fix, components, config = "none", {}, {}
    import torch
    device, dtype = torch.device("cpu"), torch.float32
    def as_tiling(self, tile, tile_batch):
        from resdiff.tiling import Smooth
        return Smooth(512, overlap=64)
    def check_inputs(self, call):
        import dataclasses
        return dataclasses.replace(call, num_inference_steps=4)
    def __call__(self, photos, prompt, **options):
        from resdiff.images import to_uint8
        from resdiff.pictures import Picture
        if photos[0].pixels.shape[-1] == 5:
            print("now", flush=True)
            for _ in range(600):
                time.sleep(0.1)  # a signal that comes just before one long sleep would wait for its end
        return type("Output", (), {"images": [Picture(to_uint8(p.pixels).movedim(0, -1).numpy(), {}) for p in photos],
                                     "tile_sizes": [None] * len(photos)})
restorer.load_pipeline = lambda settings: Slow()
cli.main()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_ctrl_c_ends_the_command_in_one_line(tmp_path, number):
    for name, width in (("a.png", 4), ("b.png", 5), ("c.png", 6)):
        Image.new("L", (width, 4)).save(tmp_path / name)
    command = [sys.executable, "-c", SLOW, "upscale", str(tmp_path), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.splitlines()[-1] == f"1 written, 0 failed, 0 skipped; {INTERRUPTED}" and "Traceback" not in said
    assert sorted(os.listdir(tmp_path / "out")) == [RUN, "a.png"]


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
