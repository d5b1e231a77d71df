"""The pool of pairs mixes samples over time, keeps what belongs together, and can be saved and continued."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from resdiff.data.degradation.pool import PairPool


def batch(step: int, count: int = 2) -> dict:
    """Samples numbered through: sample n has pixels n, ten times that in LR, and the caption "n"."""
    numbers = torch.arange(step * count, (step + 1) * count, dtype=torch.float32)
    hr = numbers[:, None, None, None].expand(-1, 1, 4, 4)
    return {"hr": hr, "lr": hr[..., :2, :2] * 10, "text": [str(int(n)) for n in numbers]}


def numbers(given: dict) -> list[int]:
    """The samples of a batch; all its columns must speak of the same ones."""
    found = [int(n) for n in given["hr"][:, 0, 0, 0]]
    assert [int(n) for n in given["lr"][:, 0, 0, 0]] == [10 * n for n in found]
    assert given["text"] == [str(n) for n in found]
    return found


def pool(size: int = 6, seed: int = 0) -> PairPool:
    return PairPool(size, torch.Generator().manual_seed(seed))


def test_batches_come_back_as_they_are_until_the_pool_is_full() -> None:
    p = pool()
    assert [numbers(p.exchange(batch(i))) for i in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert p.filled == 6


def test_a_full_pool_gives_the_first_of_the_permuted_queue_and_puts_the_new_ones_there() -> None:
    p = pool(4)
    for i in range(2):
        p.exchange(batch(i))
    assert numbers(p.exchange(batch(2), torch.tensor([3, 0, 2, 1]))) == [3, 0]  # leaves 4 5 2 1
    assert numbers(p.exchange(batch(3), torch.tensor([1, 2, 0, 3]))) == [5, 2]  # leaves 6 7 4 1
    assert numbers(p.exchange(batch(4), torch.tensor([3, 2, 1, 0]))) == [1, 4]


def test_every_sample_comes_out_once_or_is_still_in() -> None:
    p = pool()
    out = [n for i in range(20) for n in numbers(p.exchange(batch(i)))][6:]
    held = [int(n) for n in p.columns["hr"][:, 0, 0, 0]]
    assert sorted(out + held) == list(range(40))
    assert out != sorted(out)


def test_tuples_of_tensors_work_as_dicts_do() -> None:
    named, plain = pool(2), pool(2)
    for i in range(3):
        b = batch(i)
        expected = named.exchange(b)
        hr, text = plain.exchange((b["hr"], b["text"]))
    assert torch.equal(hr, expected["hr"])
    assert text == expected["text"]


def test_what_came_out_is_not_changed_by_later_batches() -> None:
    p = pool(2)
    p.exchange(batch(0))
    out = p.exchange(batch(1))
    before = out["hr"].clone()
    p.exchange(batch(2))
    assert torch.equal(out["hr"], before)


def test_the_seed_decides_the_order() -> None:
    runs = []
    for seed in (1, 1, 2):
        p = pool(seed=seed)
        runs.append([numbers(p.exchange(batch(i))) for i in range(12)])
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("steps", [0, 2, 5])
def test_a_saved_pool_continues_as_if_nothing_had_happened(steps: int, tmp_path: Path) -> None:
    whole, resumed = pool(), pool(seed=9)
    for i in range(steps):
        whole.exchange(batch(i))
    save_file(whole.tensors(), tmp_path / "pool.safetensors")
    resumed.load_tensors(load_file(tmp_path / "pool.safetensors"))
    for i in range(steps, steps + 6):
        assert numbers(whole.exchange(batch(i))) == numbers(resumed.exchange(batch(i)))


def test_a_saved_pool_gives_tuples_in_their_order(tmp_path: Path) -> None:
    p = pool(2)
    b = batch(0)
    p.exchange((b["hr"], b["text"], b["lr"]))
    save_file(p.tensors(), tmp_path / "pool.safetensors")
    resumed = pool(2)
    resumed.load_tensors(load_file(tmp_path / "pool.safetensors"))
    hr, text, lr = resumed.exchange((b["hr"], b["text"], b["lr"]))
    numbers({"hr": hr, "text": text, "lr": lr})


def test_any_divisor_serves_once_the_pool_is_full() -> None:
    p = pool(4)
    p.exchange(batch(0, 4))
    assert len(numbers(p.exchange(batch(4, 1)))) == 1
    with pytest.raises(ValueError, match="batch has 3 samples, a pool of 4"):
        p.exchange(batch(2, 3))


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    p = pool(4)
    p.exchange(batch(0))
    for bad, message in (
        ({"hr": torch.zeros(2, 1, 4, 4)}, "batch has hr, the pool holds hr, lr, text"),
        (batch(1) | {"lr": torch.zeros(2, 1, 3, 3)}, "lr holds .*1, 3, 3"),
        (batch(1) | {"text": torch.zeros(2)}, "text holds torch.float32"),
        (batch(1) | {"text": ["a"]}, "the same number"),
        (batch(0, 4), "batch has 4 samples"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            p.exchange(bad)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="size is 0"):
        pool(0)
    with pytest.raises(ValueError, match="a pool of 4 samples, this one holds 6"):
        pool(6).load_tensors(p.tensors())
    with pytest.raises(ValueError, match="it needs order"):
        p.load_tensors({})
    p.columns["text"] = [object()] * 4
    with pytest.raises(ValueError, match="text holds what JSON cannot"):
        p.tensors()
