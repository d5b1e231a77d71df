"""AddSR on a tiny Stable Diffusion: its four steps and its self-refinement."""

import copy

import pytest
import torch
from torch import Tensor


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(seed: int) -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=seeded(seed))


def decodes(pipe, monkeypatch, **options) -> tuple[Tensor, int]:
    """The latents of a call, and how often it decoded on the way."""
    count = []
    decode = pipe.decode
    with monkeypatch.context() as patch:
        patch.setattr(pipe, "decode", lambda *given: count.append(1) or decode(*given))
        latents = pipe(photo(7), generator=seeded(), output_type="latent", **options).images
    return latents, len(count)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_every_step_after_the_first_sees_the_decoded_prediction(addsr, monkeypatch, steps) -> None:
    assert decodes(addsr, monkeypatch, num_inference_steps=steps)[1] == steps - 1
    assert decodes(addsr, monkeypatch, num_inference_steps=steps, psr_weight=0)[1] == 0


def test_the_weight_of_the_refinement_counts(addsr, monkeypatch) -> None:
    none, some, much = (decodes(addsr, monkeypatch, psr_weight=weight)[0] for weight in (0, 0.4, 1))
    assert (some - none).abs().max() > 1e-3 and (much - some).abs().max() > 1e-3


def test_fewer_steps_are_the_first_of_the_four(addsr) -> None:
    seen: dict[int, list[Tensor]] = {}

    def note(pipe, step, timestep, tensors):
        seen.setdefault(step, []).append(tensors["latents"])
        assert timestep == (999, 749, 499, 249)[step]
        return tensors

    for steps in (2, 4):
        addsr(photo(8), generator=seeded(), num_inference_steps=steps, callback_on_step_end=note)
    assert all(torch.equal(*seen[step]) for step in (0, 1)) and len(seen) == 4


def test_without_a_tagger_the_tokens_stay_and_the_condition_is_refined(addsr, monkeypatch) -> None:
    blind = copy.copy(addsr)
    blind.register_modules(tagger=None)
    tokens = torch.randn(1, 5, 512, generator=seeded())
    given = {"image_embeds": tokens, "tags": "cat"}
    refined, count = decodes(blind, monkeypatch, **given)
    plain, _ = decodes(blind, monkeypatch, psr_weight=0, **given)
    assert count == 3 and (refined - plain).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"opened without RAM and DAPE.*pass image_embeds="):
        blind(photo(7))
    with pytest.raises(ValueError, match=r"no tagger to find tags; pass tags="):
        blind(photo(7), image_embeds=tokens)
