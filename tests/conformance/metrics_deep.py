"""Conformance handlers of the network metrics and of FID: kinds metrics/lpips, metrics/dists and metrics/fid.

Trunks are stored in the file or drawn from its seed. `mid/*` is compared here, because the scores of random networks
vary little between images: a handler raises ValueError that names the tensor.
"""

import math
from typing import Any

import numpy as np
import torch
from case import Case, check_mids
from torch import Tensor

from resdiff.checkpoints.io import load_strictly
from resdiff.metrics.dists import DISTS
from resdiff.metrics.frechet import frechet_distance, frechet_from_moments, kid, moments
from resdiff.metrics.lpips import LPIPS, TRUNKS
from resdiff.metrics.trunks import VGG, Features, Trunk

LIMIT = 1e-6  # of float32, relative to max(1, max|recorded|)
EXACT = 1e-11  # of float64


def seeded(features: Features, recipe: dict[str, Any]) -> dict[str, Tensor]:
    """Draw the weights of a trunk as its `trunk_recipe` says."""
    random = np.random.RandomState(recipe["seed"])
    state = {}
    for name, tensor in features.state_dict().items():
        shape = tuple(tensor.shape)
        values = random.standard_normal(shape)
        is_weight = name.endswith("weight")
        state[name] = torch.from_numpy(values * (math.sqrt(2 / math.prod(shape[1:])) if is_weight else 0.05)).float()
        if recipe.get("round_to_half"):
            state[name] = state[name].half().float()
    return state


def trunk_of(case: Case, trunk: Trunk) -> Features:
    """Return a trunk with the stored weights of the case, else with those of its seed."""
    with torch.device("meta"):
        features = Features(*trunk.build(weights=None).features[: trunk.taps[-1] + 1])
    state = {k.removeprefix("features."): v for k, v in case.state.items() if k.startswith("features.")}
    load_strictly(features, state or seeded(features, case.config["trunk_recipe"]))
    check_mids(case, {f"trunk_check/{n}": tensor.flatten()[:4] for n, tensor in features.state_dict().items()}, 0.0)
    return features.eval()


def lpips(case: Case) -> dict[str, Tensor]:
    """Distance, its map, and the unweighted distance; the terms of the layers are checked."""
    trunk = TRUNKS[case.config["net"]]
    features = trunk_of(case, trunk)
    lins = [case.state[f"lin{k}.model.1.weight"] for k in range(len(trunk.taps))]
    scaled = case.config["version"] == "0.1"
    metric = LPIPS(features, trunk, lins, scaled=scaled)
    unweighted = LPIPS(features, trunk, [torch.ones_like(lin) for lin in lins], scaled=scaled)
    pair = case.inputs["image"], case.inputs["reference"]
    check_mids(case, {f"layer_{k}": term for k, term in enumerate(metric.terms(*pair).T)}, LIMIT)
    found = {"distance": metric, "spatial_map": metric.spatial, "baseline_unweighted": unweighted}
    return {name: function(*pair) for name, function in found.items() if name in case.expected}


def dists(case: Case) -> dict[str, Tensor]:
    """Distance; the mean activations of the image are checked."""
    metric = DISTS(trunk_of(case, VGG), case.state["alpha"].flatten(), case.state["beta"].flatten()).eval()
    with torch.no_grad():
        stages = enumerate(metric.stages(case.inputs["image"]))
        check_mids(case, {f"feat_mean_{k}": stage.mean(dim=(2, 3)) for k, stage in stages}, LIMIT)
    return {"distance": metric(case.inputs["image"], case.inputs["reference"])}


def fid(case: Case) -> dict[str, Tensor]:
    """FID and KID of two sets; their moments, and FID of these, are checked."""
    a, b = case.inputs["features_a"], case.inputs["features_b"]
    (mu_a, sigma_a), (mu_b, sigma_b) = moments(a), moments(b)
    check_mids(case, {"mu_a": mu_a, "mu_b": mu_b, "sigma_a": sigma_a, "sigma_b": sigma_b}, EXACT)
    distance, of_moments = frechet_distance(a, b), frechet_from_moments(mu_a, sigma_a, mu_b, sigma_b)
    size = distance + sigma_a.trace() + sigma_b.trace()  # what cancels where the sets are nearly equal
    if not abs(distance - of_moments) <= EXACT * size:
        raise ValueError(f"FID of the features is {distance}, of their moments {of_moments}")
    found = {"fid": distance, "kid_full_unbiased": kid(a, b)}
    return {name: value[None] for name, value in found.items() if name in case.expected}
