"""The published degradations by name, and degradations as YAML.

`PRESETS` is the whole list: a name there is a constant of the family's file, where its numbers and source stand. Any
other degradation is a mapping whose `_class_name` is the class and whose other keys are its fields:

    _class_name: Face
    sigma: [0.1, 10.0]
    reduction: [1.0, 8.0]
    noise: [0.0, 15.0]
    jpeg: [60.0, 95.0]

`to_yaml` writes every field of a degradation, so that a saved training configuration says all its numbers.
"""

import dataclasses
import typing
from collections.abc import Mapping

import yaml

from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.bicubic import Bicubic
from resdiff.data.degradation.bsrgan import BSRGAN, BSRGAN_PLUS
from resdiff.data.degradation.face import CODEFORMER, GFPGAN, RESSHIFT_FACE, Face
from resdiff.data.degradation.light import LIGHT, Light
from resdiff.data.degradation.realesrgan import RealESRGAN
from resdiff.data.degradation.realesrgan_presets import (
    DIFFBIR,
    REALESRGAN,
    RESSHIFT,
    RESSHIFT_TEST,
    SEESR,
    SEESR_YAML,
    STABLESR,
)
from resdiff.names import remedy

PRESETS: dict[str, Degradation] = {
    "realesrgan": REALESRGAN,
    "resshift": RESSHIFT,
    "resshift-test": RESSHIFT_TEST,
    "stablesr": STABLESR,
    "seesr": SEESR,
    "seesr-yaml": SEESR_YAML,
    "diffbir": DIFFBIR,
    "bsrgan": BSRGAN_PLUS,
    "bicubic-matlab": Bicubic(kernel="matlab"),
    "bicubic-matlab-legacy": Bicubic(kernel="matlab_legacy"),
    "bicubic-pil": Bicubic(kernel="pil"),
    "bicubic-torch": Bicubic(kernel="torch"),
    "face-gfpgan": GFPGAN,
    "face-codeformer": CODEFORMER,
    "face-resshift": RESSHIFT_FACE,
    "light": LIGHT,
}

CLASSES: dict[str, type[Degradation]] = {c.__name__: c for c in (RealESRGAN, BSRGAN, Bicubic, Face, Light)}


def preset(name: str) -> Degradation:
    """Return the degradation of that name in `PRESETS`.

    Raises:
        ValueError: no such name; the message says the nearest one, or all.
    """
    if name not in PRESETS:
        raise ValueError(f"degradation {name!r} is unknown, {remedy(name, PRESETS)}")
    return PRESETS[name]


def to_yaml(degradation: Degradation) -> str:
    """Write a degradation with all its fields; `from_yaml` reads an equal one back."""
    fields = dataclasses.asdict(degradation)  # type: ignore[call-overload]
    content = {"_class_name": type(degradation).__name__, **fields}
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120)


def from_yaml(source: str | Mapping[str, object]) -> Degradation:
    """Build a degradation from YAML text, or from the mapping such text holds.

    Fields left out keep the class's default.

    Raises:
        ValueError: in one line: not YAML, no mapping, no or an unknown `_class_name`, an unknown or missing key, a
            value of another type than the field's, or what the class itself refuses.
    """
    content: object = source
    if isinstance(source, str):
        try:
            content = yaml.safe_load(source)
        except yaml.YAMLError as error:
            raise ValueError(f"degradation is not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"degradation is {content!r}, give a mapping with a _class_name and its fields")
    if "_class_name" not in content:
        raise ValueError(f"degradation has no _class_name, add one of {', '.join(CLASSES)}")
    name = content["_class_name"]
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"_class_name is {name!r}, {remedy(str(name), CLASSES)}")
    return _build(CLASSES[name], {key: value for key, value in content.items() if key != "_class_name"}, name)


def _build(cls: type, fields: Mapping[str, object], where: str):
    """Construct a dataclass from a mapping, its values read as the fields' annotated types."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in fields:
        if key not in known:
            raise ValueError(f"{where} has no field {key!r}, {remedy(str(key), known)}")
    for name, field in known.items():
        if name not in fields and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{name} is missing, give a value of type {_named(hints[name])}")
    return cls(**{key: _read(value, hints[key], f"{where}.{key}") for key, value in fields.items()})


def _read(value: object, hint: typing.Any, where: str) -> object:
    """Return `value` as the annotated type; whole numbers pass as float, lists as tuple, mappings as dataclass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _build(typing.cast(type, hint), value, where)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(items) == len(value):
            return tuple(_read(v, item, f"{where}[{i}]") for i, (v, item) in enumerate(zip(value, items, strict=True)))
    if hint is float and type(value) in (int, float):
        return float(typing.cast(float, value))
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r}, give a value of type {_named(hint)}")


def _named(hint: typing.Any) -> str:
    """Return a type as one writes it: float, tuple[float, float], 'a' | 'b'."""
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(a) for a in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


class _Dumper(yaml.SafeDumper):
    """One line for each field, also where no field holds a list."""

    def represent_mapping(self, tag, mapping, flow_style=None):
        return super().represent_mapping(tag, mapping, flow_style=False)
