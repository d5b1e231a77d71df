"""The CSV and the Markdown of a benchmark: every number with its variant, marks, reasons for n/a, and the origin."""

import copy
import csv
import io
import math

import pytest

from resdiff.eval.harness.tables import images_csv, markdown, summary, write_tables


def figure(name, label, unit="", better="higher", digits=4, variant="", missing=None, of_set=False, weights=()):
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "better": better,
        "low": 0,
        "high": None,
        "digits": digits,
        "variant": variant,
        "missing": missing,
        "of_set": of_set,
        "weights": dict(weights),
    }


def mean(value, low=None, high=None, n=2):
    return {"mean": value, "low": low, "high": high, "n": n}


def result(testset, model, seconds, **figures):
    cost = {"seconds": seconds, "seconds_per_megapixel": seconds and seconds * 4, "peak_mib": seconds and 120.4}
    return {"set": testset, "model": model, "figures": figures, **cost}


def image(testset, name, **models):
    made = {
        model: {"file": f"{testset}/{model}/{name}.png", "seconds": 0.5, "peak_mib": 9.0, "figures": figures}
        for model, figures in models.items()
    }
    return {"set": testset, "name": name, "lr": "lr.png", "hr": None, "height": 24, "width": 32, "models": made}


DOCUMENT = {
    "resdiff": "0.1.0",
    "command": "eval/benchmark.py --model bicubic",
    "date": "2026-01-01T00:00:00Z",
    "protocol": {"name": "classic-y", "version": 1, "crop": "scale"},
    "settings": {"scale": 4, "seed": 0, "tile": None},
    "versions": {"torch": "2.6.0"},
    "machine": "2 cores",
    "figures": [
        figure("psnr_y", "PSNR-Y", "dB", digits=2, variant="BT.601 Y rounded, crop 4"),
        figure("niqe", "NIQE", better="lower", digits=2, variant="luma=bt601"),
        figure("lpips", "LPIPS", better="lower", missing="alexnet-owt-7be5be79.pth is not there"),
        figure("sharpness", "Sharpness", better="none", digits=1),
        figure("fid", "FID", better="lower", digits=1, of_set=True, weights={"inception.pth": "6726"}),
    ],
    "models": [
        {"name": "bicubic", "folder": "bicubic", "kind": "bicubic", "call": {}, "weights": {}},
        {"name": "small s=4", "folder": "small", "kind": "pipeline", "call": {"s": 4}, "weights": {"u.pth": "abc1"}},
        {"name": "other|tool", "folder": "other", "kind": "results", "call": {}, "weights": {}},
    ],
    "sets": [
        {"name": "s1", "images": 2, "has_hr": True, "source": "d/s1", "degradation": None, "seed": None, "digest": "d1"},
        {"name": "s2", "images": 1, "has_hr": False, "source": "d/s2", "degradation": None, "seed": None, "digest": "d2"},
        {"name": "s3", "images": 2, "has_hr": True, "source": "d/s3", "degradation": "light", "seed": 7, "digest": "d3"},
    ],
    "results": [
        result("s1", "bicubic", 0.01, psnr_y=mean(25.994, 24.5, 27.444), niqe=mean(7.0), sharpness=mean(3.0), fid=mean(9.04)),
        result("s1", "small s=4", 0.25, psnr_y=mean(27.5, 26, 29), niqe=mean(5.0), sharpness=mean(4.0), fid=mean(8.0)),
        result("s1", "other|tool", None, psnr_y=mean(27.501, 26, 29, n=1), niqe=mean(6.0), sharpness=mean(5.0), fid=mean(9.0)),
        result("s2", "bicubic", 0.01, psnr_y=mean(None, n=0), niqe=mean(4.0, n=1)),
    ],
    "comparisons": [
        {"set": "s1", "figure": "psnr_y", "model": "small s=4", "baseline": "bicubic"}
        | {"difference": 1.506, "low": 1.2, "high": 1.9, "p": 0.0625, "n": 2},
        {"set": "s1", "figure": "niqe", "model": "small s=4", "baseline": "bicubic"}
        | {"difference": -2.0, "low": None, "high": None, "p": None, "n": 1},
    ],
    "profile": [],
    "images": [
        image("s1", "001", bicubic={"psnr_y": 22.4, "niqe": 7.1, "lpips": None, "sharpness": 3.0}, other={"psnr_y": math.inf}),
        image("s2", "a,b", bicubic={"niqe": 4.0}),
    ],
}  # fmt: skip


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_csv_has_a_row_for_each_image_and_model_and_empty_cells_for_what_is_not_there():
    rows = list(csv.DictReader(io.StringIO(images_csv(DOCUMENT))))
    assert [(row["set"], row["image"], row["model"]) for row in rows] == [
        ("s1", "001", "bicubic"),
        ("s1", "001", "other"),
        ("s2", "a,b", "bicubic"),
    ]
    assert float(rows[0]["psnr_y"]) == 22.4 and rows[0]["lpips"] == "" and rows[1]["psnr_y"] == "inf"
    assert rows[0]["height"] == "24" and rows[0]["seconds"] == "0.5" and rows[0]["file"] == "s1/bicubic/001.png"
    assert "fid" not in rows[0] and "sharpness" in rows[0]


def test_csv_keeps_every_digit():
    document = copy.deepcopy(DOCUMENT)
    document["images"][0]["models"]["bicubic"]["figures"]["psnr_y"] = 1 / 3
    assert "0.3333333333333333" in images_csv(document)


def test_the_best_is_bold_and_the_second_italic_in_the_direction_of_each_figure():
    rows = lines_of(markdown(DOCUMENT), "| ")
    assert rows[0] == (
        "| model | PSNR-Y (dB) ↑ | NIQE ↓ | LPIPS ↓ | Sharpness | FID ↓ | s/image (median) | s/megapixel | peak MiB |"
    )
    assert rows[2] == "| bicubic | *25.99* [24.50, 27.44] | 7.00 | n/a | 3.0 | *9.0* | 0.010 | 0.040 | 120 |"
    assert rows[3] == "| small s=4 | **27.50** [26.00, 29.00] | **5.00** | n/a | 4.0 | **8.0** | 0.250 | 1.000 | 120 |"
    assert rows[4] == (
        "| other\\|tool | **27.50** [26.00, 29.00] (n=1) | *6.00* | n/a | 5.0 | *9.0* | n/a | n/a | n/a |"
    )


def test_a_single_model_wins_nothing():
    assert "| bicubic | n/a | 4.00 | n/a | n/a | n/a | 0.010 | 0.040 | 120 |" in markdown(DOCUMENT)


def test_every_number_carries_its_variant_and_every_gap_its_reason():
    first, second, third = markdown(DOCUMENT).split("\n## ")[1:4]
    assert "- PSNR-Y (`psnr_y`): BT.601 Y rounded, crop 4\n" in first
    assert "- NIQE (`niqe`): luma=bt601\n" in first
    assert "- LPIPS (`lpips`). n/a: alexnet-owt-7be5be79.pth is not there" in first
    assert "crop 4. n/a: it compares with HR, which this set does not have" in second
    assert first.startswith("s1\n\n2 images, LR and HR.") and second.startswith("s2\n\n1 image, LR only.")
    assert third.startswith("s3\n\n2 images, LR and HR, LR by light, seed 7.")


def test_the_summary_has_the_tables_alone_and_each_reason_once():
    text = summary(DOCUMENT)
    assert lines_of(text, "## ") == ["## s1", "## s2", "## s3"]
    assert lines_of(text, "| bicubic") == lines_of(markdown(DOCUMENT), "| bicubic")
    assert text.endswith("\n\nLPIPS is n/a: alexnet-owt-7be5be79.pth is not there")
    assert "classic-y" not in text


def test_comparisons_show_sign_interval_p_and_n():
    text = markdown(DOCUMENT)
    assert "| PSNR-Y (dB) ↑ | small s=4 | bicubic | +1.506 | [+1.200, +1.900] | 0.0625 | 2 |" in text
    assert "| NIQE ↓ | small s=4 | bicubic | -2.000 | n/a | n/a | 1 |" in text
    assert "sign-flip permutation test" in text


def test_the_profile_has_a_table_where_there_is_one():
    assert "Speed and memory" not in markdown(DOCUMENT)
    row = {"set": "s1", "model": "small s=4", "median_seconds": 0.25, "seconds_per_megapixel": 1.0, "ratio": 12.5}
    document = DOCUMENT | {"profile": [row | {"baseline": "bicubic", "repeats": 5, "peak_mib": 300.0}]}
    assert "| s1 | small s=4 | 0.2500 | 1.0000 | 12.50 | bicubic | 5 | 300 |" in markdown(document)


@pytest.mark.parametrize(
    "line",
    [
        "eval/benchmark.py --model bicubic",
        "| protocol | crop | scale |",
        "| setting | tile | none |",
        "| set | s3 | d/s3 |",
        "| set | s1 SHA-256 | d1 |",
        "| model | small s=4 | pipeline: s=4 |",
        "| weights | small s=4: u.pth | abc1 |",
        "| weights | fid: inception.pth | 6726 |",
        "| version | resdiff | 0.1.0 |",
        "| version | torch | 2.6.0 |",
        "| machine |  | 2 cores |",
    ],
)
def test_all_that_the_numbers_depend_on_is_said(line):
    assert line in markdown(DOCUMENT).splitlines()


def test_the_files_are_written_whole_into_the_run_folder(tmp_path):
    write_tables(DOCUMENT, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["benchmark.md", "images.csv"]
    assert (tmp_path / "images.csv").read_text() == images_csv(DOCUMENT)
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8") == markdown(DOCUMENT)
    with pytest.raises(OSError):
        write_tables(DOCUMENT, tmp_path / "none")


def test_a_name_that_is_not_utf8_does_not_end_the_run(tmp_path):
    document = copy.deepcopy(DOCUMENT)
    document["images"][0]["name"] = b"\xff1".decode("utf-8", "surrogateescape")
    write_tables(document, tmp_path)
    assert b"s1,\xff1,bicubic" in (tmp_path / "images.csv").read_bytes()
