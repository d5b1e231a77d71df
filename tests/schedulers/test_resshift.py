"""`ResShiftScheduler` keeps its settings, steps as the formulas say, and refuses what cannot be meant."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.schedulers.resshift import ResShiftScheduler


def images(*shape: int, seed: int = 0, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def sample(scheduler: ResShiftScheduler, x0: Tensor, y: Tensor, noise: Tensor, seed: int = 0) -> Tensor:
    """Run the whole chain with a network that knows the answer."""
    generator = torch.Generator().manual_seed(seed)
    x_t = scheduler.prior_sample(y, noise)
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x_t, t)
        x_t = scheduler.step(x0, t, x_t, y=y, generator=generator).prev_sample
    return x_t


def test_settings_survive_saving(tmp_path: Path) -> None:
    scheduler = ResShiftScheduler(
        num_train_timesteps=4,
        min_noise_level=0.2,
        kappa=1.5,
        power=0.4,
        cap_start=True,
        prediction_type="residual",
        input_scaling="pixel",
        respacing="trailing",
        deterministic=True,
        clip_sample=True,
    )
    scheduler.save_pretrained(tmp_path)
    loaded = ResShiftScheduler.from_pretrained(tmp_path)
    theirs, ours = ({k: v for k, v in each.config.items() if k[0] != "_"} for each in (loaded, scheduler))
    assert theirs == ours
    assert torch.equal(loaded.train_tables.sqrt_etas, scheduler.train_tables.sqrt_etas)
    for each in (scheduler, loaded):
        each.set_timesteps(2)
    assert loaded.timesteps.tolist() == scheduler.timesteps.tolist() == [3, 1]


def test_a_new_scheduler_takes_all_trained_steps() -> None:
    scheduler = ResShiftScheduler()
    assert scheduler.timesteps.tolist() == list(range(14, -1, -1))
    assert len(scheduler) == scheduler.num_inference_steps == 15
    assert scheduler.init_noise_sigma == pytest.approx(1.98)


def test_respaced_timesteps_are_those_of_training() -> None:
    scheduler = ResShiftScheduler()
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [12, 9, 6, 3, 0]
    assert scheduler.init_noise_sigma == pytest.approx(2 * 0.82995066)
    assert torch.equal(scheduler.tables.sqrt_etas, scheduler.train_tables.sqrt_etas[[0, 3, 6, 9, 12]])
    trailing = ResShiftScheduler(respacing="trailing")
    trailing.set_timesteps(5)
    assert trailing.timesteps.tolist() == [14, 11, 8, 5, 2]


@pytest.mark.parametrize("respacing", ["reference", "trailing"])
def test_one_step_is_the_last_trained_one(respacing: str) -> None:
    scheduler = ResShiftScheduler(respacing=respacing)
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [14]
    x0, y, noise = images(1, 3, 4, 4)
    assert torch.allclose(scheduler.prior_sample(y, noise), y + 1.98 * noise, atol=1e-6)
    assert torch.equal(sample(scheduler, x0, y, noise), x0)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("steps", [15, 5, 2])
def test_the_chain_recovers_x0_when_the_network_knows_it(deterministic: bool, steps: int) -> None:
    scheduler = ResShiftScheduler(deterministic=deterministic)
    scheduler.set_timesteps(steps)
    x0, y, noise = images(2, 3, 4, 4)
    assert torch.allclose(sample(scheduler, x0, y, noise), x0)


def test_the_last_but_one_sample_has_the_marginal_of_its_step() -> None:
    """The chain starts at y, not at the mixture, so start it at q(x_T); many pixels make the statistics."""
    scheduler = ResShiftScheduler(num_train_timesteps=4, min_noise_level=0.2)
    x0, y = torch.zeros(1, 1, 300, 300), torch.ones(1, 1, 300, 300)
    generator = torch.Generator().manual_seed(0)
    x_t = scheduler.add_noise(x0, torch.randn(x0.shape, generator=generator), torch.tensor([3]), y=y)
    for t in (3, 2):
        x_t = scheduler.step(x0, t, x_t, y=y, generator=generator).prev_sample
    eta = float(scheduler.tables.etas[1])
    assert float(x_t.mean()) == pytest.approx(eta, abs=0.02)
    assert float(x_t.std()) == pytest.approx(2 * eta**0.5, abs=0.02)


def test_the_same_generator_gives_the_same_chain_and_another_does_not() -> None:
    scheduler = ResShiftScheduler()
    x0, y, x_t = images(1, 3, 4, 4)
    first, again, other = (
        scheduler.step(x0, 7, x_t, y=y, generator=torch.Generator().manual_seed(seed)).prev_sample for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_one_generator_per_sample_makes_samples_independent_of_the_batch() -> None:
    scheduler = ResShiftScheduler()
    x0, y, x_t = images(2, 3, 4, 4)
    together = scheduler.step(x0, 7, x_t, y=y, generator=[torch.Generator().manual_seed(i) for i in range(2)])
    alone = scheduler.step(x0[1:], 7, x_t[1:], y=y[1:], generator=torch.Generator().manual_seed(1))
    assert torch.allclose(together.prev_sample[1:], alone.prev_sample)


def test_given_noise_wins_over_the_generator() -> None:
    scheduler = ResShiftScheduler()
    x0, y, x_t = images(1, 3, 4, 4)
    mean, _, _ = resshift.q_posterior(x0, x_t, 7, scheduler.tables)
    step = scheduler.step(x0, 7, x_t, y=y, noise=torch.zeros_like(x0), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(step.prev_sample, mean)


def test_step_uses_the_respaced_tables() -> None:
    scheduler = ResShiftScheduler()
    scheduler.set_timesteps(5)
    x0, y, x_t = images(1, 3, 4, 4)
    noise = torch.zeros_like(x0)
    expected = resshift.posterior_step(x0, x_t, 3, noise, scheduler.tables)
    assert torch.equal(scheduler.step(x0, 9, x_t, y=y, noise=noise).prev_sample, expected)
    assert torch.equal(scheduler.scale_model_input(x_t, 9), resshift.scale_input(x_t, 3, scheduler.tables))


def test_step_understands_the_prediction_type() -> None:
    x0, y, noise = images(1, 3, 4, 4)
    scheduler = ResShiftScheduler(prediction_type="residual")
    x_t = scheduler.add_noise(x0, noise, torch.tensor([7]), y=y)
    prev_sample, predicted = scheduler.step(y - x0, 7, x_t, y=y, noise=noise, return_dict=False)
    assert torch.allclose(predicted, x0, atol=1e-6)
    assert torch.allclose(prev_sample, resshift.posterior_step(x0, x_t, 7, noise, scheduler.tables), atol=1e-6)


def test_clip_sample_bounds_the_prediction() -> None:
    x0, y, x_t = (3 * x for x in images(1, 3, 4, 4))
    clipped = ResShiftScheduler(clip_sample=True).step(x0, 0, x_t, y=y)
    assert torch.equal(clipped.prev_sample, x0.clamp(-1, 1))
    assert torch.equal(ResShiftScheduler().step(x0, 0, x_t, y=y).prev_sample, x0)


def test_deterministic_step_needs_no_randomness() -> None:
    scheduler = ResShiftScheduler(deterministic=True)
    x0, y, x_t = images(1, 3, 4, 4)
    state = torch.get_rng_state()
    step = scheduler.step(x0, 7, x_t, y=y)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(step.prev_sample, resshift.deterministic_step(x0, x_t, y, 7, scheduler.tables))


def test_add_noise_uses_the_trained_schedule_after_respacing() -> None:
    scheduler = ResShiftScheduler()
    scheduler.set_timesteps(5)
    x0, y, noise = images(2, 3, 4, 4)
    t = torch.tensor([1, 14])
    expected = resshift.q_sample(x0, y, t, noise, ResShiftScheduler().tables)
    assert torch.equal(scheduler.add_noise(x0, noise, t, y=y), expected)


def test_calls_in_between_with_another_number_of_steps_change_nothing() -> None:
    shared, fresh = ResShiftScheduler(), ResShiftScheduler()
    x0, y, noise = images(1, 3, 4, 4)
    for steps in (4, 15, 1, 4):
        shared.set_timesteps(steps)
        sample(shared, x0 + steps, y, noise)
    shared.set_timesteps(15)
    network = 0.5 * x0  # wrong on purpose, so that the way matters
    assert torch.equal(sample(shared, network, y, noise), sample(fresh, network, y, noise))
    for name in shared.tables.__dataclass_fields__:
        assert torch.equal(*(torch.as_tensor(getattr(each.tables, name)) for each in (shared, fresh)))


def test_two_samplers_may_take_turns_on_one_scheduler() -> None:
    """A step depends on its arguments alone, not on the step before."""
    scheduler = ResShiftScheduler(deterministic=True)
    a, b, y = images(1, 3, 4, 4)
    noise = images(1, 3, 4, 4, seed=1, count=1)[0]
    x_a, x_b = scheduler.prior_sample(y, noise), scheduler.prior_sample(-y, noise)
    for t in scheduler.timesteps:
        x_a = scheduler.step(0.5 * x_a + a, t, x_a, y=y).prev_sample
        x_b = scheduler.step(0.5 * x_b + b, t, x_b, y=-y).prev_sample
    x_alone = scheduler.prior_sample(y, noise)
    for t in scheduler.timesteps:
        x_alone = scheduler.step(0.5 * x_alone + a, t, x_alone, y=y).prev_sample
    assert torch.equal(x_a, x_alone)


@pytest.mark.parametrize("steps", [0, -1, 16])
def test_a_number_of_steps_that_was_not_trained_is_an_error(steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_inference_steps={steps} must lie between 1 and the 15"):
        ResShiftScheduler().set_timesteps(steps)


def test_a_refused_number_of_steps_leaves_the_schedule_as_it_was() -> None:
    scheduler = ResShiftScheduler()
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="num_inference_steps=99"):
        scheduler.set_timesteps(99)
    assert scheduler.timesteps.tolist() == [12, 9, 6, 3, 0]
    assert len(scheduler.tables) == scheduler.num_inference_steps == 5


def test_a_timestep_outside_the_current_schedule_is_an_error() -> None:
    scheduler = ResShiftScheduler()
    scheduler.set_timesteps(5)
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match=r"timestep=14 is not in the current schedule \[0, 3, 6, 9, 12\]"):
        scheduler.step(x, 14, x, y=x)


@pytest.mark.parametrize("name", ["prediction_type", "input_scaling", "respacing"])
def test_an_unknown_choice_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}='other' is unknown; choose one of"):
        ResShiftScheduler(**{name: "other"})


def test_training_for_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_steps=0 must be at least 1"):
        ResShiftScheduler(num_train_timesteps=0)
