"""The packaged recipes as the wire shows them."""

from __future__ import annotations

from crosskd.spec.presets import load_recipe, recipe_titles
from wire.jobs import Preset
from wire.kinds import kind_of


def presets() -> list[Preset]:
    """Every recipe, by name."""
    found = []
    for name, title in sorted(recipe_titles().items()):
        spec = load_recipe(name)
        found.append(Preset(name=name, title=title, kind=kind_of(spec), spec=spec))
    return found
