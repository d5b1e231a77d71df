"""Conformance handlers without networks: kinds resshift/diffusion (tables and formulas) and resshift/chop (tiles)."""

from typing import Any

import torch
import torch.nn.functional as F
from case import Case
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.losses.diffusion import diffusion_mse
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.tiling import Box, Chop, boxes, tiled

TABLES = (
    "alpha",
    "etas",
    "etas_prev",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "posterior_variance_clipped",
    "sqrt_etas",
)
DIFFUSION_DEFAULTS: dict[str, Any] = {  # of the reference's `create_gaussian_diffusion`
    "sf": 4,
    "min_noise_level": 0.01,
    "steps": 1000,
    "kappa": 1,
    "etas_end": 0.99,
    "weighted_mse": False,
    "predict_type": "xstart",
    "timestep_respacing": None,
    "latent_flag": True,
}


def scheduler_of(config: dict[str, Any], *, cap_start: bool = False, deterministic: bool = False) -> ResShiftScheduler:
    """Build our scheduler from `create_gaussian_diffusion`'s arguments, set to the recorded number of steps."""
    if config["schedule_name"] != "exponential":
        raise ValueError(f"schedule_name is {config['schedule_name']}; only the exponential schedule exists")
    scheduler = ResShiftScheduler(
        num_train_timesteps=config["steps"],
        min_noise_level=config["min_noise_level"],
        etas_end=config["etas_end"],
        kappa=config["kappa"],
        power=config["schedule_kwargs"]["power"],
        cap_start=cap_start,
        prediction_type=config["predict_type"],
        input_scaling=input_scaling(config),
        respacing="reference",
        deterministic=deterministic,
    )
    scheduler.set_timesteps(config["timestep_respacing"] or config["steps"])
    return scheduler


def input_scaling(config: dict[str, Any]) -> resshift.InputScaling:
    """Translate the reference's two switches."""
    if not config["normalize_input"]:
        return "none"
    return "latent" if config["latent_flag"] else "pixel"


def enlarge(y: Tensor, sf: int) -> Tensor:
    """Upsample as the reference does before encoding: torch's bicubic, not antialiased, not clamped."""
    return y if sf == 1 else F.interpolate(y, scale_factor=sf, mode="bicubic")


def process(case: Case) -> dict[str, Tensor]:
    """Kind resshift/diffusion: every table and formula, the networks replaced by constants."""
    config, given = DIFFUSION_DEFAULTS | case.config, case.inputs
    scheduler = scheduler_of(config)
    tables, scaling = scheduler.tables, input_scaling(config)
    prediction_type, scale_factor = config["predict_type"], config["scale_factor"]
    t, output = given["t"], given["model_output"]

    out = {f"table/{name}": getattr(tables, name) for name in TABLES}
    timestep_map = scheduler.timesteps.flip(0)
    out["table/timestep_map"] = timestep_map
    out["table/weight_loss_mse"] = resshift.loss_weights(tables, prediction_type)

    # Forward process
    z_start = scale_factor * given["x_start"]
    z_y = scale_factor * enlarge(given["y"], config["sf"])
    x_t = resshift.q_sample(z_start, z_y, t, given["noise"], tables)
    scaled = resshift.scale_input(x_t, t, tables, scaling)
    prior = resshift.prior_sample(z_y, given["prior_noise"], tables)
    out |= {"z_start": z_start, "z_y": z_y, "q_sample": x_t, "scaled_input": scaled, "prior_sample": prior}
    out["q_mean"], out["q_variance"] = resshift.q_mean_variance(z_start, z_y, t, tables)
    out["decode_input_of_prior"] = prior / scale_factor

    # Reverse process
    mean, variance, log_variance = resshift.q_posterior(z_start, x_t, t, tables)
    out |= {"posterior_mean": mean, "posterior_variance": variance, "posterior_log_variance_clipped": log_variance}
    x0 = resshift.predict_x0(output, x_t, z_y, t, tables, prediction_type)
    out |= {"net_t": timestep_map[t], "net_input": scaled, "pred_xstart": x0, "pred_xstart_clip": x0.clamp(-1, 1)}
    out["p_mean"], out["p_variance"], out["p_log_variance"] = resshift.q_posterior(x0, x_t, t, tables)
    out["p_mean_clip"], _, _ = resshift.q_posterior(x0.clamp(-1, 1), x_t, t, tables)
    steps = zip(x0.split(1), x_t.split(1), t.tolist(), given["p_sample_noise"].split(1), strict=True)
    out["p_sample"] = torch.cat([resshift.posterior_step(a, b, i, noise, tables) for a, b, i, noise in steps])

    # Training
    target = resshift.training_target(z_start, z_y, given["noise"], t, tables, prediction_type)
    out["train_mse"] = diffusion_mse(output, target, t, tables, prediction_type, config["weighted_mse"])
    out |= {"train_z_t": x_t, "train_net_t": timestep_map[t], "train_net_input": scaled, "train_pred_zstart": x0}
    return out


def chop_operator(tiles: Tensor, scale: int) -> Tensor:
    """Stand in for a network: what the recorded cases did to each tile (their notes), position-dependent on purpose."""
    result = 0.5 * F.interpolate(tiles, scale_factor=scale, mode="nearest") + 0.1 * tiles.mean((-2, -1), keepdim=True)
    height, width = result.shape[-2:]
    return result + 0.05 * (torch.linspace(0, 1, height)[:, None] + 2 * torch.linspace(0, 1, width))


def chop(case: Case) -> dict[str, Tensor]:
    """Kind resshift/chop: where tiles lie, how many are processed at once, and their plain average."""
    config, x = case.config, case.inputs["x"]
    tiling, scale = Chop(config["pch_size"], config["stride"]), config["sf"]
    visited: list[Box] = []
    batch_sizes: list[int] = []

    def run(tiles: Tensor, where: list[Box]) -> Tensor:
        visited.extend(where)
        batch_sizes.append(len(tiles))
        return torch.cat([chop_operator(tile, scale) for tile in tiles.split(len(x))])

    y = tiled(run, x, tiling, scale, config["extra_bs"])
    count = torch.zeros_like(y)
    for box in boxes(*x.shape[-2:], tiling.size, tiling.step):
        box.crop(count, scale).add_(1)
    starts = torch.tensor([(box.top, box.left) for box in visited])
    return {"y": y, "count": count, "starts": starts, "batch_sizes": torch.tensor(batch_sizes)}
