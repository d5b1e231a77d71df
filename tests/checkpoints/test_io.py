"""Foreign files are read without running code, wrappers are peeled, and loading accounts for every name."""

import os
import pickle
import random
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from resdiff.checkpoints.io import (
    CheckpointError,
    check_fit,
    check_sums,
    load_strictly,
    peel,
    read_shapes,
    read_state_dict,
)


class RunsCode:
    """Creates the file it is given when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def state():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype


def message(path, read=read_state_dict):
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


@pytest.mark.parametrize("read", [read_state_dict, read_shapes])
@pytest.mark.parametrize("pickled", ["zip", "legacy", "plain"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, pickled, read):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": state(), "hook": RunsCode(trace)}
    if pickled == "plain":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=pickled == "zip")
    text = message(path, read)
    assert "would run code" in text and ".safetensors" in text
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    path = tmp_path / "module.pth"
    torch.save(nn.Linear(2, 2), path)
    assert "re-save the plain state dict" in message(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_named_as_such(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    tensors = {"a": torch.zeros(1000)}
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated or not a checkpoint" in message(path)
    assert "truncated or not a checkpoint" in message(path, read_shapes)


def test_a_truncated_file_of_the_old_format_is_named_as_such(tmp_path):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated or not a checkpoint" in message(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_web_page_saved_as_a_checkpoint_is_not_a_checkpoint(tmp_path, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_text("<html>404: not found</html>" * 20)
    assert "download it again" in message(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_empty_and_missing_files_are_told_apart(tmp_path, suffix):
    path = tmp_path / f"none{suffix}"
    assert "is not a file" in message(path)
    path.touch()
    assert "is empty" in message(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, [torch.zeros(2)], {"state_dict": [1]}])
def test_a_file_without_named_tensors_is_an_error(tmp_path, content):
    path = tmp_path / "nothing.pth"
    torch.save(content, path)
    assert "has no tensors" in message(path)


def test_every_format_gives_the_same_tensors(tmp_path):
    torch.save(state(), tmp_path / "new.pth")
    torch.save(state(), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    save_file(state(), tmp_path / "safe.safetensors")
    for name in ("new.pth", "old.ckpt", "safe.safetensors"):
        assert_same(read_state_dict(tmp_path / name), state())
        shapes = read_shapes(tmp_path / name)
        assert {key: tensor.shape for key, tensor in shapes.items()} == {
            key: tensor.shape for key, tensor in state().items()
        }
        assert all(tensor.is_meta for tensor in shapes.values())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "iters_start": 300000, "lr": [1.0]},
        lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
        lambda s: {"model": {"state_dict": s}, "step": torch.tensor(3)},
        lambda s: {"ema": {"decay": 0.999}, "state_dict": s},
        lambda s: {"params": {"lr": 1e-4}, "model": s},
        lambda s: s | {"epoch": 3, "name": "x"},
    ],
)
def test_wrappers_are_peeled_and_other_entries_are_ignored(wrap):
    assert_same(peel(wrap(state())), state())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_stripped_in_any_order(prefix):
    assert_same(peel({"state_dict": {prefix + key: value for key, value in state().items()}}), state())


def test_a_prefix_that_not_every_name_has_is_part_of_the_name():
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert_same(peel(mixed), mixed)


def test_missing_extra_and_misshapen_names_are_counted_and_listed_in_one_line():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given = {
        "0.weight": torch.zeros(2, 3),
        "1.weight": torch.zeros(5, 4),
        "x": torch.zeros(1),
        "y.mask": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as caught:
        load_strictly(model, given, ("*.mask",), "w.pth")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("w.pth does not fit Sequential")
    assert "2 missing (0.bias, 1.bias)" in text
    assert "1 unexpected (x)" in text
    assert "1 of another shape (1.weight (5, 4) for (5, 2))" in text
    assert_same(model.state_dict(), before)


def test_long_lists_of_names_are_cut():
    with pytest.raises(CheckpointError, match=r"8 missing \(0\.weight, 0\.bias, 1\.weight, \.\.\.\)"):
        load_strictly(nn.Sequential(*(nn.Linear(1, 1) for _ in range(4))), {})


@pytest.mark.parametrize("pattern", ["*.mask", "y.mask"])
def test_ignorable_names_may_be_there(pattern):
    model = nn.Linear(3, 2)
    load_strictly(model, model.state_dict() | {"y.mask": torch.zeros(1)}, (pattern,))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_gives_a_float32_model_unless_asked_otherwise(tmp_path, stored):
    path = tmp_path / "half.safetensors"
    save_file({"weight": torch.ones(2, 3, dtype=stored) / 3, "bias": torch.zeros(2, dtype=stored)}, path)
    model = nn.Linear(3, 2)
    load_strictly(model, read_state_dict(path))
    assert model.weight.dtype == torch.float32
    assert model.weight[0, 0].item() == (torch.ones((), dtype=stored) / 3).item()
    load_strictly(model, read_state_dict(path), dtype=torch.float16)
    assert model.weight.dtype == model.bias.dtype == torch.float16


def test_integers_keep_their_dtype():
    model = nn.BatchNorm2d(2)
    load_strictly(model, nn.BatchNorm2d(2).state_dict(), dtype=torch.float16)
    assert model.num_batches_tracked.dtype == torch.int64 and model.weight.dtype == torch.float16


def test_a_model_without_storage_is_filled_and_owns_its_trainable_weights():
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    source = nn.Linear(3, 2).state_dict()
    load_strictly(model, source)
    assert torch.equal(model.weight, source["weight"]) and model.weight.requires_grad
    source["weight"].add_(1)
    assert not torch.equal(model.weight, source["weight"])


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, form):
    whole, path = tmp_path / "whole", tmp_path / ("a.safetensors" if form == "safetensors" else "a.pth")
    if form == "safetensors":
        save_file(state(), whole)
    else:
        torch.save(state(), whole, _use_new_zipfile_serialization=form == "zip")
    content, rng = whole.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(200):
        mutated = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            mutated[rng.randrange(len(mutated))] ^= 1 << rng.randrange(8)
        path.write_bytes(mutated)
        try:
            with warnings.catch_warnings(action="ignore"):
                check_fit(nn.Linear(1, 1), read_state_dict(path), source=path)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += "truncated" in str(error)
    assert refused > 20


def test_a_flipped_bit_among_the_numbers_contradicts_the_checksums_of_a_zip(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(5000)}, path)
    check_sums(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert read_state_dict(path)["a"].ne(1).sum() == 1  # torch does not notice
    assert "is truncated or not a checkpoint" in message(path, check_sums)


def test_formats_without_checksums_pass(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    torch.save(state(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    check_sums(tmp_path / "a.safetensors")
    check_sums(tmp_path / "a.pth")


def test_integers_in_place_of_floats_are_refused():
    net = nn.Linear(2, 1)
    wrong = {key: tensor.long() for key, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"2 of another kind of number \(weight, bias\); download it again"):
        load_strictly(net, wrong)


def test_a_name_that_is_not_text_is_shown_in_one_line():
    with pytest.raises(CheckpointError, match=r"1 unexpected \('a\\n\\x1b'\)"):
        check_fit(nn.Identity(), {"a\n\x1b": torch.zeros(1)})


def test_wrappers_are_entered_to_a_bounded_depth(tmp_path) -> None:
    looped: dict = {}
    looped["state_dict"] = looped
    torch.save(looped, tmp_path / "loop.pth")
    with pytest.raises(CheckpointError, match="has no tensors"):
        read_state_dict(tmp_path / "loop.pth")
    nested: dict = {"a": torch.ones(1)}
    for _ in range(5):
        nested = {"state_dict": nested}
    assert list(peel(nested)) == ["a"]


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_without_plain_storage_are_left_out(tmp_path) -> None:
    torch.save({"a": torch.eye(2).to_sparse(), "b": torch.ones(1)}, tmp_path / "sparse.pth")
    assert list(read_state_dict(tmp_path / "sparse.pth")) == ["b"]


def test_a_tensor_larger_than_what_is_stored_of_it_is_refused(tmp_path) -> None:
    torch.save({"weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "giant.pth")
    for read in (read_state_dict, read_shapes):
        with pytest.raises(CheckpointError, match=r"1 larger than what is stored of them \(weight\)"):
            read(tmp_path / "giant.pth")
