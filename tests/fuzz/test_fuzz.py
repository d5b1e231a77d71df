"""Spoilt images and checkpoints through the real command, in the short form; and that the fuzzers would notice.

The long form: `python tests/fuzz/images.py --count 2000`, `python tests/fuzz/checkpoints.py --count 200`.
"""

import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the fuzzers are scripts beside this file, not a package

import images  # noqa: E402
from mutations import layout_of, mutate  # noqa: E402
from samples import picture, samples  # noqa: E402


@pytest.mark.parametrize(("script", "count"), [("images.py", 125), ("checkpoints.py", 16)])
def test_spoilt_files_cost_one_line_each(script: str, count: int) -> None:
    done = subprocess.run([sys.executable, HERE / script, "--count", str(count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- the fuzzers -----------------------------------------------------------------------------------------------------


def test_mutations_spoil_every_kind_of_file_and_are_the_same_for_the_same_seed() -> None:
    seen = set()
    for sample in samples():
        for seed in range(20):
            name, data = mutate(sample.data, random.Random(seed))
            assert data != sample.data and (name, data) == mutate(sample.data, random.Random(seed))
            seen.add(name)
    assert len(seen) == 9


def test_the_header_of_every_kind_of_file_is_understood() -> None:
    for sample in samples():
        layout = layout_of(sample.data)
        assert layout.parts and len(layout.numbers) > 5, sample.name
        assert all(0 <= start < end <= len(sample.data) for start, end in layout.parts), sample.name


def test_edited_headers_of_png_keep_a_valid_checksum() -> None:
    data = bytearray(next(iter(samples())).data)
    data[16:20] = (1000).to_bytes(4)  # the width
    layout_of(bytes(data)).mend(data)
    assert int.from_bytes(data[29:33]) == zlib.crc32(data[12:29])


def outcome(tmp_path: Path, stderr: str, size: tuple[int, int] | None, code: int | None = 0) -> list[str]:
    """What is found when the command ends like this for a photo of 6x4, at scale 2."""
    source, out = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (6, 4)).save(source)
    out.mkdir()
    if size is not None:
        Image.new("RGB", size).save(out / "a.png")
    findings, run = images.Findings(), images.Run(code, stderr, 0)
    images.check_outcomes([source], tmp_path, out, ".png", run, 2, findings)
    return [what for what, _ in findings.defects] + ([failure] if (failure := images.failed(run)) else [])


@pytest.mark.parametrize(
    ("stderr", "size", "code", "found"),
    [
        ("", (12, 8), 0, ""),
        ("Error: {}: damaged; copy it again", None, 1, ""),
        ("", None, 0, "0 results and 0 lines"),
        ("Error: {}: damaged", (12, 8), 1, "1 results and 1 lines"),
        ("Error: {}: a\nError: {}: a", None, 1, "0 results and 2 lines"),
        ("", (12, 9), 0, "the result is (12, 9), expected (12, 8)"),
        ("Error: {}: KeyError: 3", None, 1, "an error nobody expected: KeyError: N"),
        ("Error: {}: a\nTraceback (most recent call last):\nx", None, 1, "traceback: x"),
        ("Error: {}: a", None, -11, "exit code -11: "),
        ("Error: {}: a", None, None, "hangs"),
    ],
)
def test_what_goes_wrong_is_found(tmp_path, stderr, size, code, found) -> None:
    defects = outcome(tmp_path, stderr.replace("{}", str(tmp_path / "a.png")), size, code)
    assert [defect.startswith(found) for defect in defects] == ([True] if found else [])


def test_a_result_cut_short_is_found(tmp_path) -> None:
    photo, result = tmp_path / "a.png", tmp_path / "b.png"
    picture("RGB").save(photo)
    picture("RGB").save(result)
    assert images.wrong_output(photo, result, 1) is None
    result.write_bytes(result.read_bytes()[:-60])
    assert "cannot be read" in images.wrong_output(photo, result, 1)
