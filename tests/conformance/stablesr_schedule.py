"""Conformance handlers of StableSR without networks: kinds stablesr/schedule, canvas, gaussian_weights and image_tiles."""

import re
from typing import Any

import torch
from case import Case
from seesr import weights
from torch import Tensor

from resdiff.diffusion.gaussian import ddim_step, posterior, velocity
from resdiff.diffusion.spaced import ddim_timesteps, scaled_linear_betas
from resdiff.schedulers.ddpm import LEAST_VARIANCE
from resdiff.schedulers.spaced import SpacedDDIMScheduler, SpacedDDPMScheduler
from resdiff.tiling import Box, Gaussian, boxes, starts, tiled

ONE, ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)


def ddpm_tables(levels: Tensor) -> dict[str, Tensor]:
    """Return the reference's buffers of a chain of levels, see `resdiff.diffusion.spaced`; all float32."""
    now, before = levels[1:], levels[:-1]
    of_x0, variance = posterior(ONE, ZERO, now, before)
    of_x_t, _ = posterior(ZERO, ONE, now, before)
    tables = {
        "betas": 1 - now / before,
        "alphas_cumprod": now,
        "alphas_cumprod_prev": before,
        "posterior_mean_coef1": of_x0,
        "posterior_mean_coef2": of_x_t,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=LEAST_VARIANCE).log(),
        "sqrt_alphas_cumprod": now.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - now).sqrt(),
        "sqrt_recip_alphas_cumprod": now.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / now - 1).sqrt(),
    }
    return {name: table.float() for name, table in tables.items()}


def ddim_tables(levels: Tensor) -> dict[str, Tensor]:
    """Return the reference's buffers of a published DDIM, at eta = 1."""
    now, before = levels[1:], levels[:-1]
    _, variance = ddim_step(ONE, ZERO, now, before, eta=1.0)
    return {
        "ddim_alphas": now.float(),
        "ddim_alphas_prev": before.float(),
        "ddim_sigmas_eta1": variance.sqrt().float(),
    }


def schedule(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/schedule: the tables of both samplers, the forward process and the target of v-prediction."""
    levels: dict[str, Any] = {"beta_start": case.config["linear_start"], "beta_end": case.config["linear_end"]}
    ddpm = SpacedDDPMScheduler(**levels, published=True)
    ddim = SpacedDDIMScheduler(**levels, published=True)
    out = {f"base.{name}": table for name, table in ddpm_tables(ddpm.alpha_bars).items()}
    out["base.betas_float64"] = scaled_linear_betas(**levels)
    x0, noise, t = (case.inputs[name] for name in ("x_start", "noise", "t"))
    alpha_bar = torch.stack([ddpm.alpha_bar(i) for i in t]).float()[:, None, None, None]
    out |= {"q_sample": ddpm.add_noise(x0, noise, t), "v_target": velocity(x0, noise, alpha_bar)}
    for steps in case.config["steps"]:
        ddpm.set_timesteps(steps)
        ddim.set_timesteps(steps)
        out |= {f"respaced_{steps}.{name}": table for name, table in ddpm_tables(ddpm.alpha_bars).items()}
        out[f"respaced_{steps}.timesteps"] = ddpm.timesteps.flip(0)
        if f"ddim_{steps}.alpha_timesteps" in case.expected:
            out |= {f"ddim_{steps}.{name}": table for name, table in ddim_tables(ddim.alpha_bars).items()}
            out[f"ddim_{steps}.alpha_timesteps"] = torch.tensor(ddim_timesteps(steps))
    return out


def ramps(x: Tensor, across: float, down: float) -> Tensor:
    """Return a plane that tells where in a tile (..., h, w) a pixel lies: from -1 to 1 times these factors."""
    height, width = x.shape[-2:]
    return across * torch.linspace(-1, 1, width) + down * torch.linspace(-1, 1, height)[:, None]


def canvas(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/canvas: predictions of an operator on tiles of the latents, and the step of DDPM made of them."""
    config, x, cond = case.config, case.inputs["x"], case.inputs["cond"]
    scheduler = SpacedDDPMScheduler(published=True)
    scheduler.set_timesteps(config["steps"])
    t = int(scheduler.timesteps.flip(0)[config["respaced_index"]])
    if t != config["t_model"]:
        raise ValueError(f"the network sees t = {t}, recorded {config['t_model']}")
    tiling = Gaussian(config["tile_size"], config["tile_overlap"], published=True)
    visited: list[Box] = []

    def operator(tiles: Tensor, where: list[Box]) -> Tensor:
        visited.extend(where)
        conditions = torch.cat([box.crop(cond) for box in where])
        return 0.5 * tiles.tanh() + 0.25 * conditions + ramps(tiles, 0.1, 0.05) + 1e-4 * t

    eps = tiled(operator, x, tiling)
    found = [starts(side, tiling.size, tiling.step) for side in (x.shape[-1], x.shape[-2])]
    if found != [config["x_starts"], config["y_starts"]] or len(visited) != config["calls"]:
        raise ValueError(f"{len(visited)} tiles begin at x, y = {found}, not where the recorded ones do")
    step = scheduler.step(eps, t, x, variance_noise=torch.zeros_like(x))
    return {
        "eps_aggregated": eps,
        "gaussian_weights": weights(tiling.size, tiling.size).expand(case.expected["gaussian_weights"].shape),
        "pred_x0": step.pred_original_sample,
        "posterior_mean": step.prev_sample,
    }


def gaussian_weights(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/gaussian_weights: `w<W>_h<H>`, rows are y."""
    sizes = {name: re.fullmatch(r"w(\d+)_h(\d+)", name) for name in case.expected}
    return {name: weights(int(size[2]), int(size[1])) for name, size in sizes.items() if size}


def image_tiles(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/image_tiles: an operator on pixel windows, blended. The recorded windows go down, ours across."""
    config, image = case.config, case.inputs["image"]
    size, stride = config["pch_size"], config["stride"]
    where = boxes(*image.shape[-2:], size, stride)
    windows = {(box.top, box.top + box.height, box.left, box.left + box.width) for box in where}
    recorded = {tuple(window) for window in config["windows_h0h1w0w1"]}
    if windows != recorded:
        raise ValueError(f"windows {sorted(windows ^ recorded)} are only ours or only recorded")
    gathered = tiled(
        lambda tiles, _: tiles.tanh() + ramps(tiles, 0.1, 0.05), image, Gaussian(size, size - stride, published=True)
    )
    return {"gathered": gathered, "weight": weights(where[0].height, where[0].width)}
