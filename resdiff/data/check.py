"""What a training set would use and what not, in words: the answer of `resdiff data check`."""

import os
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from resdiff.data.photos import Skipped, UnreadablePhoto
from resdiff.data.scan import Scan
from resdiff.data.store import DiskStore

FIRST = 20  # files that are listed unless all are asked for


def decoded(found: Scan, scale: int = 4) -> Scan:
    """Return `found` without the files that cannot be decoded whole, which their headers do not tell.

    Raises ValueError when none can.
    """
    disk = DiskStore(found.used, scale, cover=None)

    def trouble(i: int) -> Skipped | None:
        try:
            disk.read(i)
        except UnreadablePhoto as error:
            return Skipped(error.path, error.reason)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = len(found.used)
        results = list(tqdm(pool.map(trouble, range(count)), "decoding", count, leave=False, disable=None))
    broken = [result for result in results if result is not None]
    if len(broken) == count:
        raise ValueError(f"none of the {count} photos can be used; the first, {broken[0].path}, {broken[0].reason}")
    used = [file for file, result in zip(found.used, results, strict=True) if result is None]
    return Scan(used, broken + found.skipped)


def in_words(found: Scan, scale: int = 4, *, list_all: bool = False) -> str:
    """Return the report, several lines: what is used, then what not and why."""
    used, disk = found.used, DiskStore(found.used, scale, cover=None)
    noun = ("pair" if found.has_pairs else "photo") + "s" * (len(used) > 1)
    by_area = sorted((file.height * file.width, f"{file.width}x{file.height}") for file in used)
    pixels = sum(area for area, _ in by_area) / 1e6
    megabytes = sum(disk.num_bytes(i) for i in range(len(used))) / 1e6
    lines = [
        f"{len(used)} {noun} would be used: {pixels:.1f} megapixels, {megabytes:.1f} MB decoded",
        f"sizes from {by_area[0][1]} to {by_area[-1][1]}",
        f"{sum(bool(file.caption) for file in used)} with a caption, {sum(bool(file.tags) for file in used)} with tags",
    ]
    skipped = found.skipped
    if skipped:
        lines.append(f"{len(skipped)} would not:")
        shown = skipped if list_all else skipped[:FIRST]
        lines += [f"  {file.path} {file.reason}" for file in shown]
        if len(shown) < len(skipped):
            lines.append(f"  and {len(skipped) - len(shown)} more; `resdiff data check --list` names them all")
    return "\n".join(lines)
