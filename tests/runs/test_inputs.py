"""Finding the inputs, whatever the folders hold, with every mistake found beforehand."""

import inspect
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from resdiff.runs.inputs import find_inputs, look, root_of


def photo_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(path)
    return path


def found(arguments: list, output: Path) -> list[str]:
    return [str(one.relative) for one in find_inputs([str(a) for a in arguments], output).inputs]


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
    with pytest.raises(ValueError, match=r"no input found: .*empty.* holds no image \(\.apng, "):
        find_inputs([str(tmp_path / "empty"), f"{tmp_path}/*.jpg"], tmp_path / "out")


def test_an_empty_name_is_not_the_current_folder(tree, monkeypatch):
    monkeypatch.chdir(tree)
    with pytest.raises(ValueError, match="empty string; name a file"):
        find_inputs([""], tree / "out")


def test_one_missing_file_among_others_is_left_to_the_run(tree, tmp_path):
    assert found([tree / "none.png", tree / "a.jpg"], tmp_path / "out") == ["none.png", "a.jpg"]


def test_results_below_the_input_are_passed_over_by_patterns_too(tree, tmp_path):
    photo_file(tree / "out" / "a.png")
    with pytest.raises(ValueError, match="holds no image"):
        find_inputs([f"{tree}/**/a.png"], tree / "out")
    assert "out/a.png" in found([f"{tree}/**/*.png"], tmp_path / "elsewhere")


# --- links, loops, and what cannot be read ---------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_and_loops_end(tree, tmp_path):
    photo_file(tmp_path / "elsewhere" / "far.png")
    (tree / "sub" / "away").symlink_to(tmp_path / "elsewhere")
    for index in range(30):  # followed blindly, these would be 30 ** 40 paths
        (tree / f"loop{index}").symlink_to(tree)
    names = ["a.jpg", "b.PNG", "q.avif", "sub/away/far.png", "sub/deep.JpEg"]
    assert found([tree], tmp_path / "out")[:5] == names
    assert len(found([tree], tmp_path / "out")) == 9
    assert found([f"{tree}/**/*.png"], tmp_path / "out") == ["sub/away/far.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_that_leads_nowhere_is_left_to_the_run(tree, tmp_path):
    (tree / "dead.png").symlink_to(tmp_path / "nowhere")
    (tree / "self.png").symlink_to(tree / "self.png")
    assert {"dead.png", "self.png"} < set(found([tree], tmp_path / "out"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
def test_what_is_no_file_is_passed_over(tree, tmp_path):
    os.mkfifo(tree / "pipe.png")
    (tree / "folder.png").mkdir()
    assert not {"pipe.png", "folder.png"} & set(found([tree], tmp_path / "out"))


def test_folders_nested_deeper_than_the_stack_are_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photo_file(Path("/".join("d" * 250)) / "x.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        names = found(["d"], tmp_path / "out")
    finally:
        sys.setrecursionlimit(limit)
    assert len(names) == 1


def test_a_folder_that_cannot_be_read_is_a_problem_and_the_rest_is_found(tree, tmp_path, unreadable):
    unreadable(tree / "sub" / "deeper")
    result = find_inputs([str(tree), f"{tree}/**/*.png"], tmp_path / "out")
    assert len(result.inputs) == 7
    assert result.problems == [f"{tree / 'sub' / 'deeper'} cannot be read: Permission denied; check its permissions"]
    with pytest.raises(ValueError, match=r"no input found: .*deeper cannot be read: Permission denied"):
        find_inputs([str(tree / "sub" / "deeper")], tmp_path / "out")


def test_looking_where_nothing_is_yet_is_no_error(tmp_path):
    assert look([str(tmp_path), f"{tmp_path}/*.png"], tmp_path / "out").inputs == []


def test_the_root_of_folders_patterns_and_files(tree):
    assert root_of(str(tree)) == tree
    assert root_of(f"{tree}/s*/x.png") == tree
    assert root_of("*.png") == Path()
    assert root_of(f"{tree}/a.jpg") is None
