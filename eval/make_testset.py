"""Degraded test sets: LR / HR pairs by a named degradation and a seed, with a manifest to regenerate them bit for bit.

    python eval/make_testset.py --hr_dir photos --degradation resshift-test --seed 0 --output_dir sets/photos
    python eval/make_testset.py --check sets/photos/manifest.json                       # LR again, from the set's HR
    python eval/make_testset.py --check sets/photos/manifest.json --hr_dir photos       # both again, from the sources

Writes HR/NAME.png, LRx4/NAME.png (8 bits, lossless) and manifest.json: the version, every number of the degradation,
the seed, the crop, and for each image the source's name and SHA-256 and those of the HR and LR pixels. HR is cropped
around the centre, to `--crop_size` or to multiples of the scale. An image's LR depends on its pixels, its name and the
seed alone; `eval/benchmark.py --data "HR degradation=... seed=..."` makes the same.

A run that was stopped goes on when it is started again in the same way; files that are there were written whole.
"""

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import resdiff
from resdiff.data.degradation.presets import preset, to_yaml
from resdiff.eval.harness.degrading import check_degradation, make_lr
from resdiff.eval.harness.images import image_size, read_image
from resdiff.eval.harness.testsets import find_images, some
from resdiff.files.digest import sha256
from resdiff.files.formats import is_image_name, printable
from resdiff.pictures import Picture, save_picture
from resdiff.runs.errors import describe
from resdiff.runs.json_files import read_json, write_json
from resdiff.runs.resume import remove_leftovers

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest
ENTRY = {"name", "source", "source_sha256", "height", "width", "hr_sha256", "lr_sha256"}  # of an image that is made


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the pixels of a set depend on, beside the sources."""

    degradation: str
    scale: int = 4
    seed: int = 0
    crop_size: int | None = None  # side of the HR crops; None: the largest multiples of the scale

    def __post_init__(self) -> None:
        check_degradation(self.degradation, self.scale)
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; give at least 0")
        if self.crop_size is not None and (self.crop_size < 1 or self.crop_size % self.scale):
            raise ValueError(f"--crop_size is {self.crop_size}; give a positive multiple of the scale {self.scale}")

    @property
    def lr_folder(self) -> str:
        """Name of the folder of LR images."""
        return f"LRx{self.scale}"

    def crop(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) of the HR image made from one of this size; 0 where it is too small."""
        if self.crop_size is not None:
            fits = min(height, width) >= self.crop_size
            return (self.crop_size, self.crop_size) if fits else (0, 0)
        return height - height % self.scale, width - width % self.scale


def make_testset(hr_dir: Path, settings: Settings, output_dir: Path, limit: int | None = None) -> dict[str, Any]:
    """Write the set and return its manifest; images that an earlier, stopped run has written are kept.

    Args:
        hr_dir: folder of the sources, any format that resdiff reads; sub-folders are not searched.
        settings: see there.
        output_dir: a new or empty folder, or the one of an earlier run with the same settings and sources.
        limit: take the first so many sources by name; None: all.

    Raises:
        ValueError: no sources, sources that are too small or unreadable (which), or an output folder that holds
            something else. Nothing is written then.
    """
    sources = _sources(hr_dir, settings, limit)
    manifest = _manifest(settings, sources)
    _check_output(output_dir, manifest)
    folders = {side: output_dir / name for side, name in (("hr", "HR"), ("lr", settings.lr_folder))}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers([output_dir, *folders.values()])
    earlier = read_json(output_dir / MANIFEST, "images")
    if earlier is None:
        write_json(output_dir / MANIFEST, manifest)  # marks the folder as ours
    for entry, (name, source) in zip(tqdm(manifest["images"], "images", disable=None), sources.items(), strict=True):
        entry |= _described(*_written_pair(source, name, settings, folders))
    if earlier is not None and earlier["complete"]:
        if differing := _differing(earlier, manifest):
            raise ValueError(
                f"{len(differing)} images in {printable(output_dir)} are not what its manifest says: "
                f"{some(differing)}; delete their files and run again"
            )
        return earlier
    manifest["complete"] = True
    write_json(output_dir / MANIFEST, manifest)
    return manifest


def _written_pair(source: Path, name: str, settings: Settings, folders: dict[str, Path]) -> tuple[Tensor, Tensor]:
    """Return the (hr, lr) that lie in `folders`; where one lacks, make and write both."""
    paths = [folders[side] / f"{name}.png" for side in ("hr", "lr")]
    if all(path.exists() for path in paths):
        return read_image(paths[0]), read_image(paths[1])
    pair = make_pair(source, name, settings)
    for image, path in zip(pair, paths, strict=True):
        save_picture(Picture(image.movedim(0, -1).numpy()), path)
    return pair


def make_pair(source: Path, name: str, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return (hr, lr), uint8 (C, H, W) and (C, H / scale, W / scale), of one source file."""
    image = read_image(source)
    height, width = image.shape[-2:]
    h, w = settings.crop(height, width)
    top, left = (height - h) // 2, (width - w) // 2
    hr = image[:, top : top + h, left : left + w].contiguous()
    return hr, make_lr(hr, settings.degradation, settings.seed, name)


def check(path: Path, hr_dir: Path | None = None) -> Iterator[str]:
    """Regenerate the set that a manifest describes and yield one line for each image that is not the same bit for bit,
    or that the manifest does not know.

    Compared with the manifest are the pixels made now and those of the files beside it, where there are any.

    Args:
        path: the manifest.
        hr_dir: folder of the sources. None: LR is made from the HR images beside the manifest.

    Raises:
        ValueError: no manifest, one of another version, or one whose degradation has other numbers now.
    """
    manifest = _read_manifest(path)
    settings = Settings(**manifest["settings"])
    numbers = to_yaml(preset(settings.degradation))
    if numbers != manifest["degradation"]:
        raise ValueError(
            f"{printable(path)} was made by a {settings.degradation} with other numbers, resdiff "
            f"{manifest['resdiff']}; this is {resdiff.__version__}, use that version"
        )
    if not manifest["complete"]:
        raise ValueError(f"{printable(path)} is of a run that was stopped; start the run again to complete it")
    folders = {"hr": path.parent / "HR", "lr": path.parent / settings.lr_folder}
    for entry in tqdm(manifest["images"], "images", disable=None):
        problems = list(_problems(entry, settings, folders, hr_dir))
        if problems:
            yield f"{entry['name']}: {', '.join(problems)}"
    listed = {entry["name"] for entry in manifest["images"]}
    for path in sorted(path for folder in folders.values() for path in folder.glob("*") if is_image_name(path)):
        if path.stem not in listed:
            yield f"{path.stem}: {printable(path)} is not in the manifest"


def _problems(
    entry: dict[str, Any], settings: Settings, folders: dict[str, Path], hr_dir: Path | None
) -> Iterator[str]:
    """Yield what of one image is not as its manifest entry says."""
    name = entry["name"]
    source = hr_dir / entry["source"] if hr_dir else folders["hr"] / f"{name}.png"
    if not source.is_file():
        yield f"{printable(source)} is missing"
        return
    if hr_dir and sha256(source) != entry["source_sha256"]:
        yield f"{printable(source)} is another file"
    hr, lr = make_pair(source, name, settings)
    for side, made in (("hr", hr), ("lr", lr)):
        if pixel_digest(made) != entry[f"{side}_sha256"]:
            yield f"{side.upper()} made now differs"
        file = folders[side] / f"{name}.png"
        if not folders[side].is_dir():  # a manifest alone, to compare with
            continue
        if not file.is_file():
            yield f"{printable(file)} is missing"
        elif pixel_digest(read_image(file)) != entry[f"{side}_sha256"]:
            yield f"{printable(file)} differs"


def pixel_digest(image: Tensor) -> str:
    """Return the SHA-256, in hex, of "height width channels" in text and the samples of uint8 (C, H, W), row by row."""
    channels, height, width = image.shape
    samples = image.movedim(0, -1).contiguous().numpy().tobytes()
    return hashlib.sha256(f"{height} {width} {channels}\n".encode() + samples).hexdigest()


def _sources(hr_dir: Path, settings: Settings, limit: int | None) -> dict[str, Path]:
    """Return the source files by the name of their images; raises ValueError for what cannot serve."""
    if not hr_dir.is_dir():
        raise ValueError(f"--hr_dir {printable(hr_dir)} is not a folder; check the path")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; give at least 1")
    sources = dict(list(find_images(hr_dir).items())[:limit])
    small = []
    for path in sources.values():
        height, width = image_size(path)
        if 0 in settings.crop(height, width):
            small.append(f"{path.name} ({width}x{height})")
    if small:
        raise ValueError(
            f"{len(small)} of the {len(sources)} images of {printable(hr_dir)} are smaller than "
            f"{settings.crop_size or settings.scale} pixels a side: {some(small)}; remove them or pass a smaller --crop_size"
        )
    return sources


def _manifest(settings: Settings, sources: dict[str, Path]) -> dict[str, Any]:
    """Return the manifest of a set of which no image is made yet."""
    return {
        "format": FORMAT,
        "resdiff": resdiff.__version__,
        "torch": torch.__version__,
        "settings": asdict(settings),
        "degradation": to_yaml(preset(settings.degradation)),
        "complete": False,
        "images": [
            {"name": name, "source": path.name, "source_sha256": sha256(path)} for name, path in sources.items()
        ],
    }


def _described(hr: Tensor, lr: Tensor) -> dict[str, Any]:
    """Return what the manifest says of the pixels of a pair."""
    height, width = hr.shape[-2:]
    return {"height": height, "width": width, "hr_sha256": pixel_digest(hr), "lr_sha256": pixel_digest(lr)}


def _check_output(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError unless `folder` is new, empty, or holds an earlier run with this manifest's settings and sources."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"--output_dir {printable(folder)} is not empty and has no {MANIFEST}; choose a new folder")
    earlier = _read_manifest(folder / MANIFEST)
    for key in ("settings", "degradation"):
        if earlier[key] != manifest[key]:
            raise ValueError(
                f"{printable(folder)} was made with other settings, {_changes(earlier, manifest)}; choose a new folder"
            )
    before, now = ({e["source"]: e["source_sha256"] for e in m["images"]} for m in (earlier, manifest))
    if before != now:
        other = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        raise ValueError(f"{printable(folder)} was made from other sources ({some(other)}); choose a new folder")


def _changes(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Return which settings differ, or that the degradation's numbers do."""
    pairs = {key: (value, now["settings"].get(key)) for key, value in earlier["settings"].items()}
    changed = [f"{key} {before} then and {after} now" for key, (before, after) in pairs.items() if before != after]
    return ", ".join(changed) or "other numbers of the degradation"


def _differing(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names of the images whose pixels are not those of a complete earlier manifest."""
    before = {entry["name"]: entry for entry in earlier["images"]}
    return [e["name"] for e in now["images"] if any(e[k] != before[e["name"]][k] for k in ("hr_sha256", "lr_sha256"))]


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest; raises ValueError when there is none, or one that this version does not know."""
    manifest = read_json(path, "images")
    if manifest is None:
        raise ValueError(f"{printable(path)} does not exist; give the {MANIFEST} of a set made by make_testset.py")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{printable(path)} has format {manifest.get('format')}; this version reads {FORMAT}")
    try:
        Settings(**manifest["settings"])
        whole = all(entry.keys() >= ENTRY for entry in manifest["images"]) or not manifest["complete"]
        whole = whole and isinstance(manifest["degradation"], str)
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{printable(path)} is damaged; delete it with its folders, and make the set again")
    return manifest


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, or `arguments` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hr_dir", type=Path, help="folder of HR images")
    parser.add_argument("--output_dir", type=Path, help="where to write HR/, LRx4/ and manifest.json")
    parser.add_argument("--degradation", help="a preset, such as bicubic-matlab-legacy or resshift-test")
    parser.add_argument("--scale", type=int, default=4, help="HR side over LR side, that of the preset [4]")
    parser.add_argument("--seed", type=int, default=0, help="of the degradation's random numbers [0]")
    parser.add_argument("--crop_size", type=int, help="side of the HR crop [the largest multiples of the scale]")
    parser.add_argument("--limit", type=int, help="take the first so many images by name [all]")
    parser.add_argument("--check", type=Path, metavar="MANIFEST", help="write nothing, regenerate and compare")
    args = parser.parse_args(arguments)
    needed = () if args.check else ("hr_dir", "output_dir", "degradation")
    if missing := [f"--{name}" for name in needed if getattr(args, name) is None]:
        parser.error(f"{', '.join(missing)} must be given")
    return args


def main(args: argparse.Namespace) -> int:
    """Make or check a set; return 0, 1 where a check found a difference, or 2 with one line for a bad command."""
    try:
        if args.check:
            problems = 0
            for problem in check(args.check, args.hr_dir):
                problems += 1
                print(problem)
            print(
                f"{problems} image{'s' if problems > 1 else ''} differ"
                if problems
                else "all images are equal bit for bit"
            )
            return 1 if problems else 0
        settings = Settings(degradation=args.degradation, scale=args.scale, seed=args.seed, crop_size=args.crop_size)
        manifest = make_testset(args.hr_dir, settings, args.output_dir, args.limit)
    except (ValueError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 2
    print(f"{len(manifest['images'])} pairs in {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))
