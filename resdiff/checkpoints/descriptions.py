"""The JSON files of a saved pipeline, read with one clear line for whatever is wrong with them. Does not import torch."""

import json
from pathlib import Path
from typing import Any


def pipeline_description(folder: Path) -> dict[str, Any]:
    """Return what `model_index.json` of a folder says; raises ValueError, one line, if it is missing or damaged."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"{folder} holds no model_index.json; pass a folder written by save_pretrained or resdiff convert"
        )
    return json_object(index)


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a saved pipeline; raises ValueError, one line, if it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); copy or write the folder again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object but a {type(content).__name__}; copy or write the folder again")
    return content
