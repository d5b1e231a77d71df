"""What the folder of a benchmark remembers: settings that must agree, and records that count for one image only."""

import json

import pytest

from resdiff.eval.harness.run_folder import Record, RunFolder, read_record, write_record

SETTINGS = {
    "figures": {},
    "seed": 0,
    "protocol": {"name": "classic-y"},
    "models": {"a": {"steps": 4}},
    "sets": {"s": "digest"},
}


def test_a_new_folder_takes_the_settings_as_they_are(tmp_path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    assert folder.begin(SETTINGS) == SETTINGS and not folder.root.exists()
    folder.write(SETTINGS)
    assert json.loads((folder.root / "run.json").read_text())["settings"] == SETTINGS


def test_models_and_sets_are_added_and_those_before_are_kept(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write(SETTINGS)
    made(tmp_path)
    more = SETTINGS | {"models": {"b": {"steps": 1}}, "sets": {"t": "other"}}
    assert folder.begin(more) == SETTINGS | {
        "models": {"a": {"steps": 4}, "b": {"steps": 1}},
        "sets": {"s": "digest", "t": "other"},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0"),
        ({"protocol": {"name": "full-size"}}, "protocol name was 'classic-y'"),
        ({"protocol": {"name": "classic-y", "crop": 4}}, "protocol crop was None"),
        ({"models": {"a": {"steps": 5}}}, "models a steps was 4"),
        ({"sets": {"s": "changed"}}, "sets s was 'digest'"),
    ],
)
def test_what_differs_is_named_with_both_values(tmp_path, change, message) -> None:
    folder = RunFolder(tmp_path)
    folder.write(SETTINGS)
    made(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        folder.begin(SETTINGS | change)
    assert "\n" not in str(caught.value) and "choose another --out" in str(caught.value)


def test_a_record_counts_for_the_image_it_was_made_of(tmp_path) -> None:
    image, path = tmp_path / "1.png", tmp_path / "new" / "1.json"
    image.write_bytes(b"pixels")
    record = Record("fb0ecd5d9d7a4ba4e5bbe1c2e9b6e8a0", 0.5, None, {"psnr_y": 30.1, "niqe": None})
    write_record(path, record)
    assert read_record(path, image) is None  # another digest
    record.sha256 = __import__("hashlib").sha256(b"pixels").hexdigest()
    write_record(path, record)
    assert read_record(path, image) == record
    image.write_bytes(b"others")
    assert read_record(path, image) is None
    image.unlink()
    assert read_record(path, image) is None
    assert read_record(tmp_path / "none.json", image) is None


def test_a_record_that_was_cut_off_is_none(tmp_path) -> None:
    (tmp_path / "1.png").write_bytes(b"x")
    (tmp_path / "1.json").write_text('{"sha256": "2d71')
    assert read_record(tmp_path / "1.json", tmp_path / "1.png") is None


def test_settings_under_which_nothing_was_made_bind_nobody(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write(SETTINGS)
    assert folder.begin(SETTINGS | {"seed": 1})["seed"] == 1
    made(tmp_path)
    with pytest.raises(ValueError, match="seed was 0"):
        folder.begin(SETTINGS | {"seed": 1})


def made(root) -> None:
    """Leave the record of a finished image."""
    write_record(root / "set" / "model" / "1.json", Record("0" * 64))
