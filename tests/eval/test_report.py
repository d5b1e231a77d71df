"""The page of a benchmark: its numbers, its pictures, and what it is refused for."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdiff.eval.report import main, parse_args, write_report

from .conftest import HOSTILE, MODELS, decoded


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
