"""`resdiff doctor`: what a bug report needs."""

import importlib
import sys

from resdiff import __version__

command = importlib.import_module("resdiff.commands.doctor")


def test_versions_devices_precisions_and_places_are_told(resdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    result = resdiff("doctor")
    assert result.exit_code == 0, result.output
    lines = {line[:16].strip(): line[17:] for line in result.stdout.splitlines()}
    assert lines["resdiff"] == __version__ and lines["python"].startswith(sys.version.split()[0])
    assert {"torch", "diffusers", "imagecodecs", "filelock", "cpu capabilities", "c++ compiler"} < set(lines)
    assert "fp32" in lines["dtypes"] and "unless told otherwise" in lines["dtypes"]
    assert "sdpa" in lines["attention"] and "device cpu" in lines
    assert lines["cache"].startswith(str(tmp_path / "cache")) and lines["cache"].endswith("GiB free")
    assert "GiB free of" in lines["memory"] and lines["network"].startswith("not tried")


def test_missing_packages_are_told_with_what_goes_without_them(resdiff, monkeypatch):
    present = command._version
    monkeypatch.setattr(command, "_version", lambda name: None if name in ("tifffile", "lpips") else present(name))
    lines = [line.split(maxsplit=1) for line in resdiff("doctor").stdout.splitlines()]
    assert ["tifffile", "MISSING: install resdiff again"] in lines
    assert ["lpips", "not installed: the LPIPS metric and loss"] in lines
