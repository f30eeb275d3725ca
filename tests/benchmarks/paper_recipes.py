"""The recipes that a benchmark of all models takes: those of the papers."""

from onward.training.models import MODELS
from onward.training.recipe import RECIPES


def paper_recipes() -> list[str]:
    """Names of the faithful recipes of every model of MODELS, or of its general one where there is none."""
    names: list[str] = []
    for model in MODELS:
        names += sorted(path.stem for path in RECIPES.glob(f"{model}-*-paper.toml")) or [model]
    return names
