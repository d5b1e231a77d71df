"""The benchmark of whole calls: what it measures and how it reports; never how long it takes."""

from resdiff.eval.bench_pipeline import Case, Measurement, cases, resident_mib, table


def test_float32_and_bfloat16_are_both_shown_whatever_the_machine_prefers() -> None:
    for best in ("float32", "bfloat16"):
        found = cases(best, cuda=False)
        assert {(c.model, c.dtype) for c in found} == {
            (m, d) for m in ("small", "full") for d in ("float32", "bfloat16")
        }
        assert len(found) == 4


def test_a_gpu_adds_the_published_numbers_of_steps() -> None:
    on_gpu = [c for c in cases("float32", cuda=True) if c.device == "cuda" and c.model == "full"]
    assert sorted({c.steps for c in on_gpu}) == [1, 4, 15]
    assert all(c.side == 128 for c in on_gpu)


def test_ratios_are_against_float32_of_the_same_case() -> None:
    fast, slow = Measurement(0.1, 2.0, 4.0, 100.0), Measurement(0.1, 3.0, 5.0, 90.0)
    text = table([(Case("small", 256, 4, "float32"), fast), (Case("small", 256, 4, "bfloat16"), slow)])
    assert "| 2.00 | 4.00 | 1.00x | 0.10 | 100 |" in text
    assert "| 3.00 | 5.00 | 1.50x | 0.10 | 90 |" in text


def test_resident_size_is_read_in_mebibytes() -> None:
    assert 5 < resident_mib("VmRSS") <= resident_mib("VmHWM") * 1.01 < 50_000
