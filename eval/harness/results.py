"""Finished images that other tools have made for a test set."""

from pathlib import Path

from resdiff.eval.harness.images import image_size
from resdiff.eval.harness.testsets import TestSet, distinct, find_images, restored_size, some, without_ending
from resdiff.files.formats import printable


def find_results(folder: Path, testset: TestSet) -> dict[str, Path]:
    """Return the results of another tool for `testset`, by sample name, from folder/<set name> or `folder` itself.

    A result has the stem of the LR or HR image, or one that differs from it by an ending as partners may.

    Raises:
        ValueError: no such folder, results missing, two for one image, unreadable or of another size than HR (than
            `scale` times LR, without HR); one line with the files.
    """
    if not folder.is_dir():
        raise ValueError(f"results folder {printable(folder)} does not exist; check the path")
    own = folder / testset.name
    folder = own if own.is_dir() else folder
    images = find_images(folder)
    endless = distinct((without_ending(stem), path) for stem, path in images.items())
    found: dict[str, Path] = {}
    for sample in testset.samples:
        stems = [sample.name] if sample.hr is None else [sample.name, sample.hr.stem]
        path = next((images[stem] for stem in stems if stem in images), endless.get(without_ending(sample.name)))
        if path is not None:
            found[sample.name] = path
    if missing := [sample.name for sample in testset.samples if sample.name not in found]:
        raise ValueError(
            f"results folder {printable(folder)} lacks {len(missing)} of the {len(testset.samples)} images of "
            f"{testset.name}: {some(missing)}; run that tool on all of them, and keep the images' names"
        )
    wrong = []
    for sample in testset.samples:
        height, width = image_size(found[sample.name])
        if (height, width) != (expected := restored_size(sample, testset.scale)):
            wrong.append(f"{found[sample.name].name} ({width}x{height}, not {expected[1]}x{expected[0]})")
    if wrong:
        raise ValueError(
            f"{len(wrong)} of the {len(found)} results in {printable(folder)} have another size than the set's images: "
            f"{some(wrong)}; give results of x{testset.scale} without resizing or cropping"
        )
    return found
