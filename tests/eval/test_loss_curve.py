"""The table of a training run."""

import json

import pytest

from resdiff.eval.loss_curve import main, read_metrics, sparkline, table


def line(step: int, loss: float) -> dict:
    return {"step": step, "minutes": step / 60, "loss": loss, "lr": 1e-3, "images_per_second": 8.0, "data_wait": 0.25}


def test_rows_are_means_of_equal_parts_and_validations_follow() -> None:
    lines = [line(10, 0.4), line(20, 0.2), {"step": 20, "minutes": 0.3, "psnr_y_1_step": 30.5}, line(30, 0.1)]
    text = table([*lines, line(40, 0.3)], rows=2)
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert rows[1] == "| 20 | 0.3 | 0.30000 | 0.001 | 8.0 | 25.0% |"
    assert rows[2] == "| 40 | 0.7 | 0.20000 | 0.001 | 8.0 | 25.0% |"
    assert rows[3:] == ["| step | psnr_y_1_step |", "| 20 | 30.5 |"]


def test_more_rows_than_lines_leave_no_empty_row() -> None:
    assert table([line(10, 0.4), line(20, 0.2)], rows=12).count("| 8.0 |") == 2


def test_the_curve_spans_its_blocks() -> None:
    assert sparkline([1.0, 0.0, 0.5]) == "█▁▅"
    assert sparkline([2.0, 2.0]) == "▁▁"


def test_a_folder_without_metrics_is_one_line(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit, match="pass the --output_dir of a training run"):
        main([str(tmp_path)])
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "minutes": 0.1, "psnr_y_1_step": 3.0}) + "\n")
    with pytest.raises(ValueError, match="logged no loss"):
        table(read_metrics(tmp_path), rows=3)
