"""Captions and tags beside photos."""

import json
from pathlib import Path

import pytest

from resdiff.data.captions import Description, read_descriptions


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    paths = [tmp_path / name for name in ("one.jpg", "sub/two.v2.png", "sub/three.webp")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return paths


def test_text_files_beside_a_photo_are_its_caption_and_its_tags(photos, tmp_path) -> None:
    write(tmp_path / "one.txt", "\ufeffa grey cat", "  on a wall \n")
    write(tmp_path / "sub/two.v2.txt", "größer als zwei")
    write(tmp_path / "sub/two.v2.tags.txt", "night,  city lights , , rain\n")
    said, skipped = read_descriptions(photos)
    assert said == {
        photos[0]: Description("a grey cat on a wall"),
        photos[1]: Description("größer als zwei", ("night", "city lights", "rain")),
    }
    assert skipped == []


def test_metadata_of_any_folder_wins_over_text_files(photos, tmp_path) -> None:
    write(tmp_path / "one.txt", "from the text file")
    write(tmp_path / "one.tags.txt", "kept")
    write(tmp_path / "sub/three.tags.txt", "overruled")
    metadata = [
        write(
            tmp_path / "metadata.jsonl",
            {"file_name": "one.jpg", "text": "from the metadata"},
            {"file_name": "sub/three.webp", "caption": "from above", "tags": "a"},
        ),
        write(tmp_path / "sub/metadata.jsonl", "", {"file_name": "three.webp", "tags": ["b", "c d"]}, ""),
    ]
    said, skipped = read_descriptions(photos, metadata[::-1])
    assert said == {
        photos[0]: Description("from the metadata", ("kept",)),
        photos[2]: Description("from above", ("b", "c d")),
    }
    assert skipped == []


def test_a_metadata_line_without_its_photo_is_skipped_with_the_reason(photos, tmp_path) -> None:
    (tmp_path / "film.gif").touch()
    metadata = write(tmp_path / "metadata.jsonl", {"file_name": "gone.jpg", "text": "x"}, {"file_name": "film.gif"})
    said, skipped = read_descriptions(photos, [metadata])
    assert said == {}
    assert [(s.path.name, s.reason) for s in skipped] == [
        ("gone.jpg", "does not exist, but metadata.jsonl line 1 names it"),
        ("film.gif", "is not among the photos, but metadata.jsonl line 2 names it"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "one.jpg"', "metadata.jsonl line 2 is not JSON: "),
        ('["one.jpg", "a cat"]', "metadata.jsonl line 2 is not a JSON object"),
        ('{"text": "a cat"}', "metadata.jsonl line 2 has no file_name"),
        ('{"file_name": "one.jpg", "text": 3}', "metadata.jsonl line 2: text is 3; write a string"),
        ('{"file_name": "one.jpg", "tags": {"a": 1}}', "metadata.jsonl line 2: tags is {'a': 1}; write a list"),
        ('{"file_name": "one.jpg", "tags": ["a", 1]}', "write a list of strings or one comma-separated string"),
    ],
)
def test_broken_metadata_is_told_in_one_line_with_its_number(photos, tmp_path, line, message) -> None:
    metadata = write(tmp_path / "metadata.jsonl", {"file_name": "one.jpg", "text": "fine"}, line)
    with pytest.raises(ValueError) as caught:
        read_descriptions(photos, [metadata])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["one.txt", "one.tags.txt", "metadata.jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_told_with_the_file(photos, tmp_path, name, encoding) -> None:
    (tmp_path / name).write_text('{"file_name": "one.jpg", "text": "größer"}', encoding=encoding)
    with pytest.raises(ValueError, match=f"{name} is not in UTF-8; save it as UTF-8"):
        read_descriptions(photos, [tmp_path / "metadata.jsonl"] if name == "metadata.jsonl" else [])
