"""Imports go one way: what each layer may import of ours, and which libraries stay out of module level."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = {"pipelines": "pipelines", "train": "train", "eval": "eval"}

FIRST_ROW = {
    "attention",
    "bands",
    "canvas",
    "color",
    "cuda_graphs",
    "devices",
    "files",
    "fingerprint",
    "images",
    "memory",
    "names",
    "noise",
    "pictures",
    "resize",
    "scalars",
    "sizes",
    "tiling",
}
ALLOWED = {
    "attention": set(),
    "bands": {"resize"},
    "canvas": set(),
    "color": {"resize"},
    "cuda_graphs": {"devices"},
    "devices": set(),
    "files": set(),
    "fingerprint": set(),
    "images": {"files"},
    "memory": set(),
    "names": set(),
    "noise": {"tiling"},
    "pictures": {"files", "images"},
    "resize": set(),
    "scalars": set(),
    "sizes": set(),
    "tiling": {"canvas"},
    "diffusion": set(),
    "schedulers": {"diffusion"},
    "models": {"attention"},
    "text": FIRST_ROW | {"models"},
    "checkpoints": {"models", "schedulers", "files", "text"},
    "data": FIRST_ROW | {"metrics"},
    "losses": FIRST_ROW | {"diffusion", "models", "metrics"},
    "metrics": FIRST_ROW | {"checkpoints"},
    "pipelines": FIRST_ROW | {"diffusion", "schedulers", "models", "checkpoints", "text"},
    "train": FIRST_ROW
    | {"diffusion", "schedulers", "models", "checkpoints", "text", "pipelines", "data", "losses", "metrics"},
    "runs": FIRST_ROW | {"checkpoints", "pipelines"},
}
ALLOWED["train"] |= {"runs"}
ALLOWED["eval"] = ALLOWED["train"] | {"train"}
ROOF = {"cli", "commands", "__init__", "__main__"}
LIGHT_MODULES = (
    "__init__ cli names scalars sizes files/digest files/formats files/headers checkpoints/known checkpoints/known_bases "
    "checkpoints/known_seesr checkpoints/known_stablesr checkpoints/known_models checkpoints/by_name "
    "checkpoints/seesr_files checkpoints/stablesr_files checkpoints/store "
    "checkpoints/cache checkpoints/download checkpoints/records checkpoints/descriptions"
)
LIGHT = (
    *(f"resdiff/{name}.py" for name in LIGHT_MODULES.split()),
    *(
        f"resdiff/{folder}/{path.name}"
        for folder in ("commands", "runs")
        for path in sorted((ROOT / "resdiff" / folder).glob("*.py"))
    ),
)
HEAVY = {"torch", "numpy", "PIL", "diffusers", "transformers", "accelerate", "open_clip", "lpips", "xformers"}


def sources() -> list[Path]:
    """Every module of the package."""
    return [p for folder in ("resdiff", *MAPPED) for p in (ROOT / folder).rglob("*.py")]


def layer(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] in MAPPED else parts[1]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def module_level_imports(tree: ast.Module) -> set[str]:
    guarded = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    body = [n for n in tree.body if n not in guarded]
    nodes = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
    return {name.split(".")[0] for node in nodes for name in imports(node)}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    own = layer(path)
    if own in ROOF:
        return
    for name in imports(ast.parse(path.read_text())):
        if name.startswith("resdiff."):
            target = name.split(".")[1]
            assert target == own or target in ALLOWED[own], f"{own} must not import {name}"
        assert name.split(".")[0] not in MAPPED, f"import resdiff.{name}, the folder is mapped into the package"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_optional_libraries_are_imported_inside_functions(path: Path) -> None:
    assert not module_level_imports(ast.parse(path.read_text())) & {"xformers", "open_clip", "lpips", "pyiqa"}


@pytest.mark.parametrize("name", LIGHT)
def test_the_roof_loads_nothing_heavy_at_import(name: str) -> None:
    assert not module_level_imports(ast.parse((ROOT / name).read_text())) & HEAVY


def test_the_mathematics_knows_no_framework_but_torch() -> None:
    for path in (ROOT / "resdiff" / "diffusion").rglob("*.py"):
        names = {n.split(".")[0] for n in imports(ast.parse(path.read_text()))}
        assert names <= {"math", "dataclasses", "typing", "collections", "torch", "numpy", "resdiff"}, path
