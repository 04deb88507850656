"""User-defined tables: a CSV or Parquet file in which one column is predicted from the others."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

from stabletrain.data.base import MAX_SEED, require_count, resolve_form
from stabletrain.data.tables.table_file import read_table, require_complete, require_target
from stabletrain.data.tables.tabular import STANDARDIZED, Tabular
from stabletrain.errors import RequestError, require_choice


@final
class Table(Tabular):
    r"""The columns of a CSV or Parquet file: one is the target, all others are features.

    Numbers are standardized by the mean and standard deviation of the training split alone, since initializations are
    derived for inputs of mean 0 and mean square 1 (LeCun et al. 1998, section 4.3); a column that is constant there
    becomes 0. Booleans become 0 and 1. Text and categories become one-hot over the sorted values of the whole file.

    The target of a regression is standardized in the same way. The outputs of an initialized network are near 0, so
    that with a target in dollars the first gradients would be proportional to its mean. Once standardized, predicting
    the mean gives a mean squared error of 1, and 1 - MSE is about R². To recover the original scale, compute
    y' · `target_std` + `target_mean`.

    Attributes:
        target: The column to predict.
        classes: Values of the target in sorted order, class 0 first; None for a regression.
        target_mean: What was subtracted from the target; 0 for a classification.
        target_std: What the target was divided by; 1 for a classification.

    Args:
        path: A file that ends in .csv (comma-separated, UTF-8, names in the first line) or .parquet.
        target: The column to predict.
        task: ``classification``, ``regression``, or ``auto``: a classification if the target is text, boolean, or
            integers with at most 20 distinct values.
        batch_size: Global batch size, from 1 to the size of the training set. 32 is the usual small batch
            (Masters and Luschi 2018).
        form: ``vector``; the same as ``auto``.
        val_fraction: Fraction of the rows used for validation, above 0.
        test_fraction: Fraction of the rows used for testing, above 0; the two fractions add up to less than 1.
        seed: Seed of the split, from 0 to 2³² - 1. The split is stratified where classes have enough rows; all rows of
            a class with fewer than three go to the training set.

    Raises:
        RequestError: The file or the target is missing or unusable, or an argument is out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = ["x,kind,y"] + [f"{i},{'ab'[i % 2]},{2 * i}.5" for i in range(100)]
        ...     _ = Path(folder, "line.csv").write_text("\n".join(lines))
        ...     table = Table(f"{folder}/line.csv", target="y")
        >>> table.task, table.num_inputs
        ('regression', 3)
    """

    name: ClassVar[str] = "table"
    forms: ClassVar[tuple[str, ...]] = ("vector",)

    def __init__(
        self,
        path: str | None = None,
        target: str | int | None = None,
        task: str = "auto",
        batch_size: int = 32,
        form: str = "auto",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        form = _resolve_form(form)
        seed = require_count("seed", seed, 0, MAX_SEED)
        require_choice("task", task, ["auto", "classification", "regression"])
        table = read_table(path)
        target = require_target(target, list(table.columns))
        require_complete(table, target)
        self._file = Path(str(path)).name
        super().__init__(
            table,
            target,
            task=task,
            batch_size=batch_size,
            form=form,
            fractions=(val_fraction, test_fraction),
            seed=seed,
        )

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return f"Column {self.target!r} of {self._file} ({self.num_rows} rows), {self._what} {STANDARDIZED}."


def _resolve_form(form: str) -> str:
    if form in ("sequence", "image"):  # requested by a family that takes these
        raise RequestError(
            f"The columns of a table have no order: its rows are vectors, and form={form} is not possible.",
            key="form",
            found=form,
            allowed="auto, vector",
            command="model=mlp",
        )
    return resolve_form(form, ["vector"])
