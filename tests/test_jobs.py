"""Finding the inputs and naming the outputs, with every mistake found beforehand."""

import os
from pathlib import Path

import pytest
from PIL import Image

from resdiff.jobs import Input, Job, find_inputs, plan_outputs, without_existing


def photo_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(path)
    return path


def found(arguments: list, output: Path) -> list[str]:
    return [str(one.relative) for one in find_inputs([str(a) for a in arguments], output)]


# --- inputs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    for name in ("b.PNG", "a.jpg", "sub/deep.JpEg", "sub/x.WebP", "sub/deeper/y.TIFF", "z.bmp", "q.avif", "t.tif"):
        photo_file(tmp_path / "in" / name)
    for name in ("notes.txt", ".hidden.png", "._a.jpg", ".git/x.png", "sub/c.pdf"):
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    return tmp_path / "in"


def test_folders_are_searched_recursively_whatever_the_case_of_the_suffix(tree, tmp_path):
    expected = ["a.jpg", "b.PNG", "q.avif", "sub/deep.JpEg", "sub/deeper/y.TIFF", "sub/x.WebP", "t.tif", "z.bmp"]
    assert found([tree], tmp_path / "out") == expected


def test_patterns_are_expanded_relative_to_their_fixed_part(tree, tmp_path):
    out = tmp_path / "out"
    assert found([f"{tree}/*.jpg", f"{tree}/*.PNG"], out) == ["a.jpg", "b.PNG"]
    assert found([f"{tree}/**/*.?pEg"], out) == ["sub/deep.JpEg"]
    assert found([f"{tree}/s*"], out) == ["sub/deep.JpEg", "sub/deeper/y.TIFF", "sub/x.WebP"]
    assert "notes.txt" not in found([f"{tree}/*"], out)


def test_relative_patterns_work(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tree)
    assert found(["*.jpg"], tmp_path / "out") == ["a.jpg"]
    assert found(["."], tmp_path / "out")[:2] == ["a.jpg", "b.PNG"]


def test_a_name_with_brackets_is_a_file_if_it_exists(tmp_path):
    photo_file(tmp_path / "a[1].png")
    assert found([tmp_path / "a[1].png"], tmp_path / "out") == ["a[1].png"]


def test_files_keep_their_order_and_are_taken_once(tree, tmp_path):
    (tmp_path / "link.png").symlink_to(tree / "b.PNG")
    arguments = [tree / "z.bmp", tree / "a.jpg", f"{tree}/../in/z.bmp", tree / "b.PNG", tmp_path / "link.png"]
    assert found(arguments, tmp_path / "out") == ["z.bmp", "a.jpg", "b.PNG"]


def test_results_of_an_earlier_run_below_the_input_are_no_inputs(tree):
    photo_file(tree / "out" / "a.png")
    assert "out/a.png" not in found([tree], tree / "out")
    assert "out/a.png" in found([tree], tree)


def test_nothing_found_is_an_error_that_says_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no input found: .*none\.png does not exist"):
        find_inputs([str(tmp_path / "none.png")], tmp_path)
    with pytest.raises(ValueError, match=r"no input found: .*empty.* holds no image \(\.png, "):
        find_inputs([str(tmp_path / "empty"), f"{tmp_path}/*.jpg"], tmp_path / "out")


def test_an_empty_name_is_not_the_current_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    with pytest.raises(ValueError, match="empty string; name a file"):
        find_inputs([""], tree / "out")


def test_one_missing_file_among_others_is_left_to_the_run(tree, tmp_path):
    assert found([tree / "none.png", tree / "a.jpg"], tmp_path / "out") == ["none.png", "a.jpg"]


# --- outputs ---------------------------------------------------------------------------------------------------------


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
            plan_outputs(find_inputs([str(a) for a in arguments], output), output)
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


def test_existing_targets_are_left_out(tmp_path):
    jobs = [Job(Path("/in/a.jpg"), photo_file(tmp_path / "a.png")), Job(Path("/in/b.jpg"), tmp_path / "b.png")]
    assert without_existing(jobs) == jobs[1:]
