"""What is written beside photos: a caption and tags for each, for the families that are trained with text.

Beside `sub/photo.jpg`: `sub/photo.txt` is its caption, `sub/photo.tags.txt` its tags, separated by commas. In any
folder, `metadata.jsonl` (the convention of Hugging Face's imagefolder) has one JSON object per line: `file_name`,
relative to its folder, `text` or `caption`, and `tags`, a list or one comma-separated string. What the metadata says
wins over the text files; of two metadata files the one nearer to the photo wins, of two lines the last.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resdiff.data.photos import Skipped

METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class Description:
    """The text of one photo; empty where nothing is said."""

    caption: str = ""
    tags: tuple[str, ...] = ()


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark; ValueError for any other encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8; save it as UTF-8") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) per line that is not blank; the place, "file line n", is for messages.

    Raises ValueError naming the line that is no JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} is not JSON: {error.msg}; correct or remove it") from error
        if not isinstance(value, dict):
            raise ValueError(f"{place} is not a JSON object; write one {{...}} per line")
        yield place, value


def caption_from(entry: Mapping[str, Any], keys: Sequence[str], place: str) -> str | None:
    """Return the caption under the first of `keys` that is given, on one line, or None."""
    for key in keys:
        value = entry.get(key)
        if value is not None:
            if not isinstance(value, str):
                raise ValueError(f"{place}: {key} is {value!r}; write a string")
            return " ".join(value.split())
    return None


def tags_from(entry: Mapping[str, Any], place: str) -> tuple[str, ...] | None:
    """Return the tags of a list or of a comma-separated string under `tags`, or None when there is no such key."""
    value = entry.get("tags")
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{place}: tags is {value!r}; write a list of strings or one comma-separated string")
    return tuple(" ".join(name.split()) for name in names if name.strip())


def read_descriptions(
    photos: Sequence[Path], metadata: Sequence[Path] = ()
) -> tuple[dict[Path, Description], list[Skipped]]:
    """Return the descriptions of those photos that have one, and the metadata lines that name no photo.

    Args:
        photos: image files; text files are looked for beside each.
        metadata: `metadata.jsonl` files, each speaking of its own folder and those below.

    Raises:
        ValueError: a file in another encoding than UTF-8, a line that is no JSON object, lacks `file_name` or has a
            value of the wrong type. One line each.
    """
    found = {photo: _beside(photo) for photo in photos}
    skipped = []
    for path in sorted(metadata, key=lambda p: (len(p.parts), p.as_posix())):  # deeper ones speak last
        for place, entry in read_json_lines(path):
            name = entry.get("file_name")
            if not isinstance(name, str) or not name:
                raise ValueError(f'{place} has no file_name; write {{"file_name": "photo.jpg", "text": "a caption"}}')
            photo = path.parent / name
            if photo not in found:
                why = "is not among the photos" if photo.exists() else "does not exist"
                skipped.append(Skipped(photo, f"{why}, but {METADATA} line {place.rsplit(' ', 1)[1]} names it"))
                continue
            caption, tags = caption_from(entry, ("text", "caption"), place), tags_from(entry, place)
            if caption is not None:
                found[photo] = replace(found[photo], caption=caption)
            if tags is not None:
                found[photo] = replace(found[photo], tags=tags)
    return {photo: said for photo, said in found.items() if said != Description()}, skipped


def _beside(photo: Path) -> Description:
    caption, tags = photo.with_suffix(".txt"), photo.with_suffix(".tags.txt")
    return Description(
        caption=" ".join(read_text(caption).split()) if caption.is_file() else "",
        tags=(tags_from({"tags": read_text(tags)}, str(tags)) or ()) if tags.is_file() else (),
    )
