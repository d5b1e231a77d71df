"""The hand-written package list of setup.cfg, and what a fresh install must be able to do."""

import configparser
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def listed_packages() -> set[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options"]["packages"].split())


def test_every_package_of_the_tree_is_listed() -> None:
    found = {p.parent.relative_to(ROOT) for p in (ROOT / "resdiff").rglob("__init__.py")}
    names = {".".join(p.parts) for p in found}
    for mapped in ("pipelines", "train", "eval"):
        names |= {
            ".".join(("resdiff", *p.parent.relative_to(ROOT).parts)) for p in (ROOT / mapped).rglob("__init__.py")
        }
    assert names == listed_packages()


def test_the_top_level_holds_what_was_agreed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:  # an unpacked source archive
        return
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    allowed = {"resdiff", "pipelines", "train", "eval", "tests", "setup.cfg", "pyproject.toml", "README.md"}
    allowed |= {"LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, resdiff; print(sorted({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_the_mapped_packages_are_found_from_the_repository_root() -> None:
    code = "import resdiff.train.loop, resdiff.eval, resdiff.pipelines; print(resdiff.pipelines.SRPipeline.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "SRPipeline"
