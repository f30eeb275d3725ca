"""The recipes for benchmarks of all models: those that follow the papers."""

from onward.training.models import MODELS
from onward.training.recipe import RECIPES


def paper_recipes() -> list[str]:
    """Return the names of each model's paper recipes, or of its general recipe if it has none."""
    names: list[str] = []
    for model in MODELS:
        names += sorted(path.stem for path in RECIPES.glob(f"{model}-*-paper.toml")) or [model]
    return names
