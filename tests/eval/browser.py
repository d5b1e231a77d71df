"""A page as Chromium sees it; tests that need it are skipped without."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1200,4000",
    "virtual-time-budget=2000",
    "dump-dom",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browsed(page: Path, folder: Path, state: str = "", script: str = "") -> str:
    """Open a copy of `page` in `folder` at a state, let a script act on it, and return the document as it is then."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    copy_of = folder / "page.html"
    copy_of.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    flags = [f"--{flag}" for flag in FLAGS]
    address = copy_of.as_uri() + (f"#{state}" if state else "")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run([CHROMIUM, *flags, profile, address], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-500:]
    assert re.search(r'<html[^>]*data-errors="\[\]"', done.stdout), "the page reports errors"
    return done.stdout
