"""The page of a benchmark: its numbers, its pictures, and how it behaves in a browser."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdiff.eval.harness.document import (
    ComparisonEntry,
    Document,
    Enlarged,
    FigureColumn,
    ImageEntry,
    Mean,
    ModelEntry,
    ProfileEntry,
    Result,
    SetEntry,
    write_document,
)
from resdiff.eval.harness.page.crops import box_mean, place
from resdiff.eval.harness.page.pictures import data_uri, shared_limit, within
from resdiff.eval.harness.page.plots import Axis, Point, scatter, tick_label, ticks
from resdiff.eval.report import main, parse_args, write_report

HOSTILE = "net </script><b> \"q\" 's' a:b&c=d"
MODELS = ("bicubic", HOSTILE, "others")
FOLDERS = ("bicubic", "net", "others")
NAMES = {"pairs": ("2", "10", "1"), "photos": ("cat",)}
PSNR = {"2": (30.0, 31.0, 20.0), "10": (20.0, 24.0, 21.0), "1": (25.0, 25.5, None)}  # of MODELS
FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1200,4000",
    "virtual-time-budget=2000",
    "dump-dom",
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def figure(name: str, better: str, **other: Any) -> FigureColumn:
    own = {"digits": 2, "variant": f"plain {name}", "weights": {}, "missing": None} | other
    return FigureColumn(name=name, label=name.upper(), better=better, **own)


def result(test_set: str, model: str, psnr: float | None, niqe: float, seconds: float | None) -> Result:
    def around(value: float | None, width: float) -> Mean:
        low, high = (None, None) if value is None else (value - width, value + width)
        return Mean(mean=value, low=low, high=high, n=0 if value is None else len(NAMES[test_set]))

    figures = {
        "psnr_y": around(psnr, 1.0),
        "niqe": around(niqe, 0.5),
        "sharpness": Mean(mean=3.0, low=None, high=None, n=len(NAMES[test_set])),
        "clip_iqa": around(None, 0.0),
    }
    per_megapixel, peak = (None, None) if seconds is None else (4 * seconds, 120.0)
    return Result(
        set=test_set, model=model, figures=figures, seconds=seconds, seconds_per_megapixel=per_megapixel, peak_mib=peak
    )


def picture(folder: Path, test_set: str, name: str, seed: int) -> ImageEntry:
    """Write LR, results that differ in the lower right corner alone, and HR; return the entry of the document."""
    rng = np.random.default_rng(seed)
    lr = rng.integers(60, 200, (30, 40, 3), dtype=np.uint8)
    base = lr.repeat(4, 0).repeat(4, 1)

    def save(image: np.ndarray, where: str) -> str:
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / where)
        return where

    models = {}
    for i, (model, model_folder) in enumerate(zip(MODELS, FOLDERS, strict=True)):
        image = base.copy()
        image[-20:, -20:] = 80 * i
        psnr = PSNR[name][i] if name in PSNR else None
        models[model] = Enlarged(
            file=save(image, f"{test_set}/{model_folder}/{name}.png"),
            seconds=0.1,
            peak_mib=1.0,
            figures={"psnr_y": psnr, "niqe": 5.0 - i, "sharpness": 3.0, "clip_iqa": None},
        )
    has_hr = test_set == "pairs"
    return ImageEntry(
        set=test_set,
        name=name,
        lr=save(lr, f"{test_set}/lr/{name}.png"),
        hr=save(np.pad(base, ((0, 2), (0, 1), (0, 0))), f"{test_set}/hr/{name}.png") if has_hr else None,
        height=120,
        width=160,
        models=models,
    )


def entry(name: str, **own: Any) -> SetEntry:
    own = {"degradation": None, "preset": None, "seed": None} | own
    return SetEntry(name=name, images=len(NAMES[name]), source=name, digest="ab" * 32, **own)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of three models on a set with HR and one without, with figures missing and a profile."""
    folder = tmp_path_factory.mktemp("run")
    seconds = (0.01, 1.0, None)
    differences = (("psnr_y", HOSTILE, 1.5, 0.0001), ("niqe", HOSTILE, 0.3, 0.01), ("psnr_y", "others", 0.2, 0.4))
    document = Document(
        resdiff="0.1.0",
        command="benchmark.py --model 'a<b>'",
        date="2026-01-02",
        machine="2 cores",
        protocol={"name": "classic-y", "version": 1, "crop": "scale"},
        settings={"scale": 4, "seed": 7},
        versions={"torch": "2.15.0"},
        figures=[
            figure("psnr_y", "higher", unit="dB", low=0, needs_hr=True),
            figure("niqe", "lower"),
            figure("sharpness", "none", weights={"laplacian.pth": "ef" * 32}),
            figure("clip_iqa", "higher", missing="RN50.pt is not there"),
        ],
        models=[
            ModelEntry(name=m, folder=f, kind="pipeline", call={"steps": 4}, weights={"networks": "cd" * 8})
            for m, f in zip(MODELS, FOLDERS, strict=True)
        ],
        sets=[
            entry("pairs", has_hr=True, degradation="light", preset="blur: <3>\n", seed=7),
            entry("photos", has_hr=False),
        ],
        results=[
            result(s, m, (25.0 + i if s == "pairs" else None), 5.0 - i, seconds[i])
            for s in NAMES
            for i, m in enumerate(MODELS)
        ],
        comparisons=[
            ComparisonEntry(
                set="pairs", figure=f, model=m, baseline="bicubic", difference=d, low=d - 0.1, high=d + 0.1, p=p, n=3
            )
            for f, m, d, p in differences
        ],
        profile=[
            ProfileEntry(
                set="pairs", model="bicubic", images=3, median_seconds=0.5, seconds_per_megapixel=12.5, ratio=1.0,
                baseline="bicubic", repeats=5, peak_mib=3.0,
            )
        ],
        images=[picture(folder, s, name, seed) for s in NAMES for seed, name in enumerate(NAMES[s])],
    )  # fmt: skip
    write_document(document, folder)
    return folder


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> Path:
    return write_report(finished, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def changed(finished, tmp_path) -> Callable[..., Path]:
    """A function that copies the run, lets the document be changed, and returns the folder."""

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        document = json.loads((folder / "benchmark.json").read_text())
        edit(document)
        (folder / "benchmark.json").write_text(json.dumps(document))
        return folder

    return change


def json_of(page: Path, selector: str) -> list[Any]:
    return [
        json.loads(text) for text in re.findall(rf"<script [^>]*{selector}[^>]*>(.*?)</script>", page.read_text(), re.S)
    ]


def plain(markup: str) -> str:
    """Return the text of some HTML with plain dashes and crosses."""
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())
    return text.replace("\N{EN DASH}", "-").replace("\N{MULTIPLICATION SIGN}", "x")


def tables_of(page: Path) -> list[list[list[str]]]:
    """Return the texts of all cells: table, row, cell."""
    tables = []
    for table in re.findall(r"<table>(.*?)</table>", page.read_text(), re.S):
        rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
        tables.append([[plain(c) for c in row] for row in cells])
    return tables


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


# --- where to look


def test_the_square_is_where_the_images_differ_most() -> None:
    base = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    other = base.copy()
    other[40:60, 72:88] //= 2
    top, left, height, width = place([base, base, other], side=20)
    assert (abs(top - 40) <= 1, abs(left - 70) <= 2, height, width) == (True, True, 20, 20)
    top, left, _, _ = place([base, other], side=24, step=8)
    assert top % 8 == left % 8 == 0
    assert top <= 40 < 60 <= top + 24 and left <= 72 < 88 <= left + 24


def test_equal_images_are_looked_at_in_the_middle_and_small_ones_whole() -> None:
    grey = np.full((64, 100, 3), 90, dtype=np.uint8)
    assert place([grey, grey], side=32) == (16, 34, 32, 32)
    assert place([grey[:10, :12], grey[:10, :12]], side=32) == (0, 0, 10, 12)


def test_a_single_image_is_looked_at_where_its_contrast_is_largest() -> None:
    image = np.full((60, 60, 3), 200, dtype=np.uint8)
    image[30:50, 10:30][::2] = 0
    top, left, _, _ = place([image], side=20)
    assert abs(top - 30) <= 1 and left == 10


def test_images_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="same size"):
        place([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)])


def test_box_means_are_those_of_every_window() -> None:
    values = np.random.default_rng(0).random((9, 7))
    windows = np.lib.stride_tricks.sliding_window_view(values, (4, 3))
    np.testing.assert_allclose(box_mean(values, 4, 3), windows.mean((-2, -1)), rtol=1e-12)


# --- pictures


def test_small_pictures_leave_their_share_to_large_ones() -> None:
    assert shared_limit([10, 100, 100], 110) == 50
    assert shared_limit([10, 20], 30) == float("inf")
    assert shared_limit([40, 40], 40) == 20


def test_pictures_stay_below_the_budget_however_badly_they_compress() -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (200, 200, 3), dtype=np.uint8) for i in range(3)]
    budget = 60_000
    uris, limit = within(budget, [40_000] * 3, lambda limit: [[data_uri(n, pixels=limit)] for n in noise])
    used = sum(len(uri) for [uri] in uris)
    assert 0.3 * budget < used <= budget
    assert limit < 40_000


def test_a_lossless_picture_comes_back_as_it_was() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    assert (decoded(data_uri(image, lossless=True)) == image).all()


# --- plots


def test_ticks_are_round_and_inside() -> None:
    assert ticks(24.3, 31.2) == [26, 28, 30]
    assert [tick_label(v, 0.2) for v in ticks(0.05, 1.0)] == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert ticks(0.008, 3.0, log=True) == pytest.approx([0.01, 0.1, 1.0])
    assert ticks(0.9, 6.0, log=True) == pytest.approx([1, 2, 5])
    for low in (1e-4, 0.3, 7, 5e3):
        assert 2 <= len(ticks(low, 1.7 * low)) <= 7


def test_a_plot_names_its_points_and_says_what_is_better() -> None:
    points = [
        Point(label="a <b>", style=0, x=1.0, y=2.0, x_interval=(0.5, 1.5)),
        Point(label="other steps=4", style=1, x=3.0, y=1.0),
    ]
    svg = str(
        scatter(points, Axis(label="PSNR", better="higher"), Axis(label="NIQE", better="lower"), "NIQE over PSNR")
    )
    at = [tuple(map(float, m)) for m in re.findall(r'<g transform="translate\(([\d.]+) ([\d.]+)\)">', svg)]
    assert at[0][0] < at[1][0] and at[0][1] < at[1][1]  # y grows downwards
    assert "a &lt;b&gt;" in svg and "<b>" not in svg
    assert re.findall(r"<tspan[^>]*>([^<]*)</tspan>", svg)[-2:] == ["other", "steps=4"]
    assert "PSNR (better →)" in svg and "NIQE (better ↓)" in svg and ">↘<" in svg
    assert 'aria-label="NIQE over PSNR"' in svg
    assert len(re.findall('class="whisker', svg)) == 1


def test_a_tenfold_cost_is_as_far_anywhere_on_a_logarithmic_axis() -> None:
    points = [Point(label=str(x), style=0, x=x, y=1.0) for x in (0.01, 0.1, 1.0)]
    svg = str(scatter(points, Axis(label="s", better="lower", log=True), Axis(label="q", better="none"), "t"))
    x = [float(m) for m in re.findall(r'<g transform="translate\(([\d.]+)', svg)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)


# --- the page


def test_the_page_needs_nothing_from_outside(page) -> None:
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert not re.findall(r"@import|url\(|https?://", text)
    assert "default-src 'none'" in text


def test_a_table_has_means_intervals_marks_and_reasons(page) -> None:
    pairs, differences, photos, profile = tables_of(page)[:4]
    assert pairs[0][:5] == ["Model", "PSNR_Y ↑ dB", "NIQE ↓", "SHARPNESS", "CLIP_IQA ↑"]
    assert pairs[1][1:3] == ["25.00 [24.00, 26.00]", "5.00 [4.50, 5.50]"]
    assert pairs[2][0] == HOSTILE
    assert pairs[2][1:3] == ["26.00 (second) [25.00, 27.00]", "4.00 (second) [3.50, 4.50]"]
    assert pairs[3][1:5] == ["27.00 (best) 2 [26.00, 28.00]", "3.00 (best) [2.50, 3.50]", "3.00", "n/a 1"]
    assert pairs[2][5:] == ["1.00", "4.00", "120"] and pairs[3][5:] == ["n/a"] * 3
    assert differences[1] == [
        HOSTILE,
        "+1.500 [+1.400, +1.600] ✓ better p < 0.001",
        "+0.300 [+0.200, +0.400] ✗ worse p = 0.01",
    ]
    assert differences[2] == ["others", "+0.200 [+0.100, +0.300] unclear p = 0.4", ""]
    assert photos[1][1] == "n/a 3" and photos[1][4] == "n/a 1"
    assert profile[1] == ["bicubic", "pairs", "0.500", "12.5", "1.00", "3.00", "5"]


def test_each_reason_for_a_missing_number_is_said_once(page) -> None:
    text = page.read_text()
    gaps = [plain(item) for item in re.findall(r'<li id="gap-\d+">(.*?)</li>', text)]
    missing = "RN50.pt is not there"
    assert gaps == [f"CLIP_IQA: {missing}", "PSNR_Y: identical to HR", "PSNR_Y: no HR"]
    assert text.count(missing) == 1
    cat = re.search(r'<article class="row" data-set="photos".*?</article>', text, re.S).group()
    assert '<td class="number " title="no HR"><span class="absent">n/a</span></td>' in cat


def test_the_header_holds_everything_the_numbers_depend_on(page) -> None:
    text = page.read_text()
    for name, value in (("crop", "scale"), ("seed", "7"), ("torch", "2.15.0")):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text
    assert f"networks <code>fingerprint {'cd' * 8}</code>" in text and ", steps=4" in text
    assert f"laplacian.pth <code>SHA-256 {'ef' * 32}</code>" in text and f"<code>SHA-256 {'ab' * 32}</code>" in text
    assert "degraded by light, seed 7" in text and "blur: &lt;3&gt;" in text
    assert "<dd>plain psnr_y; 0 or more; higher is better</dd>" in text
    assert "benchmark.py --model &#39;a&lt;b&gt;&#39;" in text


def test_a_plot_without_its_figure_says_what_is_missing(page, changed, tmp_path) -> None:
    text = page.read_text()
    assert "No PSNR_Y (no HR)." in text
    assert "others: not timed" in text

    def without_niqe(document: dict[str, Any]) -> None:
        document["figures"] = document["figures"][:1]
        document["comparisons"] = []

    alone = write_report(changed(without_niqe), tmp_path / "alone.html").read_text()
    assert "No perceptual figure was computed: add niqe or clip_iqa to --metrics." in alone


def test_names_cannot_leave_their_place(page) -> None:
    text = page.read_text()
    assert "</script><b>" not in text
    assert text.count("</script>") == len(re.findall(r"<script\b", text))
    assert json_of(page, 'id="data"')[0]["models"] == list(MODELS)
    assert HOSTILE in json_of(page, 'class="sides"')[0]


def test_the_crops_show_the_corner_where_the_results_differ(page, finished) -> None:
    row = re.search(r'<article class="row".*?</article>', page.read_text(), re.S).group()
    names = re.findall(r"the same square of ([^\"]*)\"", row)
    crops = [decoded(uri) for uri in re.findall(r'<img src="(data:[^"]*)"', row)]
    assert [html.unescape(n) for n in names] == ["LR", *MODELS, "HR"]
    assert [c.shape for c in crops] == [(24, 24, 3), *[(96, 96, 3)] * 4]
    for i in range(3):  # lossless, and the odd corner is in it
        assert (crops[1 + i][-20:, -20:] == 80 * i).all()
    with Image.open(finished / "pairs/lr/2.png") as lr:
        assert (crops[0] == np.asarray(lr)[6:30, 16:40]).all()


def test_zero_is_a_number_and_none_is_no_point(changed, tmp_path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["results"][0]["figures"]["psnr_y"] |= {"mean": 0.0, "low": None, "high": None}
        document["results"][1]["figures"]["psnr_y"] |= {"mean": None, "low": None, "high": None}

    page = write_report(changed(edit), tmp_path / "page.html").read_text()
    plot = re.search(r'<div data-x="psnr_y" data-y="niqe">(.*?)</div>', page, re.S).group(1)
    assert "bicubic: 0, 5" in plot and len(re.findall(r"<g transform", plot)) == 2
    assert len(re.findall('class="note"', plot)) == 1


def test_images_beyond_the_most_are_left_out_and_counted(finished, tmp_path) -> None:
    page = write_report(finished, tmp_path / "page.html", max_images=1)
    assert re.findall(r'data-name="([^"]*)"', page.read_text()) == ["2", "cat"]
    assert "Of pairs, 2 images are left out (--max_images)." in page.read_text()
    with pytest.raises(ValueError, match="max_images is 0"):
        write_report(finished, tmp_path / "page.html", max_images=0)


def test_the_same_run_gives_the_same_page(finished, page, tmp_path) -> None:
    assert write_report(finished, tmp_path / "again.html").read_bytes() == page.read_bytes()


# --- bad input


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "holds no benchmark.json; pass the --out of a finished benchmark"),
        ("{", "is damaged"),
        ("[1]", "was not written by resdiff"),
        ('{"resdiff": "9.0"}', "of resdiff 9.0, has no entry"),
        ('{"resdiff": 9}', "of resdiff 9, is not as expected ('9' should be str)"),
    ],
)
def test_a_folder_that_holds_no_run_of_this_version_is_named(tmp_path, content, said) -> None:
    if content is not None:
        (tmp_path / "benchmark.json").write_text(content)
    with pytest.raises(ValueError) as caught:
        write_report(tmp_path)
    assert said in one_line(caught) and str(tmp_path) in one_line(caught)
    assert not (tmp_path / "report.html").exists()


def test_a_document_of_the_wrong_shape_is_named(changed) -> None:
    folder = changed(lambda document: document.update(results=[{"set": "pairs", "model": "x", "figures": 3}]))
    with pytest.raises(ValueError) as caught:
        write_report(folder)
    assert "benchmark.json, of resdiff 0.1.0, is not as expected" in one_line(caught)


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:60])
    else:
        Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize("how", ["gone", "damaged", "of another size"])
def test_an_image_that_is_missing_or_changed_is_named_and_the_old_page_stays(changed, how) -> None:
    folder = changed(lambda document: None)
    (folder / "report.html").write_text("old")
    path = folder / "pairs/net/10.png"
    damage(path, how)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        write_report(folder)
    assert str(path) in one_line(caught)
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.glob(".resdiff*"))


@pytest.mark.parametrize("where", ["nowhere/page.html", "pairs"])
def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(changed, where) -> None:
    folder = changed(lambda document: None)
    with pytest.raises(OSError) as caught:
        write_report(folder, folder / where)
    assert f"{folder / where} cannot be written" in one_line(caught)
    assert not list(folder.glob(".resdiff*")) and (folder / "pairs/net").is_dir()


def test_the_command_writes_into_the_run_and_says_where(finished, tmp_path, capsys) -> None:
    main(parse_args([str(finished), "--output", str(tmp_path / "p.html"), "--max_images", "1"]))
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'p.html'} (")


def test_the_script_says_errors_in_one_line(tmp_path) -> None:
    script = Path(__file__).parents[2] / "eval" / "report.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} holds no benchmark.json; pass the --out of a finished benchmark\n"


# --- in a browser


@pytest.fixture
def browse(page, tmp_path) -> Callable[..., str]:
    """A function that opens the page at a state, lets a script act on it, and returns the document as it is then."""
    if CHROMIUM is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")

    def open_page(state: str = "", script: str = "") -> str:
        copy_of = tmp_path / "page.html"
        copy_of.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
        flags = [f"--{flag}" for flag in FLAGS]
        address = copy_of.as_uri() + (f"#{state}" if state else "")
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run([CHROMIUM, *flags, profile, address], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr[-500:]
        assert re.search(r'<html[^>]*data-errors="\[\]"', done.stdout), "the page reports errors"
        return done.stdout

    return open_page


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
