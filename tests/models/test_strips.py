"""An activation in strips: any window of it, and statistics of the whole."""

import torch

from .tiny_cfw import CPU, in_strips


def test_statistics_are_those_of_the_whole_canvas_even_far_from_zero():
    x = torch.randn(2, 6, 17, 9) + torch.linspace(0, 3, 17)[:, None] + 1000
    strips = in_strips(x, [5, 1, 11])
    mean, var = strips.statistics(3)
    groups = x.double().unflatten(1, (3, 2))
    torch.testing.assert_close(mean, groups.mean((2, 3, 4)), rtol=1e-7, atol=0)
    torch.testing.assert_close(var, groups.var((2, 3, 4), correction=0), rtol=1e-4, atol=0)


def test_a_window_spans_strips_and_ends_with_the_canvas():
    x = torch.randn(1, 2, 10, 3)
    strips = in_strips(x, 4)
    assert torch.equal(strips.window(3, 9, CPU), x[:, :, 3:9])
    assert torch.equal(strips.window(8, 99, CPU), x[:, :, 8:])
    strips.forget(7)  # the strip of rows 4 to 7 is still needed
    assert torch.equal(strips.window(4, 10, CPU), x[:, :, 4:])
    strips.forget(8)
    assert torch.equal(strips.window(0, 10, CPU), x[:, :, 8:])
    assert strips.shape == (1, 2, 10, 3)  # as it was
