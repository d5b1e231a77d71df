"""Conformance handlers of the network metrics and of FID: kinds metrics/lpips, metrics/dists and metrics/fid.

Trunks are stored in the file or drawn from its seed. `mid/*` is compared here, because the scores of random networks
vary little between images: a handler raises ValueError that names the tensor.
"""

import math
from typing import Any

import numpy as np
import torch
from case import Case, check_mid
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
    for name, tensor in features.state_dict().items():
        if f"trunk_check/{name}" in case.mid:
            check_mid(case, f"trunk_check/{name}", tensor.flatten()[:4], 0.0)
    return features.eval()


def lpips(case: Case) -> dict[str, Tensor]:
    """Distance, its map, and the unweighted distance; the terms of the layers are checked."""
    trunk = TRUNKS[case.config["net"]]
    features = trunk_of(case, trunk)
    lins = [case.state[f"lin{k}.model.1.weight"] for k in range(len(trunk.taps))]
    scaled = case.config["version"] == "0.1"
    metric = LPIPS(features, trunk.taps, lins, scaled=scaled)
    unweighted = LPIPS(features, trunk.taps, [torch.ones_like(lin) for lin in lins], scaled=scaled)
    pair = case.inputs["image"], case.inputs["reference"]
    for k, term in enumerate(metric.terms(*pair).T):
        check_mid(case, f"layer_{k}", term, LIMIT)
    return {
        "distance": metric(*pair),
        "spatial_map": metric.spatial(*pair),
        "baseline_unweighted": unweighted(*pair),
    }


def dists(case: Case) -> dict[str, Tensor]:
    """Distance; the mean activations of the image are checked."""
    metric = DISTS(trunk_of(case, VGG), case.state["alpha"].flatten(), case.state["beta"].flatten()).eval()
    with torch.no_grad():
        for k, stage in enumerate(metric.stages(case.inputs["image"])):
            check_mid(case, f"feat_mean_{k}", stage.mean(dim=(2, 3)), LIMIT)
    return {"distance": metric(case.inputs["image"], case.inputs["reference"])}


def fid(case: Case) -> dict[str, Tensor]:
    """FID and KID of two sets; their moments, and FID of these, are checked."""
    a, b = case.inputs["features_a"], case.inputs["features_b"]
    (mu_a, sigma_a), (mu_b, sigma_b) = moments(a), moments(b)
    for name, ours in {"mu_a": mu_a, "mu_b": mu_b, "sigma_a": sigma_a, "sigma_b": sigma_b}.items():
        check_mid(case, name, ours, EXACT)
    distance, of_moments = frechet_distance(a, b), frechet_from_moments(mu_a, sigma_a, mu_b, sigma_b)
    if not abs(distance - of_moments) <= EXACT * distance:
        raise ValueError(f"FID of the features is {distance}, of their moments {of_moments}")
    return {"fid": distance[None], "kid_full_unbiased": kid(a, b)[None]}
