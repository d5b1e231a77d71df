"""Naming the outputs with every mistake found beforehand, and sharing the work."""

import os
from pathlib import Path

import pytest
from PIL import Image

from resdiff.runs.inputs import Input, find_inputs
from resdiff.runs.jobs import Job, Shard, is_file_name, plan_outputs


def photo_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(path)
    return path


def targets(relatives: list[str], output: Path, suffix: str | None = None) -> list[str]:
    jobs = plan_outputs([Input(Path("/in") / name, Path(name)) for name in relatives], output, suffix)
    return [job.target.relative_to(output).as_posix() for job in jobs]


def test_outputs_keep_the_folder_and_the_stem(tmp_path):
    assert targets(["one.JPG", "sub/deep.webp", "two.v2.png"], tmp_path) == ["one.png", "sub/deep.png", "two.v2.png"]
    assert targets(["one.JPG"], tmp_path, ".webp") == ["one.webp"]


def test_colliding_names_keep_their_old_suffix(tmp_path):
    assert targets(["one.jpg", "one.webp", "two.jpg"], tmp_path) == ["one.jpg.png", "one.webp.png", "two.png"]
    assert targets(["one.png", "one.jpg"], tmp_path) == ["one.png.png", "one.jpg.png"]
    assert targets(["A.jpg", "a.png"], tmp_path) == ["A.jpg.png", "a.png.png"]  # one name on many file systems
    assert targets(["sub/one.jpg", "one.jpg"], tmp_path) == ["sub/one.png", "one.png"]


def test_a_collision_made_by_the_longer_name_is_resolved_too(tmp_path):
    expected = ["one.jpg.png", "one.webp.png", "one.jpg.tif.png"]
    assert targets(["one.jpg", "one.webp", "one.jpg.tif"], tmp_path) == expected


def test_collisions_that_no_suffix_resolves_are_refused(tmp_path):
    inputs = [Input(Path("a/one.jpg"), Path("one.jpg")), Input(Path("b/one.jpg"), Path("one.jpg"))]
    with pytest.raises(ValueError, match=r"a/one.jpg and b/one.jpg would both be written to .*one.jpg.png"):
        plan_outputs(inputs, tmp_path)


def test_a_single_input_may_be_written_to_a_file(tmp_path):
    one = [Input(Path("/in/a.jpg"), Path("a.jpg"))]
    assert plan_outputs(one, tmp_path / "new" / "b.WebP") == [Job(Path("/in/a.jpg"), tmp_path / "new" / "b.WebP")]
    assert plan_outputs(one, tmp_path / "b.jpeg", ".jpg")[0].target.name == "b.jpeg"
    assert plan_outputs(one, tmp_path / "out.v2")[0].target == tmp_path / "out.v2" / "a.png"
    (tmp_path / "folder.png").mkdir()
    assert plan_outputs(one, tmp_path / "folder.png")[0].target == tmp_path / "folder.png" / "a.png"
    with pytest.raises(ValueError, match=r"output is the file .*b.png, but there are 2 inputs; pass a folder"):
        plan_outputs([*one, Input(Path("/in/c.jpg"), Path("c.jpg"))], tmp_path / "b.png")
    with pytest.raises(ValueError, match="but format is 'webp'"):
        plan_outputs(one, tmp_path / "b.png", ".webp")
    with pytest.raises(ValueError, match=r"cannot write \.gif; choose \.png"):
        plan_outputs(one, tmp_path / "b.gif")
    with pytest.raises(ValueError, match="format is 'gif'; choose png"):
        plan_outputs(one, tmp_path, ".gif")


def test_an_input_is_never_overwritten(tmp_path):
    path = photo_file(tmp_path / "a.png")
    for arguments, output in (([tmp_path], tmp_path), ([path], path), ([path], tmp_path / "." / "a.png")):
        with pytest.raises(ValueError, match=r"a\.png is an input and would be overwritten"):
            plan_outputs(find_inputs([str(a) for a in arguments], output).inputs, output)
    (tmp_path / "link.png").symlink_to(path)
    with pytest.raises(ValueError, match="is an input and would be overwritten"):
        plan_outputs([Input(path, Path("a.png"))], tmp_path / "link.png")


def test_output_folders_that_cannot_be_made_are_found_beforehand(tmp_path):
    (tmp_path / "file").write_text("")
    one = [Input(Path("/in/a.jpg"), Path("sub/a.jpg"))]
    for output in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "x.png"):
        with pytest.raises(ValueError, match=r"cannot be made: .*file is a file"):
            plan_outputs(one, output)
    plan_outputs(one, tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folders_are_found_beforehand(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="is not writable"):
        plan_outputs([Input(Path("/in/a.jpg"), Path("a.jpg"))], tmp_path / "locked" / "out")


def test_a_file_that_comes_later_does_not_take_a_name_that_was_given_away(tmp_path):
    later = [Input(Path("/in/one.webp"), Path("one.webp"))]
    assert plan_outputs(later, tmp_path, taken={tmp_path / "ONE.png"})[0].target == tmp_path / "one.webp.png"
    assert plan_outputs(later, tmp_path, taken={tmp_path / "two.png"})[0].target == tmp_path / "one.png"


def test_formats_that_are_only_read_name_a_folder(tmp_path):
    assert is_file_name(tmp_path / "x.PNG") and not is_file_name(tmp_path / "x.gif") and not is_file_name(tmp_path)


# --- shards ----------------------------------------------------------------------------------------------------------


def test_every_job_is_in_exactly_one_shard():
    jobs = [Job(Path(f"{i}.png"), Path(f"out/{i}.png")) for i in range(11)]
    parts = [Shard(i, 4).of(jobs) for i in range(1, 5)]
    assert sorted((job for part in parts for job in part), key=jobs.index) == jobs
    assert [len(part) for part in parts] == [3, 3, 3, 2]
    assert Shard().of(jobs) == jobs


def test_shards_are_read_from_the_option_or_the_launcher():
    assert Shard.parse("2/4", {"RANK": "0", "WORLD_SIZE": "2"}) == Shard(2, 4)
    assert Shard.parse(None, {"RANK": "1", "WORLD_SIZE": "2"}) == Shard(2, 2)
    assert Shard.parse(None, {}) == Shard(1, 1)
    for text in ("0/4", "5/4", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(ValueError, match="pass i/n with i from 1 to n"):
            Shard.parse(text, {})
    with pytest.raises(ValueError, match="RANK is '2' and WORLD_SIZE '2'; unset them"):
        Shard.parse(None, {"RANK": "2", "WORLD_SIZE": "2"})


def test_shards_name_themselves():
    assert (str(Shard()), str(Shard(2, 4))) == ("", "shard 2/4: ")
    assert Shard(2, 4).name(Path("a/report.json")) == Path("a/report.2-of-4.json")
    assert Shard().name(Path("report.json")) == Path("report.json")


def test_names_given_away_earlier_are_never_given_again(tmp_path) -> None:
    late = [Input(tmp_path / "a.jpg", Path("a.jpg"))]
    taken = {tmp_path / "out" / name for name in ("a.png", "a.jpg.png", "A.jpg-2.PNG")}
    (job,) = plan_outputs(late, tmp_path / "out", None, taken)
    assert job.target == tmp_path / "out" / "a.jpg-3.png"
