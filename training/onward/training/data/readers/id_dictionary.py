"""Numbers in place of ids: grouping, joining and sorting events by numbers takes a fraction of the time."""

from collections.abc import Sequence
from dataclasses import dataclass

import narwhals as nw
import polars as pl

from onward.training.data.readers.ids import has_spaces, id_faults, id_of_text


@dataclass
class Meanings:
    """What the text of each number stands for; index i is number i."""

    ids: pl.Series
    """The number of the id (UInt32), null if the text stands for a missing one."""
    stripped: pl.Series
    faults: pl.Series


class IdDictionary:
    """Numbers the distinct texts of ids as they are met, in any order; its memory grows with them."""

    def __init__(self) -> None:
        self._categories = pl.Categorical(pl.Categories.random("ids", physical=pl.UInt32))
        self._kept = pl.Series(dtype=self._categories)  # Polars forgets categories that no series has
        self._meanings: dict[tuple[str, ...] | None, Meanings] = {}

    def numbers(self, texts: pl.Expr) -> pl.Expr:
        """Return the numbers of texts (UInt32), null for null."""
        return texts.cast(self._categories).to_physical()

    def texts(self, numbers: pl.Expr) -> pl.Expr:
        """Return the texts of numbers (UInt32), null for null."""
        return numbers.cat.to(self._categories).cast(pl.String)

    def meanings(self, highest: int | None, nulls: Sequence[str] | None) -> Meanings:
        """Return the meaning of every number up to `highest`; each text is looked at once for equal `nulls`.

        None instead of `nulls`: texts are numbers of a typed column, which stand for themselves.
        """
        key = None if nulls is None else tuple(nulls)
        known = self._meanings.get(key)
        first, end = 0 if known is None else len(known.ids), 0 if highest is None else highest + 1
        if known is not None and end <= first:
            return known
        texts = pl.select(self.texts(pl.int_range(first, end, dtype=pl.UInt32)).alias("text"))
        found = self._look_at(texts, nulls)
        if known is not None:
            found = Meanings(
                known.ids.append(found.ids), known.stripped.append(found.stripped), known.faults.append(found.faults)
            )
        self._meanings[key] = found
        return found

    def _look_at(self, texts: pl.DataFrame, nulls: Sequence[str] | None) -> Meanings:
        text = nw.col("text")
        written = nw.from_native(texts)
        ids, spaces = (text, nw.lit(False)) if nulls is None else (id_of_text(text, nulls), has_spaces(text))
        read = written.select(ids.alias("id"), spaces.alias("stripped")).to_native()
        looked_at = read.select(self.numbers(pl.col("id")), "stripped", id_faults(pl.col("id")).alias("fault"))
        return Meanings(looked_at["id"], looked_at["stripped"], looked_at["fault"])
