"""Settings from defaults, a recipe and the command line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from resdiff.train.arguments import option, parse, to_yaml


@dataclass(frozen=True, kw_only=True)
class Options:
    """One of each kind."""

    folder: Path = option(help="where")
    steps: int = option(10, "how many")
    rate: float = option(1e-3, "how fast")
    name: str = option("x", "100 % of it")
    flip: bool = option(True, "both ways")
    kind: Literal["a", "b", "no"] = option("a", "which")
    sides: tuple[int, ...] = option((8,), "how large")
    weights: tuple[float, ...] | None = option(None, "how much")
    limit: int | None = option(None, "at most")
    network: dict[str, Any] = option({"width": 4}, "a section")
    preset: str | dict[str, Any] = option("p", "name or section")
    resume_from_checkpoint: str | None = option(None, "from where", alone="latest")

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"--steps {self.steps} must be\nat least 1")


@pytest.fixture
def read(tmp_path):
    """Parse a recipe's text and a command line."""

    def run(recipe: str, *flags: str) -> Options:
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe)
        return parse(Options, "description", [*flags], path)

    return run


@pytest.fixture
def error(read, capsys):
    """Return the one line that a recipe and a command line are refused with."""

    def run(recipe: str, *flags: str) -> str:
        with pytest.raises(SystemExit) as caught:
            read(recipe, *flags)
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n")
        return said

    return run


def test_the_command_line_wins_over_the_recipe_and_that_over_the_defaults(read) -> None:
    options = read("steps: 20\nrate: 0.5\nfolder: r", "--rate", "0.25", "--folder", "c")
    assert (options.steps, options.rate, options.folder, options.name) == (20, 0.25, Path("c"), "x")


def test_recipe_flag_names_another_file(read, tmp_path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("steps: 77")
    assert read("steps: 20", "--recipe", str(other), "--folder", "c").steps == 77


def test_every_kind_reads_from_yaml(read) -> None:
    options = read(
        "folder: f\nsteps: 3\nrate: 5e-5\nflip: false\nkind: b\nsides: [1, 2]\nweights: [1, 0.5]\nlimit: 4\n"
        "network: {depth: 2}\npreset: {_class_name: A}\n"
    )
    expected = Options(
        folder=Path("f"),
        steps=3,
        rate=5e-5,  # without a point, YAML has it as text
        flip=False,
        kind="b",
        sides=(1, 2),
        weights=(1.0, 0.5),
        limit=4,
        network={"depth": 2},
        preset={"_class_name": "A"},
    )
    assert options == expected
    assert [type(w) for w in options.weights] == [float, float]


def test_every_kind_reads_from_the_command_line(read) -> None:
    text = "--folder f --rate 5e-5 --no-flip --kind b --sides 1 2 --weights 1 0.5 --limit 4 --preset q"
    options = read("", *text.split())
    expected = Options(
        folder=Path("f"), rate=5e-5, flip=False, kind="b", sides=(1, 2), weights=(1.0, 0.5), limit=4, preset="q"
    )
    assert options == expected
    assert read("flip: false", "--folder", "f", "--flip").flip


def test_one_value_is_a_tuple_of_one(read) -> None:
    assert read("sides: 5\nfolder: f").sides == (5,)
    assert read("folder: f", "--sides", "5").sides == (5,)


def test_resume_alone_means_the_latest(read) -> None:
    assert read("folder: f").resume_from_checkpoint is None
    assert read("folder: f", "--resume_from_checkpoint").resume_from_checkpoint == "latest"
    assert read("folder: f", "--resume_from_checkpoint", "checkpoint-3").resume_from_checkpoint == "checkpoint-3"


def test_no_in_yaml_is_the_choice_of_that_name(read) -> None:
    assert read("kind: no\nfolder: f").kind == "no"  # YAML reads it as false


def test_defaults_that_are_mappings_are_not_shared() -> None:
    first, second = Options(folder=Path("f")), Options(folder=Path("f"))
    first.network["width"] = 5
    assert second.network == {"width": 4}


def test_settings_written_as_yaml_read_back_the_same(read, tmp_path) -> None:
    options = Options(folder=Path("ü"), kind="no", rate=5e-5, weights=(1.0, 2.0), preset={"a": [1, {"b": None}]})
    assert read(to_yaml(options)) == options
    text = to_yaml(options, without={"folder", "steps"})
    assert read(text, "--folder", "g") == replace(options, folder=Path("g"))


@pytest.mark.parametrize(
    ("recipe", "flags", "message"),
    [
        ("stepz: 1", [], "unknown key 'stepz'; did you mean 'steps'?"),
        ("zzzzzz: 1", [], "unknown key 'zzzzzz'"),
        ("1: 1", [], "unknown key 1"),
        ("steps: many", [], "steps is 'many'; it must be a whole number"),
        ("steps: 1.5", [], "steps is 1.5; it must be a whole number"),
        ("steps: true", [], "steps is True; it must be a whole number"),
        ("rate: fast", [], "rate is 'fast'; it must be a number"),
        ("flip: 1", [], "flip is 1; it must be true or false"),
        ("kind: c", [], "kind c is unknown; choose a, b, no"),
        ("sides: [1, x]", [], "sides is 'x'; it must be a whole number"),
        ("network: 3", [], "network is 3; it must be a mapping"),
        ("name: [a]", [], "name is ['a']; it must be text"),
        ("limit: x", [], "limit is 'x'; it must be a whole number"),
        ("- a", [], "must hold a mapping of settings"),
        ("a: b: c", [], "is not YAML"),
        ("", [], "--folder must be given"),
        ("steps: 0\nfolder: f", [], "--steps 0 must be at least 1"),
        ("", ["--folder", "f", "--stepz", "1"], "unrecognized arguments: --stepz"),
        ("", ["--folder", "f", "--kind", "c"], "--kind c is unknown; choose a, b, no"),
        ("", ["--folder", "f", "--steps", "x"], "it must be a whole number"),
        ("", ["--folder", "f", "--recipe", "missing.yaml"], "--recipe missing.yaml does not exist"),
    ],
)
def test_bad_settings_are_one_line_and_exit_code_2(error, recipe, flags, message) -> None:
    assert message in error(recipe, *flags)


def test_a_recipe_in_another_encoding_is_one_line(tmp_path, capsys) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(SystemExit):
        parse(Options, "", [], path)
    assert "is not YAML" in capsys.readouterr().err


def test_help_lists_flags_with_their_defaults(read, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        read("", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "how many [10]" in shown and "100 % of it [x]" in shown and "--no-flip" in shown
    assert "--network" not in shown  # a section is the recipe's alone
