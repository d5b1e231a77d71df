"""What users of diffusers expect of a pipeline: offloading, casting, compiling, copying, saving, publishing.

Devices are played by the CPU: offloaded weights lie on "meta" or are overwritten, so a call that no hook sees fails.
"""

import copy
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from huggingface_hub import ModelCard
from torch import Tensor

from resdiff.cuda_graphs import GraphedForward
from resdiff.pipelines import SRPipeline
from resdiff.schedulers.resshift import ResShiftScheduler

LR = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))


def networks(pipe) -> list[torch.nn.Module]:
    return [network for network in (pipe.unet, pipe.vae, pipe.components.get("controlnet")) if network is not None]


def run(pipe, **options) -> Tensor:
    return pipe(LR, generator=torch.Generator().manual_seed(0), output_type="pt", **options).images


# --- offloading ------------------------------------------------------------------------------------------------------


def test_offloaded_models_give_the_same_image_every_time(own) -> None:
    expected = run(own)
    own.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        torch.testing.assert_close(run(own), expected, rtol=0, atol=1e-5)  # other batches, other kernels


def test_sequential_offloading_gives_the_same_image_every_time(own) -> None:
    expected = run(own)
    for network in networks(own):  # what enable_sequential_cpu_offload does, which refuses a CPU
        cpu_offload(network, torch.device("cpu"))
    assert {p.device.type for n in networks(own) for p in n.parameters()} == {"meta"}
    for _ in range(2):
        torch.testing.assert_close(run(own), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_group_offloading_gives_the_same_image_every_time(own, level, blocks) -> None:
    expected = run(own)
    own.enable_group_offload(torch.device("cpu"), offload_type=level, num_blocks_per_group=blocks)
    for _ in range(2):
        torch.testing.assert_close(run(own), expected, rtol=0, atol=1e-5)


@pytest.fixture
def _no_stale_memory(monkeypatch):
    """Fill new memory with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_no_stale_memory")
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_every_weight_is_brought_in_by_the_group_that_owns_it(own, level, tmp_path) -> None:
    expected = run(own)
    own.enable_group_offload(
        torch.device("cpu"), offload_type=level, num_blocks_per_group=1, offload_to_disk_path=str(tmp_path)
    )
    assert any(p.isnan().any() for n in networks(own) for p in n.parameters())
    for _ in range(2):
        torch.testing.assert_close(run(own), expected, rtol=0, atol=1e-5)  # files are aligned otherwise than memory


@pytest.mark.parametrize(
    "call",
    [
        lambda pipe: pipe.vae.encode(torch.zeros(1, 3, 16, 16, device="meta")),
        lambda pipe: pipe.vae.decode(torch.zeros(1, 3, 4, 4, device="meta"), force_not_quantize=True),
        lambda pipe: pipe.unet.embed(torch.zeros(2, device="meta")),
        lambda pipe: pipe.unet(torch.zeros(1, 3, 16, 16, device="meta"), torch.zeros(1), torch.zeros(1, 3, 16, 16)),
    ],
    ids=["encode", "decode", "embed", "forward"],
)
def test_whatever_is_called_first_brings_the_network_to_its_device(latent, call) -> None:
    own = copy.deepcopy(latent)
    for network in networks(own):
        cpu_offload_with_hook(network, torch.device("meta"))
        assert network.device.type == "cpu"
    assert call(own).device.type == "meta"
    assert sum(network.device.type == "meta" for network in networks(own)) == 1


def test_a_look_at_the_photo_brings_the_network_to_its_device(pixel) -> None:
    own = copy.deepcopy(pixel)
    cpu_offload_with_hook(own.unet, torch.device("meta"))
    assert own.unet.predict(torch.zeros(1, 3, 16, 16, device="meta")).device.type == "meta"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("name", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading_without_an_accelerator_is_one_line(own, name) -> None:
    with pytest.raises(RuntimeError, match="requires accelerator, but not found") as caught:
        getattr(own, name)()
    assert "\n" not in str(caught.value)


# --- precision, layout, compilation ----------------------------------------------------------------------------------


def test_networks_stored_in_float8_give_a_finite_image_near_the_exact_one(own) -> None:
    expected = run(own)
    for network in networks(own):  # diffusers' own leave what is not stored in 8 bits in its dtype
        network.to(torch.bfloat16).enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    image = run(own)
    assert torch.isfinite(image).all() and (image - expected).abs().mean() < 0.1
    assert any(p.dtype == torch.float8_e4m3fn for p in own.unet.parameters())  # afterwards as well


@pytest.mark.parametrize("way", ["bfloat16", "float8", "autocast"])
def test_schedule_arithmetic_is_float32_whatever_the_networks_compute_in(own_residual, way, monkeypatch) -> None:
    own, seen = own_residual, []
    step = own.scheduler.step

    def watched(model_output: Tensor, timestep, sample: Tensor, *, y: Tensor, noise: Tensor):
        done = step(model_output, timestep, sample, y=y, noise=noise)
        seen.extend(t.dtype for t in (model_output, sample, y, noise, done.prev_sample, done.pred_original_sample))
        return done

    monkeypatch.setattr(own.scheduler, "step", watched)
    if way == "bfloat16":
        own.to(torch.bfloat16)
    elif way == "float8":
        own.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        run(own)
    assert len(seen) >= 6 and set(seen) == {torch.float32}


@pytest.mark.parametrize("way", ["bfloat16", "float8", "autocast"])
def test_code_distances_are_float32_of_exact_codes(latent, way, monkeypatch) -> None:
    own = copy.deepcopy(latent)
    codes = own.vae.quantize.embedding.weight.clone()
    seen: list[tuple[Tensor, Tensor]] = []
    from resdiff.models import vq

    nearest = vq.nearest_codes
    monkeypatch.setattr(vq, "nearest_codes", lambda z, codebook: seen.append((z, codebook)) or nearest(z, codebook))
    if way == "bfloat16":
        own.to(torch.bfloat16)
    elif way == "float8":
        own.vae.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        run(own)
    vectors, codebook = seen[0]
    assert vectors.dtype == torch.float32 and torch.equal(codebook, codes)


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_blocks_give_the_same_image_and_are_saved_as_plain_ones(own, tmp_path) -> None:
    expected = run(own)
    own.compile_networks(backend="eager")
    torch.testing.assert_close(run(own), expected, rtol=0, atol=1e-5)
    own.save_pretrained(tmp_path)
    torch.testing.assert_close(run(opened(tmp_path)), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_pipeline_with_a_wholly_compiled_network_works_and_is_saved_as_a_plain_one(pixel, tmp_path) -> None:
    own, expected = copy.deepcopy(pixel), run(pixel)
    own.unet = torch.compile(own.unet, backend="eager")
    torch.testing.assert_close(run(own), expected, rtol=0, atol=1e-5)
    own.save_pretrained(tmp_path)
    torch.testing.assert_close(run(opened(tmp_path)), expected, rtol=0, atol=1e-5)


def test_channels_last_networks_give_the_same_image(pixel) -> None:
    own = copy.deepcopy(pixel)
    own.unet.to(memory_format=torch.channels_last)
    torch.testing.assert_close(run(own), run(pixel), rtol=0, atol=1e-5)


def test_cuda_graphs_can_be_asked_for_anywhere_and_change_nothing_on_a_cpu(own) -> None:
    expected = run(own)
    own.enable_cuda_graphs()
    assert isinstance(vars(own.unet)["forward"], GraphedForward)
    assert torch.equal(run(own), expected)
    own.disable_cuda_graphs()
    assert "forward" not in vars(own.unet)


# --- copies, files, the hub ------------------------------------------------------------------------------------------


def opened(folder: Path, **options):
    pipe = SRPipeline.from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("through", [SRPipeline, type], ids=["SRPipeline", "own class"])
def test_a_pipeline_from_another_shares_its_networks_and_options(own, through) -> None:
    cls = through(own) if through is type else through
    other = cls.from_pipe(own)
    assert type(other) is type(own) and other.unet is own.unet and other.scheduler is own.scheduler
    assert {k: v for k, v in other.config.items() if k[0] != "_"} == {
        k: v for k, v in own.config.items() if k[0] != "_"
    }
    other.set_progress_bar_config(disable=True)
    assert torch.equal(run(other), run(own))


def test_a_pipeline_from_another_takes_other_parts_and_options(own_residual) -> None:
    own = own_residual
    scheduler = ResShiftScheduler(num_train_timesteps=3)
    other = type(own).from_pipe(own, scheduler=scheduler, num_inference_steps=2)
    assert (other.scheduler, other.default_steps, other.max_steps) == (scheduler, 2, 3)
    assert own.scheduler is not scheduler


def test_a_pipeline_from_another_leaves_the_dtype_of_the_shared_networks(own) -> None:
    own.to(torch.bfloat16)
    other = type(own).from_pipe(own)
    assert own.unet.dtype == other.unet.dtype == torch.bfloat16
    assert type(own).from_pipe(own, dtype=torch.float32).unet.dtype == torch.float32


def test_a_variant_is_saved_beside_the_plain_files_and_opened_by_name(own, tmp_path) -> None:
    own.save_pretrained(tmp_path)
    own.to(torch.bfloat16).save_pretrained(tmp_path, variant="bf16")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) == 2
    half = opened(tmp_path, variant="bf16", dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    for name, weight in own.unet.state_dict().items():
        assert torch.equal(half.unet.state_dict()[name], weight)
    assert opened(tmp_path).unet.dtype == torch.float32
    with pytest.raises(ValueError, match=r"variant=fp16.*no such modeling files") as caught:
        opened(tmp_path, variant="fp16")
    assert "\n" not in str(caught.value)


def test_each_network_may_have_a_dtype_of_its_own(latent, tmp_path) -> None:
    latent.save_pretrained(tmp_path)
    mixed = opened(tmp_path, dtype={"vae": torch.float32, "default": torch.bfloat16})
    assert (mixed.unet.dtype, mixed.vae.dtype) == (torch.bfloat16, torch.float32)
    assert torch.isfinite(run(mixed)).all()


def test_a_device_map_may_name_the_cpu_and_another_one_is_refused_in_one_line(own, tmp_path) -> None:
    own.save_pretrained(tmp_path)
    torch.testing.assert_close(run(opened(tmp_path, device_map="cpu")), run(own), rtol=0, atol=1e-5)
    with pytest.raises((NotImplementedError, ValueError), match=r"auto not supported.*cpu") as caught:
        opened(tmp_path, device_map="auto")
    assert "\n" not in str(caught.value)


def test_saved_files_may_be_read_by_whom_the_umask_says(own, tmp_path) -> None:
    own.save_pretrained(tmp_path / "model")
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {usual}


def test_publishing_uploads_a_folder_that_opens_again(own, tmp_path, monkeypatch) -> None:
    uploaded = {}

    def upload(repo_id: str, folder_path: str, **options) -> str:
        copy_of(Path(folder_path), tmp_path / "hub")
        uploaded.update(repo_id=repo_id, **options)
        return "https://hub/me/model"

    monkeypatch.setattr(
        "diffusers.utils.hub_utils.create_repo", lambda name, **_: SimpleNamespace(repo_id=f"me/{name}")
    )
    monkeypatch.setattr("diffusers.utils.hub_utils.upload_folder", upload)
    monkeypatch.setattr("diffusers.utils.hub_utils.load_or_create_model_card", lambda *_, **__: ModelCard("---\n---\n"))
    assert own.push_to_hub("model", private=True, commit_message="first") == "https://hub/me/model"
    assert uploaded["repo_id"] == "me/model" and uploaded["commit_message"] == "first"
    assert (tmp_path / "hub" / "README.md").is_file()
    torch.testing.assert_close(run(opened(tmp_path / "hub")), run(own), rtol=0, atol=1e-5)


def copy_of(folder: Path, target: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(folder)).write_bytes(path.read_bytes())
