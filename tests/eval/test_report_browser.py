"""How the page of a benchmark behaves in a browser."""

import html
import re
from collections.abc import Callable
from functools import partial

import pytest

from .browser import browsed
from .conftest import HOSTILE


@pytest.fixture
def browse(page, tmp_path) -> Callable[..., str]:
    """A function that opens the page; its arguments are the state and a script, see `browsed`."""
    return partial(browsed, page, tmp_path)


def rows_of(dom: str) -> list[str]:
    """Return the names of the rows that are shown, in order."""
    rows = re.findall(r'<article class="row"([^>]*)>', dom)
    return [re.search(r'data-name="([^"]*)"', row).group(1) for row in rows if "hidden" not in row]


def grid_of(dom: str) -> dict[str, str]:
    grid = re.search(r'<div id="grid"([^>]*)>', dom).group(1)
    return {k: html.unescape(v) for k, v in re.findall(r'data-(\w+)="([^"]*)"', grid)}


def shown_sides(dom: str, name: str) -> list[str]:
    row = re.search(rf'<article class="row"[^>]*data-name="{name}".*?</article>', dom, re.S).group()
    images = re.findall(r'<img class="(?:under|over)[^"]*"[^>]*>', row)
    assert all('src="data:image/webp' in image for image in images)
    return [
        html.unescape(re.search(r'data-side="([^"]*)"', image).group(1)) for image in reversed(images)
    ]  # left, right


def test_without_a_state_the_images_stand_by_name_and_the_first_model_beside_the_last(browse) -> None:
    dom = browse()
    assert rows_of(dom) == ["1", "2", "10", "cat"]
    assert shown_sides(dom, "10") == ["bicubic", "others"]
    assert len(re.findall(r'<div data-x="psnr_y" data-y="niqe">', dom)) == 2
    assert len(re.findall(r'<div data-x="seconds" data-y="psnr_y" hidden', dom)) == 2


@pytest.mark.parametrize(
    ("state", "order"),
    [
        ("sort=psnr_y:bicubic&order=desc", ["2", "1", "10", "cat"]),  # without a number: last in both directions
        ("set=pairs&sort=psnr_y:bicubic&minus=others&order=desc", ["2", "10", "1"]),  # +10, -1, none
        ("sort=niqe:bicubic&set=photos", ["cat"]),
        ("order=desc", ["10", "2", "1", "cat"]),
    ],
)
def test_the_address_sorts_and_filters(browse, state, order) -> None:
    assert rows_of(browse(state)) == order


def test_the_address_chooses_sides_position_and_axes(browse) -> None:
    dom = browse("left=LR&right=HR&at=30&y=sharpness&quality=psnr_y")
    assert grid_of(dom)["left"] == "LR" and grid_of(dom)["right"] == "HR" and grid_of(dom)["at"] == "30"
    assert shown_sides(dom, "2") == ["LR", "HR"]
    assert shown_sides(dom, "cat") == ["LR", "LR"] and "LR (there is no HR)" in dom
    assert dom.count("--at: 30%") == 4
    assert len(re.findall(r'<div data-x="psnr_y" data-y="sharpness">', dom)) == 2
    assert len(re.findall(r'<div data-x="seconds" data-y="psnr_y">', dom)) == 2


def test_an_address_that_means_nothing_changes_nothing(browse) -> None:
    dom = browse("set=nowhere&sort=__proto__:x&left=%3Cb%3E&at=900&x=1&y=%22%5D&order=up&other=1")
    assert rows_of(dom) == ["1", "2", "10", "cat"]
    assert grid_of(dom) == {
        "set": "all",
        "sort": "name",
        "order": "asc",
        "left": "bicubic",
        "right": "others",
        "at": "50",
    }


def test_what_is_chosen_in_the_page_goes_into_its_address_and_back(browse) -> None:
    script = """
      const choose = (selector, value) => {
        const element = document.querySelector(selector);
        element.value = value;
        for (const type of ["input", "change"]) element.dispatchEvent(new Event(type, { bubbles: true }));
      };
      choose("#sort-model", data.models[1]);
      choose("#sort-figure", "psnr_y");
      choose("[data-key=left]", data.models[1]);
      choose(".row input", "25");
      document.querySelector("#order").click();
      document.querySelector("#swap").click();
      document.documentElement.dataset.address = location.hash;
      location.hash = location.hash.replace("order=desc", "order=asc");
    """
    dom = browse(script=script)
    address = html.unescape(re.search(r'data-address="([^"]*)"', dom).group(1))
    assert "sort=psnr_y:net" in address and "order=desc" in address and "at=25" in address
    assert rows_of(dom) == ["10", "1", "2", "cat"]  # 24, 25.5, 31: the new address was followed
    assert grid_of(dom)["sort"] == f"psnr_y:{HOSTILE}"
    assert shown_sides(dom, "1") == ["others", HOSTILE]
    again = browse(address[1:])
    assert rows_of(again) == ["2", "1", "10", "cat"]
    assert grid_of(again) | {"order": "asc"} == grid_of(dom)
