"""The packaged recipes as the wire shows them."""

from __future__ import annotations

from crosskd.spec.presets import load_recipe, recipe_titles
from wire.jobs import Preset


def presets() -> list[Preset]:
    """Every recipe, by name."""
    found = []
    for name, title in sorted(recipe_titles().items()):
        spec = load_recipe(name)
        kind = "distill" if spec.get("teacher") is not None or spec.get("distill") is not None else "train"
        found.append(Preset(name=name, title=title, kind=kind, spec=spec))
    return found
