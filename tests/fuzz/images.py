"""Upscale folders of spoilt images with the real command and check that nothing worse than one line a file happens.

    python tests/fuzz/images.py --count 2000 --seed 0            spoilt copies of every kind of `samples.py`
    python tests/fuzz/images.py --count 0                        the valid samples only: each must be written
    python tests/fuzz/images.py --count 2000 --keep defects      keep the files that show a defect

Files go through `resdiff upscale FOLDER` some hundreds at a time, so that the start is paid seldom. A run that crashes,
hangs or prints a traceback is split in halves until the file is found. Checked: exit code 0 or 1; each file either
written or named in one line of stderr; outputs decode and have the exact size; nothing else is left behind; sources
unchanged; the report agrees; peak memory. Prints a summary and the defects; exits with 1 when there is any.
"""

import argparse
import collections
import hashlib
import json
import logging
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # its parts lie beside this script and are no package

import tifffile
from mutations import mutate
from PIL import Image
from samples import samples

START_S = 60  # of a process, before the first file is due; generous, for a busy machine
FILE_S = 5  # no file of these sizes takes longer
MAX_PIXELS = 2_000_000  # an edited header may ask for a large image and be right: refused, so that files stay quick
MEMORY = 2**31  # bytes resident, beyond which a run has a defect
ADDRESS_SPACE = 2**34  # bytes, beyond which the system refuses: keeps the machine alive
ASKED = ((4, ".png", 1), (1, ".tif", 4), (0.3, ".webp", 1), (2.5, ".png", 3), (1.5, ".avif", 1))  # scale, format, batch
TURNED = (5, 6, 7, 8)
ORIENTATION = 0x0112
RUN_RECORD = ".resdiff-run.json"  # the options of the run, kept for --resume


@dataclass
class Run:
    """How one process of the command ended."""

    code: int | None  # None: killed, because it took too long
    stderr: str
    peak: int  # bytes resident


@dataclass
class Findings:
    """What all runs came to."""

    files: int = 0
    written: int = 0
    refused: int = 0
    peak: int = 0
    messages: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))  # kind -> who
    defects: list[tuple[str, Path]] = field(default_factory=list)  # what, and the file or folder that shows it


def write_inputs(folder: Path, count: int, seed: int) -> list[Path]:
    """Write `count` spoilt samples, or all valid ones when `count` is 0; names tell kind and mutation."""
    rng, kinds, paths = random.Random(seed), list(samples()), []
    for index in range(count or len(kinds)):
        sample = kinds[index % len(kinds)]
        change, data = mutate(sample.data, rng) if count else ("valid", sample.data)
        suffix = ".png" if count and rng.random() < 0.03 else sample.suffix  # names lie, now and then
        path = folder / f"{index:05d} {sample.name.replace('<', 'le').replace('>', 'be')} {change}{suffix}"
        path.write_bytes(data)
        paths.append(path)
    return paths


def limit_memory() -> None:
    """Limit the address space of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))


def run_command(arguments: Sequence[str], work: Path, limit_s: float) -> Run:
    """Run `resdiff` with everything temporary below `work`, killed after `limit_s`."""
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"TMPDIR": str(work / "tmp"), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    with (work / "stderr").open("wb") as stderr, (work / "stdout").open("wb") as stdout:
        child = subprocess.Popen(
            [sys.executable, "-m", "resdiff.cli", *arguments],
            stdout=stdout,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environment,
            preexec_fn=limit_memory,
        )
        code, peak = wait(child.pid, limit_s)
        child.returncode = -9 if code is None else code  # it has been waited for
    return Run(code, (work / "stderr").read_text(errors="replace"), peak)


def wait(process: int, limit_s: float) -> tuple[int | None, int]:
    """Return exit code (None: killed after `limit_s`) and peak resident memory in bytes of a child process."""
    deadline, killed = time.monotonic() + limit_s, False
    while True:
        pid, status, usage = os.wait4(process, os.WNOHANG)
        if pid:
            return None if killed else os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        if time.monotonic() > deadline and not killed:
            os.kill(process, signal.SIGKILL)
            killed = True
        time.sleep(0.02)


def upscale(paths: Sequence[Path], work: Path, asked: tuple[float, str, int], findings: Findings) -> None:
    """Send `paths` through one process and note what happened; when the process itself fails, through two."""
    scale, suffix, batch_size = asked
    source, out, report = work / "in", work / "out", work / "report.json"
    shutil.rmtree(work, ignore_errors=True)
    source.mkdir(parents=True)
    for path in paths:
        os.link(path, source / path.name)
    before = {path.name: digest(path) for path in paths}
    arguments = ["upscale", str(source), "-o", str(out), "--model", "bicubic", "--scale", str(scale)]
    arguments += ["--format", suffix[1:], "--batch-size", str(batch_size)]
    arguments += ["--max-pixels", str(MAX_PIXELS), "--report", str(report)]
    run = run_command(arguments, work, START_S + (FILE_S if len(paths) == 1 else 0.5 * len(paths)))
    findings.peak = max(findings.peak, run.peak)
    if failure := failed(run):
        if len(paths) == 1:
            findings.files += 1
            findings.defects.append((failure, paths[0]))
            return
        known = len(findings.defects)
        for half in (paths[: len(paths) // 2], paths[len(paths) // 2 :]):
            upscale(half, work, asked, findings)
        if len(findings.defects) == known:
            findings.defects.append((f"only together with others: {failure}", paths[0].parent))
        return
    findings.files += len(paths)
    for path in paths:
        if digest(path) != before[path.name]:
            findings.defects.append(("the source was changed", path))
    check_outcomes(paths, source, out, suffix, run, scale, findings)
    check_report(report, len(paths), findings)
    for left in (work / "tmp").iterdir():
        if not left.name.startswith("torchinductor_"):  # torch's cache of kernels, made when it is imported
            findings.defects.append((f"left in the temporary folder: {left.name}", paths[0].parent))


def failed(run: Run) -> str | None:
    """Say what is wrong with the whole process; None when it ended as it should."""
    if run.code is None:
        return "hangs"
    if run.code not in (0, 1):
        return f"exit code {run.code}: {last_line(run.stderr)}"
    if "Traceback (most recent call last)" in run.stderr:
        return f"traceback: {last_line(run.stderr)}"
    if run.peak > MEMORY:
        return f"{run.peak / 2**20:.0f} MiB of memory"
    return None


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def digest(path: Path) -> str:
    """Return a hash of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_outcomes(
    paths: Sequence[Path], source: Path, out: Path, suffix: str, run: Run, scale: float, findings: Findings
) -> None:
    """Hold every file to its outcome: one output of the right size, or one line that names it."""
    outputs = {path.name: path for path in out.rglob("*")} if out.exists() else {}
    lines = [line for piece in run.stderr.splitlines() for line in re.split(r"\r", piece) if line.strip()]
    errors = [line for line in lines if line.startswith("Error: ")]
    for path in paths:
        # a result has the name of its source, with both suffixes where two would meet
        names = [name for name in (f"{path.stem}{suffix}", f"{path.name}{suffix}") if name in outputs]
        told = [line for line in errors if str(source / path.name) in line]
        if len(names) + len(told) != 1:
            findings.defects.append((f"{len(names)} results and {len(told)} lines: {' | '.join(told)}", path))
        for name in names:
            findings.written += 1
            if problem := wrong_output(path, outputs.pop(name), scale):
                findings.defects.append((problem, path))
        for line in told:
            findings.refused += 1
            kind = message_kind(line, str(source / path.name))
            findings.messages[kind].append(path.name)
            if re.match(r"[A-Z]\w*(Error|Exception)\b", kind):
                findings.defects.append((f"an error nobody expected: {kind}", path))
    for name in set(outputs) - {RUN_RECORD}:
        findings.defects.append((f"left beside the results: {name}", paths[0].parent))
    for line in lines:
        if line not in errors and "images/s" not in line:  # of the libraries, beside the bar
            findings.messages[f"also printed: {message_kind(line, str(source))}"].append("-")


def message_kind(line: str, path: str) -> str:
    """Return a message without what is special about its file."""
    text = line.removeprefix("Error: ").replace(path, "FILE").removeprefix("FILE: ")
    text = re.sub(r"0x[0-9a-f]+|-?\d[\d.]*(e[+-]?\d+)?", "N", text)
    return re.sub(r"b?'[^']*'|b?\"[^\"]*\"", "'...'", text)[:160]


def wrong_output(source: Path, target: Path, scale: float) -> str | None:
    """Say what is wrong with a result; None when it decodes and has the exact size."""
    try:
        if target.suffix == ".tif":  # 16 bits and alpha are beyond Pillow
            size = tifffile.imread(target).shape[1::-1]
        else:
            with Image.open(target) as image:
                image.load()
                size = image.size
    except Exception as error:  # whatever Pillow has to say against it
        return f"the result cannot be read: {error}"
    expected = displayed_size(source)
    if expected is None:
        return None
    wanted = tuple(max(1, math.floor(side * scale + 0.5)) for side in expected)
    return None if size == wanted else f"the result is {size}, expected {wanted}"


def displayed_size(path: Path) -> tuple[int, int] | None:
    """Return (width, height) as displayed, by Pillow alone; None for what Pillow cannot open."""
    try:
        with Image.open(path) as image:
            size = image.size
            try:
                image.load()  # some say more of the orientation after the pixels
            except Exception:  # another codec may have read it
                return None
            try:
                turned = image.getexif().get(ORIENTATION, 1) in TURNED
            except Exception:  # damaged EXIF counts as none
                turned = False
            return (image.size if image.format == "TIFF" else size[::-1]) if turned else image.size
    except Exception:  # as above
        return None


def check_report(path: Path, count: int, findings: Findings) -> None:
    """Hold the report to the number of files."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        findings.defects.append((f"the report cannot be read: {error}", path))
        return
    entries = report["files"] if isinstance(report, dict) else report
    if len(entries) != count:
        findings.defects.append((f"the report has {len(entries)} entries for {count} files", path))


def summary(findings: Findings, seconds: float) -> str:
    """Put the findings into lines."""
    lines = [
        f"{findings.files} files: {findings.written} written, {findings.refused} refused, "
        f"{len(findings.defects)} defects; {seconds:.0f} s, peak {findings.peak / 2**20:.0f} MiB"
    ]
    common = sorted(findings.messages.items(), key=lambda item: -len(item[1]))
    lines += [f"{len(names):6} {message}  (first: {names[0]})" for message, names in common]
    lines += [f"DEFECT {what}: {path.name}" for what, path in findings.defects]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="spoilt files; 0: the valid samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=250, help="files per process")
    parser.add_argument("--keep", type=Path, help="folder for the files that show a defect")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # when this script looks at spoilt files itself
    logging.disable()
    findings, began = Findings(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="resdiff-fuzz-") as folder:
        originals = Path(folder) / "originals"
        originals.mkdir()
        paths = write_inputs(originals, options.count, options.seed)
        for number, start in enumerate(range(0, len(paths), options.batch)):
            asked = ASKED[number % len(ASKED)]
            upscale(paths[start : start + options.batch], Path(folder) / "work", asked, findings)
        if options.count == 0 and findings.refused:
            findings.defects.append((f"{findings.refused} valid files were refused", originals))
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for _, path in findings.defects:
                if path.is_file():
                    shutil.copy(path, options.keep)
    print(summary(findings, time.monotonic() - began))
    return int(bool(findings.defects))


if __name__ == "__main__":
    sys.exit(main())
