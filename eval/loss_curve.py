"""Table of a training run: its loss, speed and validation figures over time.

    python eval/loss_curve.py runs/x4 --rows 12

Reads `metrics.jsonl` of the run's folder. The loss of a row is the mean since the row before.
"""

import argparse
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

BLOCKS = " ▁▂▃▄▅▆▇█"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`. Raises ValueError when there is none."""
    path = run / "metrics.jsonl"
    if not path.is_file() or not path.read_text().strip():
        raise ValueError(f"{run} has no metrics.jsonl; pass the --output_dir of a training run")
    return [json.loads(line) for line in path.read_text().splitlines()]


def sparkline(values: list[float]) -> str:
    """Return one character a value, its height in proportion from the smallest to the largest."""
    low, high = min(values), max(values)
    return "".join(BLOCKS[1 + round(7 * (v - low) / ((high - low) or 1))] for v in values)


def table(lines: list[dict[str, Any]], rows: int) -> str:
    """Return Markdown: `rows` equal parts of the run, then the line of losses and the validations."""
    training = [line for line in lines if "loss" in line]
    if not training:
        raise ValueError("the run logged no loss; train longer or lower --logging_steps")
    edges = [round(i * len(training) / rows) for i in range(rows + 1)]
    parts = [training[a:b] for a, b in pairwise(edges) if b > a]
    losses = [statistics.fmean(line["loss"] for line in part) for part in parts]
    out = ["| step | minutes | loss | learning rate | images/s | data wait |", "|---|---|---|---|---|---|"]
    for part, loss in zip(parts, losses, strict=True):
        last, speed = part[-1], statistics.fmean(line["images_per_second"] for line in part)
        wait = statistics.fmean(line["data_wait"] for line in part)
        out.append(
            f"| {last['step']} | {last['minutes']:.1f} | {loss:.5f} | {last['lr']:.2g} | {speed:.1f} | {wait:.1%} |"
        )
    out += ["", f"loss `{sparkline(losses)}`"]
    validations = [line for line in lines if "loss" not in line]
    if validations:
        names = [name for name in validations[0] if name not in ("step", "minutes")]
        out += ["", f"| step | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        out += [f"| {line['step']} | {' | '.join(f'{line[name]:.4g}' for name in names)} |" for line in validations]
    return "\n".join(out)


def main(arguments: list[str] | None = None) -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output folder of a training run")
    parser.add_argument("--rows", type=int, default=12)
    args = parser.parse_args(arguments)
    try:
        print(table(read_metrics(args.run), max(1, args.rows)))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
