"""Any data set of OpenML by its name, downloaded and cached by scikit-learn."""

from __future__ import annotations

import math
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, final

from stabletrain.data.base import MAX_SEED, require_count, resolve_form
from stabletrain.data.tables.table_file import require_complete
from stabletrain.data.tables.tabular import STANDARDIZED, Tabular
from stabletrain.errors import RequestError, require_choice

if TYPE_CHECKING:
    import pandas as pd

TIMEOUT_S = 30.0  # for a network that does not respond; scikit-learn sets none
EXAMPLES = "mnist_784, CIFAR_10, adult"


@final
class OpenML(Tabular):
    """A data set of openml.org, downloaded once and then read from scikit-learn's data folder, also offline.

    Columns are encoded as in `Table`. With `image_shape`, rows are images: all pixels are standardized by the same two
    numbers, and ``form=image`` gives rows this shape. MNIST is `dataset=mnist_784 image_shape=[1,28,28]`, CIFAR-10
    `dataset=CIFAR_10 image_shape=[3,32,32]`.

    Attributes:
        target: The column to predict.
        classes: Values of the target in sorted order, class 0 first; None for a regression.

    Args:
        dataset: Name on openml.org, such as ``mnist_784``.
        version: Its version, from 1.
        target: Column to predict; null for the default target on OpenML.
        task: ``classification``, ``regression`` or ``auto``; see `Table`.
        batch_size: Global batch size, from 1 to the size of the training set.
        form: ``vector`` or, with `image_shape`, ``image``; ``auto`` is ``vector``.
        image_shape: Channels, height and width of a row; null if rows are not images.
        val_fraction: Fraction of the rows used for validation, above 0.
        test_fraction: Fraction of the rows used for testing, above 0; the two fractions add up to less than 1.
        seed: Seed of the split, from 0 to 2³² - 1.

    Raises:
        RequestError: The data set cannot be downloaded, has missing values, or an argument is out of range.

    References:
        Vanschoren et al. 2014, OpenML: Networked Science in Machine Learning.
    """

    name: ClassVar[str] = "openml"
    forms: ClassVar[tuple[str, ...]] = ("vector", "image")

    def __init__(
        self,
        dataset: str | None = None,
        version: int = 1,
        target: str | None = None,
        task: str = "auto",
        batch_size: int = 32,
        form: str = "auto",
        image_shape: list[int] | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        require_count("version", version)
        seed = require_count("seed", seed, 0, MAX_SEED)
        require_choice("task", task, ["auto", "classification", "regression"])
        form = _resolve_form(form, image_shape)
        self._dataset = f"{dataset} (version {version})"
        table, target = fetch(dataset, version, target)
        _require_features(table, self._dataset)
        if image_shape is not None:
            _require_pixels(image_shape, table.shape[1] - 1)
        with _blame_dataset():
            require_complete(table, target)
            super().__init__(
                table,
                target,
                task=task,
                batch_size=batch_size,
                form=form,
                fractions=(val_fraction, test_fraction),
                seed=seed,
                image_shape=None if image_shape is None else tuple(image_shape),
            )

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        rows = f"({self.num_rows} rows)"
        return f"Column {self.target!r} of {self._dataset} on openml.org {rows}, {self._what} {STANDARDIZED}."


def fetch(dataset: str | None, version: int, target: str | None) -> tuple[pd.DataFrame, str]:
    """Return the data set as one data frame, and the name of its target.

    Raises:
        RequestError: No name is given; there is no local copy of the data set and it cannot be downloaded; it does not
            exist; or it does not have exactly one target.
    """
    if dataset is None or not str(dataset).strip():
        raise RequestError(
            "No data set is named.",
            key="dataset",
            found="null",
            allowed=f"a name on openml.org: {EXAMPLES}",
            closest="mnist_784",
        )
    from sklearn.datasets import fetch_openml, get_data_home

    chosen = "default-target" if target is None else target
    folder = "scikit-learn's data folder"
    try:
        folder = get_data_home()
        with _answer_within(TIMEOUT_S):
            bunch: Any = fetch_openml(
                dataset, version=version, target_column=chosen, as_frame=True, parser="auto", n_retries=1, delay=0.1
            )
    except KeyError as error:
        raise RequestError(
            f"{dataset} has no column {target!r}.", key="target", found=target, allowed="null, or a column's name"
        ) from error
    except Exception as error:
        raise _unfetched(error, f"{dataset}, version {version}", folder) from error
    names = bunch.target_names
    if len(names) != 1:
        found = ", ".join(map(str, names)) or "none"
        raise RequestError(f"{dataset} has {len(names)} targets.", key="target", found=found, allowed="one column")
    return bunch.frame.copy(deep=False), str(names[0])


def _unfetched(error: Exception, found: str, folder: str) -> RequestError:
    """Return the error: about the network or the folder where those fail, about the name where OpenML responds."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, OSError):  # URLError, HTTPError and time-outs are too
        return RequestError(
            f"There is no local copy of the data set, and it cannot be downloaded: {reason}",
            key="dataset",
            found=f"{found}; no copy in {folder}",
            allowed=f"a network connection, once; or a copy of the folder {folder}/openml from a machine that has the "
            "data set (SCIKIT_LEARN_DATA sets another folder); or a data set that needs neither, such as digits",
            command="python -m stabletrain data=digits",
        )
    return RequestError(
        f"OpenML does not provide this data set: {reason}",
        key="dataset",
        found=found,
        allowed=f"a name and version on openml.org: {EXAMPLES}",
    )


@contextmanager
def _answer_within(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A network error occurred")  # the error reports it
            yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _blame_dataset() -> Iterator[None]:
    """Report errors about `path`, which is the setting of a table file, as errors about `dataset`."""
    try:
        yield
    except RequestError as error:
        error.key = "dataset" if error.key == "path" else error.key
        raise


def _resolve_form(form: str, image_shape: list[int] | None) -> str:
    form = resolve_form(form, OpenML.forms)
    if form == "image" and image_shape is None:
        raise RequestError(
            "Rows cannot be read as images without a shape.",
            key="image_shape",
            found="null",
            allowed="channels, height and width: [1,28,28] for mnist_784, [3,32,32] for CIFAR_10",
        )
    return form


def _require_features(table: pd.DataFrame, dataset: str) -> None:
    if table.empty or table.shape[1] < 2:
        raise RequestError(
            "The data set has no rows, or no column to predict from.",
            key="dataset",
            found=f"{dataset}: {len(table)} rows, {table.shape[1]} columns",
            allowed="at least one row, and at least one column besides the target",
        )


def _require_pixels(shape: Any, num_features: int) -> None:
    is_list = isinstance(shape, Sequence) and not isinstance(shape, str)
    are_counts = is_list and all(isinstance(size, Integral) and int(size) >= 1 for size in shape)
    if not are_counts or len(shape) != 3 or math.prod(shape) != num_features:
        raise RequestError(
            "A row does not fit an image of this shape.",
            key="image_shape",
            found=list(shape) if is_list else shape,
            allowed=f"channels, height and width with a product of {num_features}",
        )
