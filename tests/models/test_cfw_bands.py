"""A fuse block computed in bands is the whole one."""

import pytest
import torch

from resdiff.models.cfw_bands import SideBySide, add_scaled, fuse_in_bands
from resdiff.models.strips import Bands, Strips

from .tiny_cfw import CPU, in_strips, relative_error, tiny_cfw


@torch.no_grad()
@pytest.mark.parametrize("rows", [None, 1, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 8), (11, 5), (24, 7)])
def test_a_block_in_bands_is_the_whole_one(height, width, rows):
    cfw = tiny_cfw(num_fuse_block=2)
    e, h = torch.randn(2, 2, 64, height, width)
    w = torch.tensor([0.25, 1.0])[:, None, None, None]
    ours = fuse_in_bands(cfw, in_strips(e, 2), in_strips(h, 3), 1, w, Bands(rows, CPU, CPU))
    assert ours.shape == h.shape
    assert relative_error(ours.window(0, height, CPU), h + w * cfw(e, h, 1)) < 1e-5


@torch.no_grad()
def test_both_inputs_are_freed():
    cfw = tiny_cfw()
    e, h = (in_strips(x, 2) for x in torch.randn(2, 1, 64, 9, 4))
    fuse_in_bands(cfw, e, h, 1, torch.ones(1, 1, 1, 1), Bands(2, CPU, CPU))
    assert e._strips == h._strips == []


def test_a_sum_frees_its_parts_as_it_grows(monkeypatch):
    x, y = torch.randn(2, 1, 3, 8, 4)
    parts, left = [in_strips(x, 2), in_strips(y, 2)], []
    append = Strips.append

    def spy(self, strip, hold):
        left.append([sum(held.shape[2] for _, held in part._strips) for part in parts])
        append(self, strip, hold)

    monkeypatch.setattr(Strips, "append", spy)
    out = add_scaled(*parts, 0.2, Bands(2, CPU, CPU))
    assert torch.equal(out.window(0, 8, CPU), x + 0.2 * y)
    assert left == [[8, 8], [6, 6], [4, 4], [2, 2]]
    assert [part._strips for part in parts] == [[], []]


def test_two_activations_side_by_side_are_their_concatenation():
    x, y = torch.randn(2, 6, 10, 4), 3 + torch.randn(2, 6, 10, 4)
    first, second = in_strips(x, 4), in_strips(y, 3)
    both, whole = SideBySide(first, second), torch.cat([x, y], dim=1)
    assert (both.height, both.width) == (10, 4)
    assert torch.equal(both.window(2, 7, CPU), whole[:, :, 2:7])
    groups = whole.double().unflatten(1, (4, 3))
    mean, var = both.statistics(4)
    torch.testing.assert_close(mean, groups.mean((2, 3, 4)), rtol=0, atol=1e-6)
    torch.testing.assert_close(var, groups.var((2, 3, 4), correction=0), rtol=1e-5, atol=0)
    both.forget(8)
    assert first.window(0, 10, CPU).shape[2] == 2 and second.window(0, 10, CPU).shape[2] == 10
