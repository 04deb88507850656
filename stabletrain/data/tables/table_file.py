"""Reading and checking a CSV or Parquet file, with an explanation of each possible mistake."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stabletrain.errors import RequestError, closest_name

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".parquet")
ALLOWED = "a CSV or Parquet file"
LARGEST = float(np.finfo(np.float32).max)
USUAL_TARGETS = ("target", "label", "class", "y")
MAX_LISTED = 20  # columns listed in an error


def read_table(path: str | None) -> pd.DataFrame:
    """Read a table whose first line names its columns.

    Args:
        path: A file that ends in .csv (comma-separated, UTF-8) or .parquet.

    Raises:
        RequestError: The file does not exist, cannot be read or is empty, or a column has no name.
    """
    file = require_table_path(path)
    table = _read(file)
    table.columns = table.columns.map(str)
    unnamed = [name for name in table.columns if not name.strip() or name.startswith("Unnamed: ")]
    if unnamed:  # usually the row number, which leaks the target of a sorted file
        raise _wrong_file(
            "A column of the file has no name; a row number is not a feature.",
            f"{file} with {len(unnamed)} unnamed of {len(table.columns)} columns",
            "a name for every column (pandas: to_csv(..., index=False))",
        )
    if table.empty:
        raise _wrong_file("The file has no rows.", file, f"{ALLOWED} with a line of names and rows")
    if len(table.columns) < 2:
        raise _wrong_file(
            "The file has a single column: there is no feature to predict a target from.",
            f"{file} with the column {table.columns[0]!r}",
            "two or more columns; in CSV, separated by commas",
        )
    return table


def require_table_path(path: str | None) -> Path:
    """Return the path of an existing CSV or Parquet file; raise RequestError with the closest one otherwise."""
    if path is None or not str(path).strip():
        found = "null" if path is None else ""
        raise _wrong_file("No path of a table is given.", found, ALLOWED, _closest_file(Path(".")))
    file = Path(str(path)).expanduser()  # YAML reads a name of digits as a number
    if file.is_dir():
        raise _wrong_file("The path is a folder.", path, ALLOWED, _closest_file(file))
    if not file.exists():
        raise _wrong_file("There is no such file.", path, ALLOWED, _closest_file(file))
    if file.suffix.lower() not in ENDINGS:
        allowed = f"{ALLOWED}, with the extension {' or '.join(ENDINGS)}"
        raise _wrong_file("The file has an unsupported extension.", path, allowed, _closest_file(file))
    return file


def require_target(target: str | int | None, columns: list[str]) -> str:
    """Return the name of the target column; raise RequestError with the closest column otherwise.

    Without a target, the suggestion is a column with a common name for targets, or else the last column.
    """
    if target is not None and str(target) in columns:
        return str(target)
    lowered = {name.lower(): name for name in columns}
    if target is None or not str(target).strip():
        closest = next((lowered[name] for name in USUAL_TARGETS if name in lowered), columns[-1])
        problem = "The table has no target: choose the column to predict."
    else:
        closest = lowered.get(str(target).lower()) or closest_name(str(target), columns)
        problem = f"The table has no column {str(target)!r}."
    more = f", … ({len(columns)} in all)" if len(columns) > MAX_LISTED else ""
    raise RequestError(
        problem,
        key="target",
        found="null" if target is None else target,
        allowed=", ".join(columns[:MAX_LISTED]) + more,
        closest=closest,
    )


def require_complete(table: pd.DataFrame, target: str) -> None:
    """Raise RequestError if a cell is empty, or a number is infinite or outside the range of float32."""
    counts = {name: (int(column.isna().sum()), _count_too_large(column)) for name, column in table.items()}
    words = [
        f"{name}: {number} of {len(table)} rows {what}"
        for name, both in counts.items()
        for number, what in zip(both, ("missing", "infinite or outside float32"), strict=True)
        if number
    ]
    if words:
        more = f"; … ({len(words)} in all)" if len(words) > MAX_LISTED else ""
        raise RequestError(
            "The table has cells without a usable value (empty, NA, NaN, None and null count as missing).",
            key="target" if any(counts[target]) else "path",
            found="; ".join(words[:MAX_LISTED]) + more,
            allowed="a finite value in every cell: fill or leave out such rows or columns",
        )


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd  # takes half a second to import, and only this data set needs it

    try:
        if file.suffix.lower() == ".parquet":
            return pd.read_parquet(file)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more fields than names: pandas would drop them
            return pd.read_csv(file, index_col=False, skipinitialspace=True, low_memory=False)  # one dtype per column
    except pd.errors.ParserWarning as error:
        raise _wrong_file("Rows have more fields than the first line has names.", file, ALLOWED) from error
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _wrong_file(f"The file cannot be read: {reason}", file, f"{ALLOWED} that is complete") from error


def _count_too_large(column: pd.Series) -> int:
    if column.dtype.kind not in "iuf":
        return 0
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return int((np.abs(values) > LARGEST).sum())


def _closest_file(path: Path) -> str | None:
    """Return the table with the most similar name in the same folder; for a folder, its only table."""
    folder = path if path.is_dir() else path.parent
    try:
        names = {p.stem: p.name for p in sorted(folder.iterdir()) if p.suffix.lower() in ENDINGS}
    except OSError:
        return None
    only = next(iter(names)) if len(names) == 1 else None
    stem = only if folder == path else closest_name(path.stem, names)  # extensions are alike where names are not
    return str(folder / names[stem]) if stem else None


def _wrong_file(problem: str, found: object, allowed: str, closest: str | None = None) -> RequestError:
    return RequestError(problem, key="path", found=found, allowed=allowed, closest=closest)
