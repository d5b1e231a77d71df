"""The CSV and the Markdown of a benchmark: every number with its variant, marks, reasons for n/a, and the origin."""

import csv
import io
from dataclasses import replace

import pytest

from resdiff.eval.harness.cells import magnitude, marks, number, p_value, value_range, why_missing
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
)
from resdiff.eval.harness.tables import images_csv, markdown, summary, write_tables


def column(name, label, better="higher", **own):
    return FigureColumn(name=name, label=label, better=better, **{"variant": "", "weights": {}, "missing": None} | own)


def model(name, kind, **own):
    return ModelEntry(name=name, folder=name, kind=kind, **{"call": {}, "weights": {}} | own)


def set_entry(name, images, has_hr=True, **own):
    own = {"degradation": None, "preset": None, "seed": None} | own
    return SetEntry(name=name, images=images, has_hr=has_hr, source=f"d/{name}", digest=f"digest of {name}", **own)


def mean(value, low=None, high=None, n=2):
    return Mean(mean=value, low=low, high=high, n=n if value is not None else 0)


def result(name, model, seconds, **figures):
    per_megapixel, peak = (None, None) if seconds is None else (4 * seconds, 120.4)
    return Result(
        set=name, model=model, figures=figures, seconds=seconds, seconds_per_megapixel=per_megapixel, peak_mib=peak
    )


def image(name, stem, hr, *values):
    """An image of 32x24 px; `values` are PSNR, NIQE and sharpness of each model."""
    made = {
        m: Enlarged(
            file=f"{name}/{m}/{stem}.png",
            seconds=0.5,
            peak_mib=9.0,
            figures={"psnr_y": psnr, "niqe": niqe, "lpips": None, "sharpness": sharpness},
        )
        for m, (psnr, niqe, sharpness) in zip(("bicubic", "small s=4", "other|tool"), values, strict=True)
    }
    return ImageEntry(set=name, name=stem, lr="lr.png", hr=hr, height=24, width=32, models=made)


SMALL = {"model": "small s=4", "baseline": "bicubic", "set": "s1"}
DOCUMENT = Document(
    resdiff="0.1.0",
    command="eval/benchmark.py --model bicubic",
    date="2026-01-01T00:00:00Z",
    protocol={"name": "classic-y", "version": 1, "crop": "scale"},
    settings={"scale": 4, "seed": 0, "tile": None},
    versions={"torch": "2.6.0"},
    machine="2 cores",
    figures=[
        column("psnr_y", "PSNR-Y", low=0, unit="dB", digits=2, needs_hr=True, variant="BT.601 Y rounded, crop 4"),
        column("niqe", "NIQE", "lower", digits=2, smallest=(24, 40), variant="luma=bt601"),
        column("lpips", "LPIPS", "lower", low=0, needs_hr=True, missing="alexnet-owt-7be5be79.pth is not there"),
        column("sharpness", "Sharpness", "none", digits=1),
        column("fid", "FID", "lower", digits=1, of_set=True, needs_hr=True, weights={"inception.pth": "6726"}),
    ],
    models=[
        model("bicubic", "bicubic"),
        model("small s=4", "pipeline", call={"s": 4}, weights={"networks": "abc1"}),
        model("other|tool", "results"),
    ],
    sets=[
        set_entry("s1", 2),
        set_entry("s2", 1, has_hr=False),
        set_entry("s3", 1, degradation="light", preset="blur: 3\n", seed=7),
    ],
    results=[
        result("s1", "bicubic", 0.01, psnr_y=mean(25.994, 24.5, 27.444), niqe=mean(7.0), lpips=mean(None), sharpness=mean(3.0), fid=mean(9.04)),
        result("s1", "small s=4", 0.25, psnr_y=mean(27.5, 26, 29), niqe=mean(5.0), lpips=mean(None), sharpness=mean(4.0), fid=mean(8.0)),
        result("s1", "other|tool", None, psnr_y=mean(27.501, n=1), niqe=mean(6.0), lpips=mean(None), sharpness=mean(5.0), fid=mean(9.0)),
        *[result("s2", m, 0.01, psnr_y=mean(None), niqe=mean(4.0, n=1), lpips=mean(None), sharpness=mean(None), fid=mean(None)) for m in ("bicubic", "small s=4", "other|tool")],
        *[result("s3", m, 0.01, psnr_y=mean(9.0, n=1), niqe=mean(None), lpips=mean(None), sharpness=mean(3.0, n=1), fid=mean(None)) for m in ("bicubic", "small s=4", "other|tool")],
    ],
    comparisons=[
        ComparisonEntry(figure="psnr_y", difference=1.506, low=1.2, high=1.9, p=0.0625, n=2, **SMALL),
        ComparisonEntry(figure="niqe", difference=-2.0, low=None, high=None, p=1.0, n=1, **SMALL),
    ],
    profile=[],
    images=[
        image("s1", "001", "hr.png", (22.4, 7.1, 3.0), (1 / 3, 5.0, 4.0), (27.501, 6.0, 5.0)),
        image("s1", "002", "hr.png", (29.6, 6.9, 3.0), (27.5, 5.0, 4.0), (None, 6.0, 5.0)),
        image("s2", "a,b", None, *[(None, 4.0, None)] * 3),
        image("s3", "001", "hr.png", *[(9.0, None, 3.0)] * 3),
    ],
)  # fmt: skip


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


# --- cells, which the page shows as well


def test_the_best_and_second_are_marked_by_direction_and_ties_alike():
    assert marks([1.0, 3.0, 2.0], "higher", 2) == ["", "best", "second"]
    assert marks([1.0, 3.0, 2.0], "lower", 2) == ["best", "", "second"]
    assert marks([1.001, 1.002, None, 0.5], "higher", 2) == ["best", "best", "", "second"]
    assert marks([1.0, 2.0], "none", 2) == ["", ""]
    assert marks([1.0, None], "higher", 2) == ["", ""]


def test_numbers_are_written_for_reading():
    assert number(-1.234, 2) == "\N{MINUS SIGN}1.23"
    assert number(1.0, 1, signed=True) == "+1.0"
    assert number(None, 2) == "n/a"
    assert [magnitude(v) for v in (0.01234, 1.0, 123.4, 0.00001234)] == ["0.0123", "1.00", "123", "1.2e-05"]
    assert [p_value(p) for p in (0.0001, 0.0625, None)] == ["p < 0.001", "p = 0.0625", "n/a"]


def test_the_range_of_a_figure_is_said_in_words():
    ranges = [(0, None), (-1, 1), (None, None), (None, 100)]
    said = [value_range(column("x", "X", low=low, high=high)) for low, high in ranges]
    assert said == ["0 or more", "\N{MINUS SIGN}1 to 1", "any value", "100 or less"]


@pytest.mark.parametrize(
    ("figure", "name", "reason"),
    [
        ("psnr_y", "s2", "no HR"),
        ("niqe", "s3", "needs images of at least 24x40 px"),
        ("lpips", "s2", "alexnet-owt-7be5be79.pth is not there"),
        ("psnr_y", "s1", "identical to HR"),
        ("sharpness", "s2", "not defined for this image"),
        ("fid", "s2", "no HR"),
        ("fid", "s3", "needs two images"),
        ("fid", "s1", ""),
        ("niqe", "s1", ""),
    ],
)
def test_the_reason_is_that_of_the_images_without_a_number(figure, name, reason):
    figure = next(one for one in DOCUMENT.figures if one.name == figure)
    own = next(one for one in DOCUMENT.sets if one.name == name)
    assert why_missing(DOCUMENT, figure, own, "other|tool") == reason


def test_without_lr_a_figure_of_lr_says_so():
    figure = column("x", "X", needs_lr=True)
    made = {"m": Enlarged(file="", seconds=None, peak_mib=None, figures={"x": None})}
    alone = ImageEntry(set="s2", name="", lr=None, hr=None, height=9, width=9, models=made)
    assert why_missing(replace(DOCUMENT, images=[alone]), figure, DOCUMENT.sets[1], "m") == "no LR"


# --- CSV


def test_csv_has_a_row_for_each_image_and_model_and_empty_cells_for_what_is_not_there():
    rows = list(csv.DictReader(io.StringIO(images_csv(DOCUMENT))))
    assert len(rows) == 12
    assert [(row["set"], row["image"], row["model"]) for row in rows[2:7:4]] == [
        ("s1", "001", "other|tool"),
        ("s2", "a,b", "bicubic"),
    ]
    assert float(rows[0]["psnr_y"]) == 22.4 and rows[0]["lpips"] == "" and rows[5]["psnr_y"] == ""
    assert rows[0]["height"] == "24" and rows[0]["seconds"] == "0.5" and rows[0]["file"] == "s1/bicubic/001.png"
    assert "fid" not in rows[0] and "sharpness" in rows[0]


def test_csv_keeps_every_digit():
    assert ",0.3333333333333333," in images_csv(DOCUMENT)


# --- Markdown


def test_the_best_is_bold_and_the_second_italic_in_the_direction_of_each_figure():
    rows = lines_of(markdown(DOCUMENT), "| ")
    assert rows[0] == (
        "| model | PSNR-Y (dB) ↑ | NIQE ↓ | LPIPS ↓ | Sharpness | FID ↓ | s/image (median) | s/megapixel | peak MiB |"
    )
    assert rows[2] == "| bicubic | *25.99* [24.50, 27.44] | 7.00 | n/a ¹ | 3.0 | *9.0* | 0.0100 | 0.0400 | 120 |"
    assert rows[3] == "| small s=4 | **27.50** [26.00, 29.00] | **5.00** | n/a ¹ | 4.0 | **8.0** | 0.250 | 1.00 | 120 |"
    assert rows[4] == "| other\\|tool | **27.50** (n=1) ² | *6.00* | n/a ¹ | 5.0 | *9.0* | n/a | n/a | n/a |"


def test_a_single_model_wins_nothing():
    alone = replace(DOCUMENT, models=DOCUMENT.models[:1])
    assert "| bicubic | 25.99 [24.50, 27.44] | 7.00 | n/a ¹ |" in markdown(alone)


def test_every_number_carries_its_variant_and_range_and_every_gap_its_reason_once():
    text = markdown(DOCUMENT)
    assert "- PSNR-Y (`psnr_y`): BT.601 Y rounded, crop 4; 0 or more; higher is better\n" in text
    assert "- NIQE (`niqe`): luma=bt601; any value; lower is better\n" in text
    assert lines_of(text, "² ") == ["² PSNR-Y: identical to HR"]
    assert lines_of(text, "³ ") == ["³ PSNR-Y, FID: no HR"]
    assert lines_of(text, "⁵ ") == ["⁵ NIQE: needs images of at least 24x40 px"]
    assert text.count("alexnet-owt-7be5be79.pth") == 1
    first, second, third = text.split("\n## ")[1:4]
    assert first.startswith("s1\n\n2 images, LR and HR.") and second.startswith("s2\n\n1 image, LR only.")
    assert third.startswith("s3\n\n1 image, LR and HR, LR by light, seed 7.")


def test_the_summary_has_the_tables_alone_and_each_reason_once():
    text = summary(DOCUMENT)
    assert lines_of(text, "## ") == ["## s1", "## s2", "## s3"]
    assert lines_of(text, "| bicubic") == lines_of(markdown(DOCUMENT), "| bicubic |")
    assert text.count("¹ LPIPS: alexnet-owt-7be5be79.pth is not there") == 1
    assert "classic-y" not in text


def test_comparisons_show_sign_interval_p_and_n():
    text = markdown(DOCUMENT)
    assert "| figure | model | minus bicubic |" in text
    assert "| PSNR-Y (dB) ↑ | small s=4 | +1.506 | [+1.200, +1.900] | p = 0.0625 | 2 |" in text
    assert "| NIQE ↓ | small s=4 | \N{MINUS SIGN}2.000 | n/a | p = 1 | 1 |" in text
    assert text.count("sign-flip permutation test") == 1


def test_the_profile_has_a_table_where_there_is_one():
    assert "Speed and memory" not in markdown(DOCUMENT)
    row = ProfileEntry(
        set="s1", model="small s=4", images=2, median_seconds=0.25, seconds_per_megapixel=1.0, ratio=12.5,
        baseline="bicubic", repeats=5, peak_mib=None,
    )  # fmt: skip
    text = markdown(replace(DOCUMENT, profile=[row]))
    assert "| s1 | small s=4 | 0.250 | 1.00 | 12.5 | n/a | bicubic | 5 |" in text


@pytest.mark.parametrize(
    "line",
    [
        "eval/benchmark.py --model bicubic",
        "| protocol | crop | scale |",
        "| setting | tile | none |",
        "| set | s3 | d/s3 |",
        "| SHA-256 | s1 | digest of s1 |",
        "| model | small s=4 | pipeline: s=4 |",
        "| fingerprint | small s=4: networks | abc1 |",
        "| SHA-256 | fid: inception.pth | 6726 |",
        "| version | resdiff | 0.1.0 |",
        "| version | torch | 2.6.0 |",
        "| machine |  | 2 cores |",
        "light:",
        "blur: 3",
    ],
)
def test_all_that_the_numbers_depend_on_is_said(line):
    assert line in markdown(DOCUMENT).splitlines()


def test_the_files_are_written_whole_into_the_run_folder(tmp_path):
    write_tables(DOCUMENT, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["benchmark.md", "images.csv"]
    assert (tmp_path / "images.csv").read_text() == images_csv(DOCUMENT)
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8") == markdown(DOCUMENT)
    with pytest.raises(OSError, match=r"none/images\.csv cannot be written"):
        write_tables(DOCUMENT, tmp_path / "none")


def test_a_name_that_is_not_utf8_does_not_end_the_run(tmp_path):
    odd = replace(DOCUMENT.images[0], name=b"\xff1".decode("utf-8", "surrogateescape"))
    write_tables(replace(DOCUMENT, images=[odd, *DOCUMENT.images[1:]]), tmp_path)
    assert b"s1,\xff1,bicubic" in (tmp_path / "images.csv").read_bytes()


def test_a_number_that_reads_as_zero_has_no_minus() -> None:
    assert number(-0.000001, 5) == number(-0.0, 5) == "0.00000" and number(-0.00002, 5) == "\N{MINUS SIGN}0.00002"
