"""A script's settings: one frozen dataclass, filled from its defaults, a YAML recipe and the command line, in this order.

Every field is a flag `--<name>` and a key of the recipe; fields that are mappings (the networks' options) are keys of
the recipe only. `option` gives a field its default and its line of `--help`. The dataclass checks its values in
`__post_init__`, so that whatever is wrong is said in one line before anything is built.
"""

import argparse
import types
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from resdiff.names import remedy

Settings = TypeVar("Settings")


def option(default: Any = MISSING, help: str = "", **more: Any) -> Any:
    """Return a dataclass field with its line of `--help`; mutable defaults are copied.

    `alone` is what the flag means without a value.
    """
    metadata = {"help": help} | more
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse(
    settings: type[Settings], description: str, arguments: Sequence[str] | None, default_recipe: Path | None = None
) -> Settings:
    """Read the command line, and the recipe that `--recipe` names, into `settings`; None: without it, there is none.

    Leaves with exit code 2 and one line for unknown flags or keys, values of another type, missing required settings,
    and whatever `settings` itself refuses by ValueError.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: parser.exit(2, f"error: {one_line(message)}\n")  # type: ignore[method-assign]
    shown = "" if default_recipe is None else f" [{default_recipe.name}]"
    parser.add_argument("--recipe", type=Path, default=default_recipe, help=f"YAML of settings{shown}")
    hints = get_type_hints(settings)
    known = {item.name: item for item in fields(settings)}  # type: ignore[arg-type]
    try:
        usual = read_recipe(default_recipe, hints, given=set())
    except ValueError:  # said below, should it be the recipe that is used
        usual = {}
    for name, item in known.items():
        if not is_mapping(without_none(hints[name])):
            add_flag(parser, item, hints[name], usual.get(name, item.default))
    given = vars(parser.parse_args(arguments))
    recipe = given.pop("recipe")
    try:
        values = read_recipe(recipe, hints, given=set(given)) | given
        missing = [f"--{n}" for n, item in known.items() if n not in values and is_required(item)]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given")
        return settings(**values)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def is_required(item: Field) -> bool:
    """Whether a field has no default."""
    return item.default is MISSING and item.default_factory is MISSING


def is_mapping(hint: Any) -> bool:
    """Whether a field's type is a mapping, alone."""
    return get_origin(hint) is dict or hint is dict


def one_line(message: str) -> str:
    """Return a message of argparse in one line, without its "argument --x:" where the text names the flag itself."""
    text = " ".join(message.split())
    start, _, rest = text.partition(": ")
    return rest if start.startswith("argument --") and start.removeprefix("argument ") in rest else text


def add_flag(parser: argparse.ArgumentParser, item: Field, hint: Any, usual: Any) -> None:
    """Add the flag of one field, `usual` being its value without it; the namespace holds only flags that are given."""
    shown = "" if usual in (None, MISSING) else f" [{' '.join(map(str, usual)) if isinstance(usual, tuple) else usual}]"
    text = (item.metadata.get("help", "") + shown).replace("%", "%%")
    name, common = f"--{item.name}", {"default": argparse.SUPPRESS, "help": text}
    hint = without_none(hint)
    if hint is bool:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, **common)
    elif get_origin(hint) is tuple:
        parser.add_argument(name, type=converter(name, get_args(hint)[0]), nargs="+", action=AsTuple, **common)
    elif "alone" in item.metadata:
        parser.add_argument(name, nargs="?", const=item.metadata["alone"], **common)
    else:
        parser.add_argument(name, type=converter(name, hint), **common)


def without_none(hint: Any) -> Any:
    """Return X for `X | None`, every other type as it is."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if get_origin(hint) in (Union, types.UnionType) and len(kinds) == 1 else hint


class AsTuple(argparse.Action):
    """Store several values as a tuple, as the dataclass has them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def converter(name: str, hint: Any) -> Callable[[str], Any]:
    """Return the function that turns the text of a flag into a value of type `hint`."""

    def convert_text(text: str) -> Any:
        try:
            return convert(name, text, hint)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_text


def convert(name: str, value: Any, hint: Any) -> Any:
    """Return `value`, from YAML or as text, as the type `hint`. Raises ValueError in one line when it is none."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        kinds = get_args(hint)
        if value is None and type(None) in kinds:
            return None
        mapping = isinstance(value, dict)
        fitting = [kind for kind in kinds if kind is not type(None) and is_mapping(kind) == mapping]
        if len(fitting) == 1 and (len(kinds) == 2 or mapping or isinstance(value, str)):
            return convert(name, value, fitting[0])
    elif origin is Literal:
        value = "no" if value is False else value  # what YAML makes of a bare no
        if value in get_args(hint):
            return value
        raise ValueError(f"{name} {value} is unknown; choose {', '.join(map(str, get_args(hint)))}")
    elif origin is tuple:
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(convert(name, v, get_args(hint)[0]) for v in values)
    elif (is_mapping(hint) and isinstance(value, dict)) or (hint is bool and isinstance(value, bool)):
        return value
    elif hint is int and not isinstance(value, (bool, float)):
        try:
            return int(value)
        except (TypeError, ValueError):
            pass
    elif hint is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-5, without a point, as text
        except (TypeError, ValueError):
            pass
    elif hint in (str, Path) and isinstance(value, (str, Path)):
        return hint(value)
    raise ValueError(f"{name} is {value!r}; it must be {type_name(hint)}")


def type_name(hint: Any) -> str:
    """Return the name of a type as a user would say it."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(type_name(kind) for kind in get_args(hint) if kind is not type(None))
    if hint in (int, float, str, bool, Path):
        return {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}[hint]
    return "a mapping" if is_mapping(hint) else str(hint)


def read_recipe(path: Path | None, hints: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """Return the settings of a YAML file that the command line has not `given`, none without a file.

    Raises ValueError in one line for a file that is no YAML mapping, unknown keys and values of another type.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise ValueError(f"--recipe {path} does not exist")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--recipe {path} is not YAML: {' '.join(str(error).split())}") from None
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"--recipe {path} must hold a mapping of settings")
    for key in content:
        if key not in hints:
            raise ValueError(f"--recipe {path}: unknown key {key!r}; {remedy(str(key), hints)}")
    return {key: convert(key, value, hints[key]) for key, value in content.items() if key not in given}


def to_yaml(settings: Any, without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    """Write settings as a recipe that reads back to the same."""
    values = {item.name: plain(getattr(settings, item.name)) for item in fields(settings) if item.name not in without}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Return a value of a setting as YAML has it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value
