"""Streams of bands against the whole image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resdiff import bands
from resdiff.bands import Rows, resized, spans, with_halo
from resdiff.color import WAVELET_HALO, wavelet
from resdiff.resize import bicubic


def image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(autouse=True)
def small_bands(monkeypatch) -> None:
    monkeypatch.setattr(bands, "BAND_PIXELS", 300)


def test_spans_cover_every_row_once() -> None:
    parts = list(spans(100, 31))
    assert parts[0] == (0, 10) and parts[-1] == (90, 100)
    assert [row for start, stop in parts for row in range(start, stop)] == list(range(100))
    assert list(spans(2, 10**9)) == [(0, 1), (1, 2)]


def test_a_window_that_moves_down_sees_the_image() -> None:
    x = image(40, 5)
    rows = Rows(iter(x.split(7, dim=-2)))
    for start, stop in ((0, 3), (2, 20), (2, 2), (15, 16), (15, 40)):
        assert torch.equal(rows.window(start, stop), x[..., start:stop, :])


def test_a_window_refuses_rows_that_have_passed_or_never_come() -> None:
    rows = Rows(iter([image(10, 5)]))
    rows.window(5, 8)
    with pytest.raises(ValueError, match="row 4 has passed"):
        rows.window(4, 8)
    with pytest.raises(ValueError, match="row 10 is asked for, but the image ends at row 10"):
        rows.window(5, 11)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 30)),
    target=st.tuples(st.integers(1, 150), st.integers(1, 60)),
    step=st.integers(1, 40),
)
def test_a_resampled_stream_is_the_resampled_image(size, target, step) -> None:
    x = image(*size)
    joined = torch.cat(list(resized(iter(x.split(step, dim=-2)), size[0], target)), dim=-2)
    # torch forms its sampling positions in float32: 2e-5 at odd factors, see `bicubic`
    torch.testing.assert_close(joined, bicubic(x, target, "pil"), atol=5e-5, rtol=0)


def test_a_filtered_stream_is_the_filtered_image() -> None:
    x, style = image(120, 40), image(120, 40).flip(-1)
    joined = torch.cat(
        list(
            with_halo(
                iter(x.split(9, dim=-2)), (120, 40), WAVELET_HALO, lambda part, a, b: wavelet(part, style[..., a:b, :])
            )
        ),
        dim=-2,
    )
    torch.testing.assert_close(joined, wavelet(x, style), atol=1e-6, rtol=0)


def test_a_halo_that_is_too_small_would_be_seen() -> None:
    x = image(120, 3)
    exact = wavelet(x, -x)

    def gap(halo: int) -> float:
        parts = with_halo(iter([x]), (120, 3), halo, lambda part, a, b: wavelet(part, -x[..., a:b, :]))
        return float((torch.cat(list(parts), dim=-2) - exact).abs().max())

    assert gap(WAVELET_HALO) < 1e-6 < gap(WAVELET_HALO - 2)
