"""A run as one HTML page that needs nothing else."""

from collections.abc import Sequence

from resdiff.eval.harness.cells import ARROWS, NONE, WORDS, costs, gaps, of_images, tables, value_range
from resdiff.eval.harness.document import Document, FigureColumn
from resdiff.eval.harness.page import tradeoffs
from resdiff.eval.harness.page.gallery import HR, LR, Gallery
from resdiff.eval.harness.page.plots import shape
from resdiff.eval.harness.page.template import render_page

DISTORTION_DEFAULTS = ("psnr_y", "psnr_rgb", "lpips")
PERCEPTION_DEFAULTS = ("niqe", "clip_iqa")


def render(document: Document, gallery: Gallery) -> str:
    """Return the page. Every text of the run is escaped."""
    distortion, perception = (tradeoffs.shown(document, distortion=kind) for kind in (True, False))
    measured = tradeoffs.measured(document)
    state = _first_state(document, distortion, perception, measured)
    all_tables = tables(document)
    missing = gaps(all_tables, document.figures)
    by_image = of_images(document)
    sides = [LR, *(m.name for m in document.models), *([HR] if any(s.has_hr for s in document.sets) else [])]
    return render_page(
        "page",
        run=document,
        gallery=gallery,
        tables=all_tables,
        gaps=missing,
        gap_numbers={reason: i for i, reason in enumerate(missing, 1)},
        absent=NONE,
        costs=costs,
        distortion=distortion,
        perception=perception,
        measured=measured,
        planes=tradeoffs.perception_distortion(document),
        over_cost=tradeoffs.quality_cost(document),
        by_image=by_image,
        state=state,
        sides=sides,
        data={
            "state": state,
            "sets": [s.name for s in document.sets],
            "models": [m.name for m in document.models],
            "sides": sides,
            "figures": {f.name: {"label": f.label, "digits": f.digits} for f in by_image},
            "values": [row.values for row in gallery.rows],
        },
        arrows=ARROWS,
        words=WORDS,
        value_range=value_range,
        shape=shape,
    )


def _first_state(
    document: Document,
    distortion: Sequence[FigureColumn],
    perception: Sequence[FigureColumn],
    measured: Sequence[FigureColumn],
) -> dict[str, str]:
    """Return what the page shows when its address says nothing: the first model beside the last."""
    names = [m.name for m in document.models]
    return {
        "set": "all",
        "sort": "name",
        "minus": "",
        "order": "asc",
        "left": names[0] if len(names) > 1 else LR,
        "right": names[-1],
        "at": "50",
        "x": tradeoffs.chosen(distortion, *DISTORTION_DEFAULTS),
        "y": tradeoffs.chosen(perception, *PERCEPTION_DEFAULTS),
        "quality": tradeoffs.chosen(measured, *PERCEPTION_DEFAULTS, *DISTORTION_DEFAULTS),
    }
