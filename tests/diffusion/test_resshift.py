"""The residual-shifting process agrees with its formulas and with the published schedules."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.diffusion.resshift import PredictionType, ResShiftTables

# sqrt_eta, eta, alpha, posterior variance, coefficient of x_t, of x_0, kappa sqrt_eta, input std, weight in the bound:
# printed from zsyOAOA/ResShift@3ce1d81 for the published settings.
FIFTEEN_STEPS = """
0.02000000|0.00040000|0.00040000|0.00000000|0.00000000|1.00000000|0.040000|1.000800|321.87899
0.11716508|0.01372766|0.01332766|0.00155338|0.02913826|0.97086174|0.234330|1.027088|303.39429
0.17630456|0.03108330|0.01735564|0.03065984|0.44164095|0.55835905|0.352609|1.060346|5.08425
0.23362892|0.05458247|0.02349917|0.05352867|0.56947397|0.43052603|0.467258|1.103780|1.73134
0.29157413|0.08501547|0.03043300|0.07815558|0.64202985|0.35797015|0.583148|1.157610|0.81979
0.35100928|0.12320752|0.03819205|0.10541288|0.69001854|0.30998146|0.702019|1.221814|0.45577
0.41235614|0.17003759|0.04683007|0.13573039|0.72458989|0.27541011|0.824712|1.296206|0.27942
0.47585773|0.22644058|0.05640299|0.16941537|0.75091483|0.24908517|0.951715|1.380494|0.18311
0.54167168|0.29340821|0.06696763|0.20673162|0.77175953|0.22824047|1.083343|1.474325|0.12599
0.60990993|0.37199013|0.07858192|0.24792680|0.78875267|0.21124733|1.219820|1.577327|0.09000
0.68065802|0.46329534|0.09130521|0.29324393|0.80292224|0.19707776|1.361316|1.689136|0.06622
0.75398526|0.56849378|0.10519844|0.34292686|0.81495235|0.18504765|1.507971|1.809413|0.04993
0.82995066|0.68881810|0.12032433|0.39722319|0.82531771|0.17468229|1.659901|1.937853|0.03841
0.90860639|0.82556557|0.13674747|0.45638594|0.83435905|0.16564095|1.817213|2.074190|0.03006
0.99000000|0.98010000|0.15453443|0.52067465|0.84232789|0.15767211|1.980000|2.218197|0.02387
"""
FOUR_STEPS = """
0.10000000|0.01000000|0.01000000|0.00000000|0.00000000|1.00000000|0.200000|1.019804|12.97985
0.52009637|0.27050024|0.26050024|0.03852126|0.03696854|0.96303146|1.040193|1.442914|12.03789
0.76138199|0.57970254|0.30920230|0.57711871|0.46661903|0.53338097|1.522764|1.821760|0.24648
0.99000000|0.98010000|0.40039746|0.94729691|0.59147285|0.40852715|1.980000|2.218197|0.08809
"""
DIGITS = (8, 8, 8, 8, 8, 8, 6, 6, 5)


def make_tables(num_steps: int = 15, kappa: float = 2.0) -> ResShiftTables:
    return resshift.resshift_tables(resshift.sqrt_eta_schedule(num_steps, kappa=kappa), kappa)


def images(*shape: int, seed: int = 0, count: int = 3) -> list[Tensor]:
    """Normal tensors, e.g. x_0, y and noise."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


# --- schedule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("min_noise_level", "printed"), [(0.04, FIFTEEN_STEPS), (0.2, FOUR_STEPS)])
def test_tables_are_the_published_ones_to_the_printed_digits(min_noise_level: float, printed: str) -> None:
    rows = [[float(number) for number in line.split("|")] for line in printed.split()]
    tables = resshift.resshift_tables(
        resshift.sqrt_eta_schedule(len(rows), min_noise_level=min_noise_level, etas_end=0.99, kappa=2.0, power=0.3), 2.0
    )
    columns = [
        tables.sqrt_etas,
        tables.etas,
        tables.alpha,
        tables.posterior_variance,
        tables.posterior_mean_coef1,
        tables.posterior_mean_coef2,
        2.0 * tables.sqrt_etas,
        (4.0 * tables.etas + 1).sqrt(),
        resshift.loss_weights(tables, "xstart"),
    ]
    for column, digits, theirs in zip(columns, DIGITS, zip(*rows, strict=True), strict=True):
        error = (column - torch.tensor(theirs, dtype=torch.float64)).abs().max()
        assert error <= 0.5001 * 10**-digits


def test_schedule_rounds_as_the_reference_does() -> None:
    # Printed from zsyOAOA/ResShift@3ce1d81; the rounding of 1000 steps is visible, and 1 - eta_T multiplies it.
    long = resshift.sqrt_eta_schedule(1000)
    assert [float(long[i]) for i in (1, 10, 500, 998, 999)] == pytest.approx(
        [0.03269130018701555, 0.05331180158006532, 0.4763106938293581, 0.9888402272786365, 0.9899999999999224],
        rel=4e-16,
    )
    steep = resshift.sqrt_eta_schedule(20, min_noise_level=0.2, etas_end=0.9999, kappa=1.3, power=0.7)
    assert [float(steep[i]) for i in (1, 10, 19)] == pytest.approx(
        [0.19524300673540237, 0.5078781356710205, 0.9999], rel=4e-16
    )


def test_schedule_that_ends_at_one_does_not_pass_it() -> None:
    for num_steps in range(1, 60):
        assert float(resshift.sqrt_eta_schedule(num_steps, etas_end=1.0).max()) <= 1.0


def test_tables_are_float64() -> None:
    tables = make_tables()
    assert {getattr(tables, name).dtype for name in tables.__dataclass_fields__ if name != "kappa"} == {torch.float64}


def test_capped_start_changes_the_four_step_schedule_and_not_the_fifteen_step_one() -> None:
    assert float(resshift.sqrt_eta_schedule(4, min_noise_level=0.2, cap_start=True)[0]) == math.sqrt(0.001)
    assert float(resshift.sqrt_eta_schedule(4, min_noise_level=0.2)[0]) == 0.1
    assert torch.equal(resshift.sqrt_eta_schedule(15, cap_start=True), resshift.sqrt_eta_schedule(15))


def test_start_is_the_noise_level_itself_where_kappa_is_below_one() -> None:
    assert float(resshift.sqrt_eta_schedule(4, min_noise_level=0.03, kappa=0.25)[0]) == pytest.approx(0.03)


@settings(max_examples=30, deadline=None)
@given(
    num_steps=st.integers(2, 50),
    min_noise_level=st.floats(0.01, 0.3),
    kappa=st.floats(0.5, 3.0),
    power=st.floats(0.2, 3.0),
)
def test_schedule_rises_from_its_start_to_its_end(
    num_steps: int, min_noise_level: float, kappa: float, power: float
) -> None:
    sqrt_etas = resshift.sqrt_eta_schedule(num_steps, min_noise_level=min_noise_level, kappa=kappa, power=power)
    assert len(sqrt_etas) == num_steps
    assert float(sqrt_etas[0]) == pytest.approx(min(min_noise_level / kappa, min_noise_level))
    assert float(sqrt_etas[-1]) == pytest.approx(0.99)
    assert bool((sqrt_etas.diff() > 0).all())


@pytest.mark.parametrize(
    ("num_steps", "settings", "named"),
    [
        (0, {}, "num_steps=0"),
        (4, {"min_noise_level": 0.0}, "min_noise_level=0.0"),
        (4, {"kappa": -1.0}, "kappa=-1.0"),
        (4, {"etas_end": 1.5}, "etas_end=1.5"),
        (4, {"power": 0.0}, "power=0.0"),
        (4, {"min_noise_level": 2.0}, "min_noise_level=2.0 starts at 1.0, above etas_end=0.99"),
    ],
)
def test_impossible_schedule_is_an_error_that_names_the_value(num_steps: int, settings: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        resshift.sqrt_eta_schedule(num_steps, **settings)


def test_one_step_is_a_schedule() -> None:
    tables = resshift.resshift_tables(resshift.sqrt_eta_schedule(1), 2.0)
    x0, y, noise = images(2, 3, 4, 4)
    x_t = resshift.prior_sample(y, noise, tables)
    assert torch.allclose(x_t, y + 1.98 * noise, atol=1e-6)
    assert torch.equal(resshift.posterior_step(x0, x_t, 0, noise, tables), x0)
    assert torch.allclose(resshift.deterministic_step(x0, x_t, y, 0, tables), x0)
    for name in tables.__dataclass_fields__:
        assert torch.isfinite(torch.as_tensor(getattr(tables, name))).all()
    for prediction_type in get_args(PredictionType):
        assert torch.isfinite(resshift.loss_weights(tables, prediction_type)).all()


# --- respacing ---------------------------------------------------------------------------------------------------


def test_reference_respacing_drops_the_last_step_and_trailing_keeps_it() -> None:
    assert resshift.respaced_timesteps(15, 5, "reference") == [0, 3, 6, 9, 12]
    assert resshift.respaced_timesteps(15, 5, "trailing") == [2, 5, 8, 11, 14]
    assert resshift.respaced_timesteps(15, 4, "reference") == [0, 3, 7, 11]
    assert resshift.respaced_timesteps(4, 2, "trailing") == [1, 3]


@settings(deadline=None)
@given(data=st.data(), total=st.integers(1, 60), respacing=st.sampled_from(["reference", "trailing"]))
def test_respacing_keeps_that_many_ascending_indices(data: st.DataObject, total: int, respacing: str) -> None:
    steps = data.draw(st.integers(1, total))
    kept = resshift.respaced_timesteps(total, steps, respacing)
    assert len(kept) == steps
    assert kept == sorted(set(kept))
    assert 0 <= kept[0] <= kept[-1] <= total - 1
    if steps in (1, total) or respacing == "trailing":
        assert kept[-1] == total - 1
    if steps == total:
        assert kept == list(range(total))


@pytest.mark.parametrize("steps", [0, 16])
def test_respacing_to_more_steps_than_there_are_is_an_error(steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_inference_steps={steps} must lie between 1 and the 15 steps"):
        resshift.respaced_timesteps(15, steps, "reference")


def test_unknown_respacing_is_an_error() -> None:
    with pytest.raises(ValueError, match="respacing='leading' is unknown; choose one of reference, trailing"):
        resshift.respaced_timesteps(15, 5, "leading")


# --- forward process ---------------------------------------------------------------------------------------------


def test_q_sample_at_the_last_step_is_nearly_y_plus_noise() -> None:
    tables = make_tables()
    x0, y, noise = images(1, 3, 8, 8)
    mean, variance = resshift.q_mean_variance(x0, y, 14, tables)
    assert torch.allclose(mean, 0.0199 * x0 + 0.9801 * y, atol=1e-6)
    assert torch.allclose(variance, torch.full_like(x0, 4 * 0.9801))
    assert torch.allclose(resshift.q_sample(x0, y, 14, noise, tables), mean + 1.98 * noise, atol=1e-6)


def test_q_sample_ends_at_y_when_eta_ends_at_one() -> None:
    tables = resshift.resshift_tables(resshift.sqrt_eta_schedule(4, etas_end=1.0), 2.0)
    x0, y, _ = images(1, 3, 8, 8)
    assert torch.allclose(resshift.q_sample(x0, y, 3, torch.zeros_like(y), tables), y, atol=1e-6)


def test_prior_has_mean_y_and_the_last_noise_level() -> None:
    y, noise = images(1, 3, 8, 8, count=2)
    assert torch.allclose(resshift.prior_sample(y, noise, make_tables()) - y, 2.0 * 0.99 * noise, atol=1e-6)


def test_every_sample_of_a_batch_has_its_own_step() -> None:
    tables = make_tables()
    x0, y, noise = images(3, 3, 4, 4)
    t = torch.tensor([0, 7, 14])
    together = resshift.q_sample(x0, y, t, noise, tables)
    one_by_one = [resshift.q_sample(x0[i : i + 1], y[i : i + 1], int(t[i]), noise[i : i + 1], tables) for i in range(3)]
    assert torch.equal(together, torch.cat(one_by_one))


def test_one_step_transitions_compose_to_the_marginal() -> None:
    """q(x_t | x_{t-1}) adds alpha_t (y - x_0) and noise of variance kappa^2 alpha_t."""
    tables = make_tables()
    assert torch.allclose(tables.alpha.cumsum(0), tables.etas, rtol=1e-12)
    x0, y, _ = images(1, 3, 4, 4)
    mean, variance = x0.double(), torch.zeros((), dtype=torch.float64)
    for t in range(len(tables)):
        mean = mean + tables.alpha[t] * (y - x0)
        variance = variance + tables.kappa**2 * tables.alpha[t]
        q_mean, q_variance = resshift.q_mean_variance(x0, y, t, tables)
        assert torch.allclose(q_mean.double(), mean, atol=1e-5)
        assert torch.allclose(q_variance.double(), variance, rtol=1e-5)


@pytest.mark.parametrize("t", [1, 7, 14])
def test_posterior_averaged_over_the_marginal_is_the_marginal_before(t: int) -> None:
    tables = make_tables()
    x0, y, _ = images(1, 3, 4, 4)
    mean_t, variance_t = resshift.q_mean_variance(x0, y, t, tables)
    mean_before, variance_before = resshift.q_mean_variance(x0, y, t - 1, tables)
    mean, variance, _ = resshift.q_posterior(x0, mean_t, t, tables)
    assert torch.allclose(mean, mean_before, atol=1e-5)
    total_variance = variance + float(tables.posterior_mean_coef1[t]) ** 2 * variance_t
    assert torch.allclose(total_variance, variance_before, rtol=1e-5)


# --- reverse process ---------------------------------------------------------------------------------------------


def test_posterior_variance_is_zero_at_first_step_and_clipped_to_the_next() -> None:
    tables = make_tables()
    assert tables.posterior_variance[0] == 0
    assert bool((tables.posterior_variance[1:] > 0).all())
    assert tables.posterior_variance_clipped[0] == tables.posterior_variance[1]
    assert torch.equal(tables.posterior_variance_clipped[1:], tables.posterior_variance[1:])


def test_posterior_coefficients_sum_to_one() -> None:
    tables = make_tables()
    assert torch.allclose(tables.posterior_mean_coef1 + tables.posterior_mean_coef2, torch.ones(15).double())


def test_posterior_step_adds_noise_everywhere_but_at_the_end() -> None:
    tables = make_tables()
    x0, x_t, noise = images(1, 3, 4, 4)
    assert torch.equal(resshift.posterior_step(x0, x_t, 0, noise, tables), x0)
    mean, variance, _ = resshift.q_posterior(x0, x_t, 5, tables)
    step = resshift.posterior_step(x0, x_t, 5, noise, tables)
    assert torch.allclose(step - mean, variance.sqrt() * noise, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "epsilon_scale"])
def test_predicted_x0_keeps_its_digits_where_almost_all_of_the_residual_is_shifted_in(
    prediction_type: PredictionType,
) -> None:
    tables = resshift.resshift_tables(resshift.sqrt_eta_schedule(4, etas_end=0.99995), 2.0)
    x_t, y, output = images(2, 3, 4, 4)
    eta, sqrt_eta = float(tables.etas[3]), float(tables.sqrt_etas[3])
    noise = output.double() * (2.0 * sqrt_eta if prediction_type == "epsilon" else 1.0)
    exact = (x_t.double() - noise - eta * y.double()) / (1 - eta)
    ours = resshift.predict_x0(output, x_t, y, 3, tables, prediction_type)
    assert (ours - exact).abs().max() <= 1e-6 * exact.abs().max()


@pytest.mark.parametrize("prediction_type", get_args(PredictionType))
@settings(max_examples=20, deadline=None)
@given(t=st.integers(0, 14), seed=st.integers(0, 2**16))
def test_predicted_x0_inverts_the_training_target(prediction_type: PredictionType, t: int, seed: int) -> None:
    tables = resshift.resshift_tables(resshift.sqrt_eta_schedule(15, etas_end=0.9), 2.0)
    x0, y, noise = images(2, 3, 4, 4, seed=seed)
    x_t = resshift.q_sample(x0, y, t, noise, tables)
    target = resshift.training_target(x0, y, noise, t, tables, prediction_type)
    # Noise predictions divide a float32 difference by 1 - eta_t.
    bound = 1e-5 * max(1.0, float(x_t.abs().max())) / float(1 - tables.etas[t])
    assert (resshift.predict_x0(target, x_t, y, t, tables, prediction_type) - x0).abs().max() <= bound
    noise_bound = 1e-5 / float(tables.sqrt_etas[t])
    assert (resshift.predict_eps(x0, x_t, y, t, tables) - noise).abs().max() <= noise_bound


@pytest.mark.parametrize("prediction_type", get_args(PredictionType))
def test_targets_have_their_meaning(prediction_type: PredictionType) -> None:
    tables = make_tables()
    x0, y, noise = images(2, 3, 4, 4)
    expected = {
        "xstart": x0,
        "residual": y - x0,
        "epsilon": noise,
        "epsilon_scale": 2.0 * 0.99 * noise,
    }[prediction_type]
    assert torch.allclose(resshift.training_target(x0, y, noise, 14, tables, prediction_type), expected)


def test_unknown_prediction_type_is_an_error() -> None:
    tables = make_tables()
    x0, y, noise = images(1, 3, 4, 4)
    with pytest.raises(ValueError, match="prediction_type='v' is unknown"):
        resshift.training_target(x0, y, noise, 0, tables, "v")
    with pytest.raises(ValueError, match="prediction_type='v' is unknown"):
        resshift.predict_x0(x0, y, noise, 0, tables, "v")
    with pytest.raises(ValueError, match="scaling='big' is unknown"):
        resshift.scale_input(x0, 0, tables, "big")


def test_scaled_input_has_unit_variance_when_x0_does() -> None:
    tables = make_tables()
    x0, noise = images(1, 1, 200, 200, count=2)
    for t in (0, 7, 14):
        scaled = resshift.scale_input(resshift.q_sample(x0, x0, t, noise, tables), t, tables)
        assert float(scaled.std()) == pytest.approx(1.0, abs=0.02)
        half = resshift.q_sample(0.5 * x0, 0.5 * x0, t, noise, tables)
        assert float(resshift.scale_input(half, t, tables, data_var=0.25).std()) == pytest.approx(1.0, abs=0.02)


def test_input_scalings_are_the_published_formulas() -> None:
    tables, x = make_tables(), torch.ones(1, 3, 2, 2)
    assert torch.allclose(resshift.scale_input(x, 14, tables, "latent"), x / 2.2181970, atol=1e-6)
    assert torch.allclose(resshift.scale_input(x, 14, tables, "pixel"), x / (1 + 3 * 1.98), atol=1e-6)
    assert torch.equal(resshift.scale_input(x, 14, tables, "none"), x)


# --- deterministic steps of SinSR --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(t=st.integers(1, 14), seed=st.integers(0, 2**16))
def test_deterministic_step_keeps_the_noise(t: int, seed: int) -> None:
    tables = make_tables()
    x0, y, noise = images(2, 3, 4, 4, seed=seed)
    stepped = resshift.deterministic_step(x0, resshift.q_sample(x0, y, t, noise, tables), y, t, tables)
    assert torch.allclose(stepped, resshift.q_sample(x0, y, t - 1, noise, tables), atol=1e-5)
    kept = resshift.predict_eps(x0, stepped, y, t - 1, tables)
    assert (kept - noise).abs().max() <= 1e-5 / float(tables.sqrt_etas[t - 1])


@settings(max_examples=30, deadline=None)
@given(t=st.integers(1, 14), seed=st.integers(0, 2**16))
def test_inverse_step_undoes_the_deterministic_step(t: int, seed: int) -> None:
    tables = make_tables()
    x0, x_t, y = images(2, 3, 4, 4, seed=seed)
    back = resshift.inverse_step(x0, resshift.deterministic_step(x0, x_t, y, t, tables), y, t, tables)
    assert torch.allclose(back, x_t, atol=2e-5)


def test_deterministic_step_ends_at_x0_and_has_no_inverse_there() -> None:
    tables = make_tables()
    x0, x_t, y = images(2, 3, 4, 4)
    assert torch.equal(resshift.deterministic_step(x0, x_t, y, 0, tables), x0)
    with pytest.raises(ValueError, match="t=0 has no inverse step; t runs from 1 to 14"):
        resshift.inverse_step(x0, x_t, y, 0, tables)


def test_deterministic_chain_follows_the_marginals_down_to_x0() -> None:
    tables = make_tables()
    x0, y, noise = images(2, 3, 4, 4)
    seen = []

    def denoise(x_t: Tensor, t: int) -> Tensor:
        seen.append(t)
        assert torch.allclose(x_t, resshift.q_sample(x0, y, t, noise, tables), atol=1e-5)
        return x0

    x_T = resshift.q_sample(x0, y, 14, noise, tables)
    assert torch.equal(resshift.deterministic_sample(denoise, x_T, y, tables), x0)
    assert seen == list(range(14, -1, -1))
