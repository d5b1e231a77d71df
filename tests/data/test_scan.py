"""Which files a training would use, and what is said about the others."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdiff.data.photos import Skipped
from resdiff.data.scan import TrainingFile, scan


def save(path: Path, height: int, width: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 7, np.uint8)).save(path, **options)
    return path


def write_csv(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def write_jsonl(path: Path, *entries: dict) -> Path:
    path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    return path


def error(*arguments, **options) -> str:
    """Return the one line that `scan` refuses with."""
    with pytest.raises(ValueError) as caught:
        scan(*arguments, **({"crop": (16, 16)} | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- a folder --------------------------------------------------------------------------------------------------------


def test_a_folder_is_sorted_into_used_and_skipped_files(tmp_path) -> None:
    save(tmp_path / "b.png", 20, 30)
    save(tmp_path / "a/small.png", 12, 30)
    save(tmp_path / "a/turned.jpg", 17, 40, exif=turned())
    (tmp_path / "a/empty.webp").touch()
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "b.txt").write_text("a caption")
    (tmp_path / "b.tags.txt").write_text("one, two")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}')
    found = scan(tmp_path, crop=(16, 16))
    assert found.used == [
        TrainingFile(tmp_path / "a/turned.jpg", None, "", (), 40, 17),
        TrainingFile(tmp_path / "b.png", None, "a caption", ("one", "two"), 20, 30),
    ]
    assert not found.has_pairs
    assert found.skipped == [
        Skipped(tmp_path / "a/empty.webp", "is empty"),
        Skipped(tmp_path / "a/small.png", "is 30x12, smaller than the crop of 16x16"),
        Skipped(tmp_path / "c.png", "is not an image that can be read"),
        Skipped(tmp_path / "gone.png", "does not exist, but metadata.jsonl line 1 names it"),
    ]


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_rectangular_crop_is_compared_with_the_upright_photo(tmp_path) -> None:
    save(tmp_path / "lying.jpg", 16, 40)
    save(tmp_path / "standing.jpg", 16, 40, exif=turned())
    assert [f.hr.name for f in scan(tmp_path, crop=(32, 16)).used] == ["standing.jpg"]
    assert [f.hr.name for f in scan(tmp_path, crop=(16, 32)).used] == ["lying.jpg"]


def test_no_pixel_is_decoded(tmp_path, monkeypatch) -> None:
    save(tmp_path / "a.png", 20, 20)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert len(scan(tmp_path, crop=(16, 16)).used) == 1


def test_a_folder_that_cannot_serve_is_refused_in_one_line(tmp_path) -> None:
    assert error(tmp_path / "none") == f"{tmp_path / 'none'} is not a folder; pass a folder of photos"
    assert "holds no image" in error(tmp_path)
    save(tmp_path / "a.png", 12, 30)
    save(tmp_path / "b.png", 14, 15)
    assert error(tmp_path) == (
        "all 2 photos are too small for a crop of 16x16, the largest is 15x14; "
        "choose a smaller resolution or larger photos"
    )
    (tmp_path / "c.png").touch()
    assert error(tmp_path) == (
        f"none of the 3 photos can be used; the first, {tmp_path / 'a.png'}, is 30x12, smaller than the crop of 16x16"
    )
    assert "pass positive numbers" in error(tmp_path, crop=(0, 16))
    assert "neither train_data_dir nor manifest" in error(None)


def test_captions_in_another_encoding_are_refused_with_their_file(tmp_path) -> None:
    save(tmp_path / "a.png", 20, 20)
    (tmp_path / "a.txt").write_bytes("größer".encode("latin-1"))
    assert error(tmp_path) == f"{tmp_path / 'a.txt'} is not in UTF-8; save it as UTF-8"


# --- two folders -----------------------------------------------------------------------------------------------------


def test_folders_are_paired_by_name_whatever_the_suffix(tmp_path) -> None:
    save(tmp_path / "hr/sub/a.png", 32, 48)
    save(tmp_path / "lr/sub/a.JPG", 8, 12)
    save(tmp_path / "hr/b.v1.png", 64, 64)
    save(tmp_path / "lr/b.v1.webp", 16, 16)
    (tmp_path / "hr/b.v1.txt").write_text("a caption")
    found = scan(tmp_path / "hr", lr_data_dir=tmp_path / "lr", crop=(16, 32))
    assert found.has_pairs and found.skipped == []
    assert found.used == [
        TrainingFile(tmp_path / "hr/b.v1.png", tmp_path / "lr/b.v1.webp", "a caption", (), 64, 64),
        TrainingFile(tmp_path / "hr/sub/a.png", tmp_path / "lr/sub/a.JPG", "", (), 32, 48),
    ]


def test_a_pair_of_which_one_does_not_fit_is_skipped(tmp_path) -> None:
    for name, lr_height in (("good", 8), ("off", 9), ("torn", 8)):
        save(tmp_path / f"hr/{name}.png", 32, 48)
        save(tmp_path / f"lr/{name}.png", lr_height, 12)
    (tmp_path / "lr/torn.png").write_bytes(b"\x89PNG")
    found = scan(tmp_path / "hr", lr_data_dir=tmp_path / "lr", crop=(16, 16))
    assert [f.hr.stem for f in found.used] == ["good"]
    assert found.skipped == [
        Skipped(tmp_path / "lr/off.png", "is 12x9, not 1/4 of its HR partner's 48x32"),
        Skipped(tmp_path / "lr/torn.png", "is not an image that can be read"),
    ]


def test_the_lr_folder_may_lie_within_the_other(tmp_path) -> None:
    save(tmp_path / "a.png", 32, 32)
    save(tmp_path / "lr/a.png", 16, 16)
    (file,) = scan(tmp_path, lr_data_dir=tmp_path / "lr", crop=(16, 16), scale=2).used
    assert (file.hr, file.lr) == (tmp_path / "a.png", tmp_path / "lr/a.png")


def test_folders_that_do_not_pair_are_refused_in_one_line(tmp_path) -> None:
    hr, lr = tmp_path / "hr", tmp_path / "lr"
    save(hr / "a.png", 32, 32)
    save(hr / "b.png", 32, 32)
    save(lr / "a.png", 8, 8)
    save(lr / "c.png", 8, 8)
    said = error(hr, lr_data_dir=lr)
    assert said.startswith(f"2 of the 4 files of {hr} and {lr} have no partner, the first is {hr / 'b.png'}; give ")
    (hr / "b.png").unlink()
    (lr / "c.png").unlink()
    assert "pass multiples of 4" in error(hr, lr_data_dir=lr, crop=(16, 18))
    assert "itself; pass two folders" in error(hr, lr_data_dir=hr)
    assert "is not a folder" in error(hr, lr_data_dir=tmp_path / "none")
    save(hr / "a.jpg", 32, 32)
    assert f"{hr / 'a.jpg'} and {hr / 'a.png'} differ only in their suffix" in error(hr, lr_data_dir=lr)


# --- a manifest ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path) -> Path:
    save(tmp_path / "hr/a.png", 32, 48)
    save(tmp_path / "hr/b.png", 32, 32)
    save(tmp_path / "lr/x.png", 8, 12)
    save(tmp_path / "lr/y.png", 8, 8)
    return tmp_path


def test_a_csv_manifest_names_pairs_and_their_text(pair) -> None:
    manifest = write_csv(
        pair / "m.csv", ("hr", "lr", "caption", "tags"),
        ("hr/b.png", "lr/y.png", "a cat, asleep", "cat, sofa"), ("hr/a.png", str(pair / "lr/x.png"), "", ""),
    )  # fmt: skip
    (pair / "hr/a.txt").write_text("from beside the photo")
    assert scan(None, manifest=manifest, crop=(16, 16)).used == [
        TrainingFile(pair / "hr/b.png", pair / "lr/y.png", "a cat, asleep", ("cat", "sofa"), 32, 32),
        TrainingFile(pair / "hr/a.png", pair / "lr/x.png", "from beside the photo", (), 32, 48),
    ]


def test_a_json_manifest_says_the_same(pair) -> None:
    manifest = write_jsonl(pair / "m.jsonl", {"hr": "hr/b.png", "lr": "lr/y.png", "caption": "x", "tags": ["a", "b"]})
    assert scan(None, manifest=manifest, crop=(16, 16)).used == [
        TrainingFile(pair / "hr/b.png", pair / "lr/y.png", "x", ("a", "b"), 32, 32)
    ]


def test_a_manifest_of_photos_alone_has_no_pairs(pair) -> None:
    manifest = write_csv(pair / "m.csv", ("hr", "caption"), ("hr/a.png", "x"))
    found = scan(None, manifest=manifest, crop=(16, 16))
    assert not found.has_pairs and found.used[0].caption == "x"


def test_photos_of_the_folder_that_the_manifest_does_not_name_are_listed(pair) -> None:
    manifest = write_csv(pair / "m.csv", ("hr", "lr"), ("hr/a.png", "lr/x.png"))
    found = scan(pair, manifest=manifest, crop=(16, 16))
    assert [f.hr.name for f in found.used] == ["a.png"]
    assert found.skipped == [Skipped(pair / name, "is not named in m.csv") for name in ("hr/b.png", "lr/y.png")]


def test_manifests_at_fault_are_refused_in_one_line(pair) -> None:
    def said(name: str, text: str) -> str:
        (pair / name).write_text(text)
        return error(None, manifest=pair / name).replace(str(pair), "DIR")

    assert said("m.csv", "hr,lr\nhr/a.png,lr/x.png\nno.png,lr/none.png\n") == (
        "2 file(s) of the manifest do not exist, the first is DIR/no.png (DIR/m.csv line 3); "
        "paths are relative to the manifest's folder"
    )
    assert said("m.csv", "high,low\na,b\n") == (
        "manifest DIR/m.csv has no column hr: high,low; start it with hr,lr,caption,tags"
    )
    assert "has no column hr" in said("m.csv", "")
    assert said("m.csv", "hr,lr\n") == "manifest DIR/m.csv names no photo; add at least one line"
    assert said("m.csv", "hr,lr,caption\nhr/a.png,lr/x.png,cats, dogs\n") == (
        "DIR/m.csv line 2 has more cells than the header; put text with commas in double quotes"
    )
    assert said("m.csv", "hr,lr\nhr/a.png,lr/x.png\nhr/b.png,\n") == (
        "1 of 2 rows of the manifest have no lr, the first is DIR/m.csv line 3; give every row an lr or none"
    )
    assert said("m.csv", "hr,lr\n,lr/x.png\n") == "DIR/m.csv line 2 has no hr; name a photo"
    assert said("m.jsonl", '{"hr": "hr/a.png"}\n{"hr": ').startswith("DIR/m.jsonl line 2 is not JSON: ")
    assert said("m.jsonl", '{"hr": 3}') == "DIR/m.jsonl line 1: hr is 3; write a path"
    assert said("m.txt", "hr\n") == "manifest DIR/m.txt ends in '.txt'; write it as .csv or .jsonl"
    assert "none.csv does not exist" in error(None, manifest=pair / "none.csv")
    assert "name the LR files in the manifest" in error(pair, lr_data_dir=pair / "lr", manifest=pair / "m.csv")
    (pair / "m.csv").write_bytes("hr,caption\nhr/a.png,größer\n".encode("latin-1"))
    assert "m.csv is not in UTF-8; save it as UTF-8" in error(None, manifest=pair / "m.csv")
