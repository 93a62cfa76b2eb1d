"""`python -m crosskd.detectors.detr.field_table` writes the fields of the library's configurations: `fields.json`.

With them a `config.json` is judged without the library: what it leaves out has these values.
"""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from importlib.metadata import version
from typing import Any

from crosskd.spec.detr.folder_config import BACKBONES, FIELDS
from crosskd.spec.detr.types import LIBRARY, TYPES

_BASE = "PreTrainedConfig"


def fields_of(config: str) -> dict[str, Any]:
    """The fields of a configuration class of the library, those of all classes apart, with their defaults."""
    library = import_module(LIBRARY)
    of_all = {each.name for each in dataclasses.fields(getattr(library, _BASE))} - {"is_encoder_decoder"}
    found = {
        each.name: list(each.default) if isinstance(each.default, tuple) else each.default
        for each in dataclasses.fields(getattr(library, config))
        if each.name not in of_all and not each.name.startswith("_")
    }
    return {
        name: value for name, value in sorted(found.items()) if name not in ("backbone_config", "is_encoder_decoder")
    }


def all_fields() -> dict[str, dict[str, Any]]:
    told = {str(name): fields_of(TYPES[name].config) for name in TYPES}
    return {**told, **{name: fields_of(config) for name, config in BACKBONES.items()}}


def main() -> None:
    told = {LIBRARY: version(LIBRARY), "fields": all_fields()}
    FIELDS.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
