"""Measure what each word that a model knows does to its pictures, and write it into the model's card.

    python eval/vocabulary.py --data DATA/set14 DATA/bsd100 --limit 6 --out runs/vocabulary
    python eval/vocabulary.py ... --card resdiff/weights/resdiff-small/README.md

For every known prompt the attributes of the result (`resdiff.data.attributes`: detail, grain, contrast, texture) against
those of the result without a prompt. Writes OUT/words.md, the card's section "Words", and with --card puts it in the place
of that card's own. Figures are kept in OUT/vocabulary.json as they come: started again, the command goes on.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from torch import Tensor

from resdiff.data.attributes import ATTRIBUTES, attributes
from resdiff.eval.harness.testsets import open_testsets
from resdiff.eval.promises.part import Measurement, Work, mean, measured
from resdiff.eval.promises.pictures import SCALE, Enlarger, Meaning, Pair, Place
from resdiff.pipelines import SRPipeline
from resdiff.runs.launcher import run_script
from resdiff.train.card_of_words import HEADING, card_of_words, known_prompts


def measure(pair: Pair, enlarge: Enlarger, prompts: tuple[str, ...]) -> dict[str, float]:
    """Return for one image the logarithms of its attributes with each prompt over those without, as `<name> <prompt>`."""
    flat, plain = _unit(pair.hr), _unit(enlarge(pair.lr, prompt=""))
    of_meanings: dict[Meaning, list[float]] = {}
    found: dict[str, float] = {}
    for prompt in prompts:
        meaning = enlarge.meaning(prompt)
        if meaning not in of_meanings:
            changed = _unit(enlarge(pair.lr, prompt=prompt))
            of_meanings[meaning] = attributes(changed, plain, flat=flat)[0].tolist()
        found |= {f"{name} {prompt}": value for name, value in zip(ATTRIBUTES, of_meanings[meaning], strict=True)}
    return found


def section_replaced(card: str, section: str) -> str:
    """Return a card with its section about words, from its heading to the next of that rank or the end, exchanged."""
    before, found, rest = f"\n{card}".partition(f"\n{HEADING}\n")
    _, following, after = rest.partition("\n## ")
    kept = before.removeprefix("\n").rstrip()
    return f"{kept}\n\n{section.rstrip()}\n" + (f"\n## {after}" if found and following else "")


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="pairs of LR and HR, see eval/README.md"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", help="default: the bundled model")
    parser.add_argument("--card", type=Path, metavar="FILE", help="a model card in Markdown, whose section is replaced")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=2, help="processes")
    parser.add_argument("--num_threads", type=int, default=1, help="of torch, in each of several processes")
    args = parser.parse_args(input_args)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit} must be at least 1")
    if args.card is not None and not args.card.is_file():
        parser.error(f"--card {args.card} is no file; give the card of the model, or leave it out")
    return args


def main(args: argparse.Namespace) -> None:
    """Measure, and write the section."""
    testsets = open_testsets(args.data, SCALE)
    places = [Place(testset.name, sample) for testset in testsets for sample in testset.samples[: args.limit]]
    encoder = SRPipeline.from_pretrained(args.model).components.get("text_encoder")
    if encoder is None:
        raise ValueError("the model has no text encoder; train/prompts.py trains one")
    prompts = tuple(known_prompts(encoder))
    args.out.mkdir(parents=True, exist_ok=True)
    vocabulary = Measurement("vocabulary", "Vocabulary", partial(measure, prompts=prompts))
    work = Work(args.model, args.seed, args.num_workers, args.num_threads)
    sets = measured(vocabulary, places, work, args.out / "vocabulary.json")
    images = [figures for own in sets.values() for figures in own]
    effects = {prompt: [mean(images, f"{name} {prompt}") for name in ATTRIBUTES] for prompt in prompts}
    counts = [f"{len(own)} of {name}" for name, own in sets.items()]
    section = card_of_words(encoder, effects, f"{' and '.join(counts)} images")
    (args.out / "words.md").write_text(section)
    if args.card is not None:
        args.card.write_text(section_replaced(args.card.read_text(), section))
    print(section)


def _unit(image: Tensor) -> Tensor:
    """uint8 (C, H, W), grey or coloured -> (1, 3, H, W) in [0, 1]."""
    return (image.float() / 255).expand(3, -1, -1)[None]


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args()), "interrupted; the same command goes on where it stopped"))
