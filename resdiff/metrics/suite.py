"""The figures of a benchmark under one protocol: weights found and hashed once, `n/a` where there are none."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from resdiff.files.digest import sha256
from resdiff.metrics import inception
from resdiff.metrics.catalogue import figure
from resdiff.metrics.figures import Figure
from resdiff.metrics.frechet import frechet_distance, kid
from resdiff.metrics.measures import Images, Measure, Setting, build_measures, unit
from resdiff.metrics.protocols import Protocol
from resdiff.metrics.weights import MissingWeights, find_weights

OF_SETS = {
    "fid": ("Inception 2015-12-05, Pillow bicubic to 299 px, whole images", frechet_distance),
    "kid": ("Inception 2015-12-05, Pillow bicubic to 299 px, whole images, unbiased", kid),
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure as it is computed here: without this, the number cannot be compared."""

    figure: Figure  # `smallest` with the protocol's border
    variant: str = ""  # in words
    weights: dict[str, str]  # file name -> SHA-256
    missing: str | None = None  # why it cannot be computed


class Suite:
    """The figures called `names` under `protocol`.

    Args:
        names: of `resdiff.metrics.catalogue.FIGURES`.
        scale: output side over input side, of which some protocols make the border.
        weights_dir: a folder with the weights of all network metrics under their published names; None: the caches,
            then the publishers.
        skip_missing: a metric whose weights or package cannot be had gets a column without numbers.

    Raises:
        ValueError: an unknown or repeated name. MissingWeights (unless `skip_missing`), CheckpointError.
    """

    def __init__(
        self,
        names: Sequence[str],
        protocol: Protocol,
        *,
        scale: int,
        device: torch.device,
        weights_dir: Path | None = None,
        skip_missing: bool = False,
    ):
        if not names or len(set(names)) < len(names):
            raise ValueError(f"metrics are {', '.join(names) or 'none'}; name each once")
        self._figures = {name: figure(name) for name in names}
        self.device = device
        self._measures: list[Measure] = []
        self._embed: Callable[[Tensor], Tensor] | None = None
        setting = Setting(protocol, protocol.crop_border(scale), device, weights_dir)
        groups = [(group, partial(self._add_measure, build)) for group, build in build_measures(names, setting)]
        of_sets = [name for name in names if name in OF_SETS]
        if of_sets:
            groups.append((of_sets, partial(self._add_embedding, of_sets, weights_dir)))
        found: dict[str, Column] = {}
        for group, add in groups:
            try:
                found |= add()
            except MissingWeights as error:
                if not skip_missing:
                    raise
                found |= {n: Column(figure=self._figures[n], weights={}, missing=str(error)) for n in group}
        self.columns = {name: found[name] for name in names}

    @property
    def of_image(self) -> list[str]:
        """Names of the figures that every image has, and that can be computed."""
        return [n for n, column in self.columns.items() if column.missing is None and not column.figure.of_set]

    @property
    def of_set(self) -> list[str]:
        """Names of the figures that only a set has, and that can be computed."""
        return [n for n, column in self.columns.items() if column.missing is None and column.figure.of_set]

    def measure(self, images: Images, names: Iterable[str]) -> dict[str, float | None]:
        """Return the figures `names` of one image; None where one is not defined for it, or not finite."""
        values: dict[str, float | None] = dict.fromkeys(names)
        wanted = {name for name in values if images.has(self.columns[name].figure)}
        for measure in self._measures:
            if wanted & measure.variants.keys():
                for name, value in measure.run(images).items():
                    if name in wanted and math.isfinite(value.item()):
                        values[name] = value.item()
        return values

    def embed(self, image: Tensor) -> Tensor:
        """Return what the figures of a set are computed from, (D,) on the CPU, of one image (1, 1 or 3, H, W) uint8.

        Raises ValueError when the suite has no such figure.
        """
        if self._embed is None:
            raise ValueError("no figure of sets is computed; name fid or kid")
        return self._embed(unit(image.to(self.device)))[0].cpu()

    def measure_set(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return the figures of a set from what `embed` gives of its results and of its HR images, (N, D) each."""
        return {name: OF_SETS[name][1](sr, hr).item() for name in self.of_set}

    def _add_measure(self, build: Callable[[], Measure]) -> dict[str, Column]:
        measure = build()
        self._measures.append(measure)
        weights = {file.name: sha256(file) for file in measure.files}
        columns = {}
        for name, variant in measure.variants.items():
            own = self._figures[name]
            shorter, longer = (side + 2 * measure.border for side in own.smallest)
            columns[name] = Column(figure=replace(own, smallest=(shorter, longer)), variant=variant, weights=weights)
        return columns

    def _add_embedding(self, names: Sequence[str], weights_dir: Path | None) -> dict[str, Column]:
        file = find_weights(inception.WEIGHTS, weights_dir)
        self._embed = inception.load_inception(file).to(self.device)
        weights = {file.name: sha256(file)}
        return {n: Column(figure=self._figures[n], variant=OF_SETS[n][0], weights=weights) for n in names}
