"""How the gallery behaves in a browser."""

import re
from pathlib import Path

import pytest

from resdiff.eval.gallery import main, parse_args

from .browser import browsed
from .worded import write_photos


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    photos = write_photos(folder / "lr", originals=folder / "hr")
    out = folder / "gallery.html"
    main(parse_args(["--photos", str(photos), "--hr", str(folder / "hr"), "--model", "bicubic", "--out", str(out)]))
    return out


def test_the_slider_moves_its_own_boundary_alone(page, tmp_path) -> None:
    script = """
      const [first, second] = document.querySelectorAll(".compare");
      const range = second.querySelector("input");
      range.value = "25";
      range.dispatchEvent(new Event("input", { bubbles: true }));
      const over = second.querySelector(".over");
      root.dataset.clip = getComputedStyle(over).clipPath;
      root.dataset.visible = String(document.elementFromPoint(0, 0) !== null && over.naturalWidth > 0);
      root.dataset.divider = String(
        (second.querySelector(".divider").offsetLeft + 1) / second.clientWidth);
    """
    dom = browsed(page, tmp_path, script=script)
    assert re.findall(r'style="--ratio: [^"]*--at: (\d+)%', dom) == ["50", "25"]
    assert re.search(r'data-clip="inset\(0px calc\(75%\) 0px 0px\)"|data-clip="inset\(0px 75% 0px 0px\)"', dom)
    assert 'data-visible="true"' in dom
    assert abs(float(re.search(r'data-divider="([\d.]+)"', dom).group(1)) - 0.25) < 0.01


def test_the_right_side_may_be_the_original(page, tmp_path) -> None:
    script = """
      const select = document.querySelector(".right-side");
      select.value = "original";
      select.dispatchEvent(new Event("change", { bubbles: true }));
    """
    dom = browsed(page, tmp_path, script=script)
    assert re.findall(r'class="caption right">([^<]*)<', dom) == ["original", "bicubic (model)"]
    under = re.findall(r'<img class="under"[^>]*>', dom)
    assert ["hidden" in image for image in under] == [True, False, False, True]


def test_a_square_is_enlarged_and_the_arrow_keys_show_the_others_of_its_photo_in_its_place(page, tmp_path) -> None:
    script = """
      const photo = document.querySelectorAll(".photo")[1];
      const asked = [];
      const seen = () => asked.push(large.querySelector("output").textContent);
      photo.querySelectorAll(".enlarge")[1].click(); seen();
      const press = (key) => large.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      press("ArrowRight"); seen();
      press("ArrowRight"); seen();
      press("ArrowLeft"); seen();
      root.dataset.seen = asked.join("|");
      root.dataset.same = String(large.querySelector("img").src === photo.querySelectorAll(".enlarge img")[2].src);
      root.dataset.open = String(large.open);
      document.getElementById("close").click();
      root.dataset.closed = String(!large.open);
    """
    dom = browsed(page, tmp_path, script=script)
    assert 'data-seen="bicubic (model)|original|bicubic|original"' in dom
    assert 'data-same="true"' in dom and 'data-open="true"' in dom and 'data-closed="true"' in dom
