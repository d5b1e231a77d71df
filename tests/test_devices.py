"""The device and the precision follow what the machine can do; what it cannot do is refused in one line."""

import pytest
import torch

from resdiff import devices
from resdiff.devices import check_device, check_dtype, default_device, default_dtype

CPU = torch.device("cpu")


def with_cuda(monkeypatch, capability: int, count: int = 1) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")


def without_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def with_cpu(monkeypatch, name: str, amx: bool = False, avx512_bf16: bool = True) -> None:
    capabilities = {"cpu_name": name, "amx_tile": amx, "amx_bf16": amx, "avx512_bf16": avx512_bf16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def test_cuda_is_taken_where_there_is_one(monkeypatch):
    without_cuda(monkeypatch)
    assert default_device() == check_device(None) == CPU
    with_cuda(monkeypatch, 9)
    assert default_device().type == check_device(None).type == "cuda"


def test_a_cpu_computes_in_bfloat16_only_where_that_is_fast(monkeypatch):
    for name, amx, avx512_bf16, fast in (
        ("Intel Xeon", True, True, True),
        ("Intel Xeon", False, True, False),
        ("AMD EPYC", False, True, True),
        ("AMD EPYC", False, False, False),
    ):
        with_cpu(monkeypatch, name, amx, avx512_bf16)
        assert default_dtype("cpu") == (torch.bfloat16 if fast else torch.float32), (name, amx, avx512_bf16)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert default_dtype(CPU) == torch.float32


@pytest.mark.parametrize(("capability", "dtype"), [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)])
def test_cuda_computes_in_bfloat16_where_it_is_native(monkeypatch, capability, dtype):
    with_cuda(monkeypatch, capability)
    assert default_dtype("cuda") == check_dtype(None, "cuda:0") == dtype


def test_other_devices_compute_in_float32():
    assert default_dtype(torch.device("mps")) == torch.float32


def test_dtype_names():
    names = {"fp32": torch.float32, "float32": torch.float32, "bf16": torch.bfloat16, "BFloat16": torch.bfloat16}
    assert {name: check_dtype(name, CPU) for name in names} == names
    assert check_dtype(torch.float32, CPU) == torch.float32
    assert check_dtype(None, CPU) == default_dtype(CPU)


def test_fp16_is_accepted_on_cuda_only(monkeypatch):
    with_cuda(monkeypatch, 9)
    assert check_dtype("fp16", torch.device("cuda")) == check_dtype("float16", "cuda:0") == torch.float16
    with pytest.raises(ValueError, match="dtype is fp16, which CPUs do not compute with; choose fp32 or bf16"):
        check_dtype("fp16", CPU)


def test_bf16_is_refused_on_old_cards(monkeypatch):
    with_cuda(monkeypatch, 7)
    with pytest.raises(ValueError, match="dtype is bf16, which a card lacks; choose fp16 or fp32"):
        check_dtype("bf16", "cuda")


@pytest.mark.parametrize("name", ["int8", "fp64", "", torch.float64])
def test_unknown_dtypes_are_refused(name):
    with pytest.raises(ValueError, match="choose fp32, fp16 or bf16"):
        check_dtype(name, CPU)


@pytest.mark.parametrize("name", ["gpu", "tpu", "cuda:x", "", "meta", "xpu"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ValueError, match=r"device is .*; choose cpu, cuda") as caught:
        check_device(name)
    assert "\n" not in str(caught.value)


def test_absent_devices_are_refused(monkeypatch):
    without_cuda(monkeypatch)
    with pytest.raises(
        ValueError, match="device is 'cuda', but this machine has 0 cuda devices; choose another, such as cpu"
    ):
        check_device("cuda")
    with_cuda(monkeypatch, 9, count=2)
    assert check_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device is 'cuda:2', but this machine has 2 cuda devices"):
        check_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="0 mps devices"):
        check_device("mps")
    assert check_device("cpu") == check_device(CPU) == CPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_card_reports_a_usable_dtype():
    dtype = devices.default_dtype(devices.default_device())
    assert (
        torch.ones(8, 8, device="cuda", dtype=dtype).matmul(torch.ones(8, 8, device="cuda", dtype=dtype)).sum() == 512
    )
