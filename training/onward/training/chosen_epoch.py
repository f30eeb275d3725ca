"""Which epoch of a run gives the weights to export, once the run is finished."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onward.training.recipe import Recipe
from onward.training.run_folder import REFIT, SELECTION, read_history, read_run


def chosen_epoch(run: Path) -> int | None:
    """Return the number of epochs of the exported weights; None if the run is not finished.

    Raises InputError if no epoch is complete yet, or a file of the run is damaged.
    """
    facts = read_run(run)
    options = Recipe.parse(facts["recipe"], f"{facts['recipe_name']}.toml").training
    curve = read_history(run)
    refitted = len(_of_fit(curve, REFIT))
    if facts["refit_epochs"] is not None:
        return int(facts["refit_epochs"]) if refitted == facts["refit_epochs"] else None
    selection = _of_fit(curve, SELECTION)
    validated = [line for line in selection if "validation" in line]
    chosen = (
        int(max(validated, key=lambda line: line["validation"][options.validation_metric])["epoch"])
        if validated
        else len(selection)
    )
    is_selected = len(selection) == facts["epochs"] or len(selection) - chosen >= options.patience
    if not is_selected or (options.refit and validated and refitted < chosen):
        return None
    return chosen


def _of_fit(curve: Sequence[dict[str, Any]], fit: str) -> list[dict[str, Any]]:
    return [line for line in curve if line["fit"] == fit]
