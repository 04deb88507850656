"""Any data set of OpenML by its name, through scikit-learn, which keeps what it has fetched."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

from stabletrain.data.base import MAX_SEED, require_count, resolve_form
from stabletrain.data.table import STANDARDISED, Tabular
from stabletrain.data.table_file import require_complete
from stabletrain.errors import RequestError, require_choice


@final
class OpenML(Tabular):
    """A data set of openml.org: fetched once, then read from scikit-learn's data folder.

    Columns are encoded as those of `Table`. With `image_shape`, rows become images: `dataset=mnist_784
    image_shape=[1,28,28]`, `dataset=CIFAR_10 image_shape=[3,32,32]`.

    Args:
        dataset: Name on openml.org, such as ``mnist_784``.
        version: Its version, from 1.
        target: Column to predict; null for the one that OpenML names.
        task: ``classification``, ``regression`` or ``auto``; see `Table`.
        batch_size: Global batch size, from 1 to the size of the training set.
        form: ``vector`` or, with `image_shape`, ``image``; ``auto`` is the first that there is.
        image_shape: Channels, height and width of a row; null if rows are no images.
        val_fraction: Share of the rows that validates, above 0.
        test_fraction: Share of the rows that tests, above 0; both shares together below 1.
        seed: Which split, from 0 to 2³² - 1.

    Raises:
        RequestError: The data set cannot be fetched, or an argument is out of its range.

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
        form = resolve_form(form, self.forms)
        seed = require_count("seed", seed, 0, MAX_SEED)
        require_choice("task", task, ["auto", "classification", "regression"])
        if form == "image" and image_shape is None:
            raise RequestError(
                "Rows become images only with a shape.",
                key="image_shape",
                found="null",
                allowed="channels, height and width: data.image_shape=[1,28,28]",
            )
        self._dataset = f"{dataset} (version {version})"
        table, target = fetch(dataset, version, target)
        require_complete(table, target)
        if form == "image":
            _require_pixels(image_shape, table.shape[1] - 1)
        super().__init__(
            table,
            target,
            task=task,
            batch_size=batch_size,
            form=form,
            fractions=(val_fraction, test_fraction),
            seed=seed,
            shape=tuple(image_shape) if form == "image" and image_shape else None,
        )

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        rows = f"({self.num_rows} rows)"
        return f"Column {self.target!r} of {self._dataset} on openml.org {rows}, {self._what} {STANDARDISED}."


def fetch(dataset: str | None, version: int, target: str | None) -> tuple[Any, str]:
    """Return the data set as one data frame, and the name of its target.

    Raises:
        RequestError: No name, no network and no copy, or no such data set.
    """
    from sklearn.datasets import fetch_openml, get_data_home

    if dataset is None:
        raise RequestError(
            "data=openml needs the name of a data set.", key="dataset", found="null", allowed="such as mnist_784"
        )
    try:
        chosen = "default-target" if target is None else target
        bunch: Any = fetch_openml(
            dataset, version=version, target_column=chosen, as_frame=True, parser="auto", n_retries=1, delay=0.1
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(
            f"OpenML does not give this data set: {reason}.",
            key="dataset",
            found=f"{dataset}, version {version}",
            allowed=f"a name on openml.org, fetched now or kept in {get_data_home()} since an earlier run",
            command="python -m stabletrain data=digits",
        ) from error
    names = bunch.target_names
    if len(names) != 1:
        raise RequestError(
            "The data set has not just one target.",
            key="target",
            found=", ".join(names) or "none",
            allowed="the name of one column",
        )
    return bunch.frame.copy(), names[0]


def _require_pixels(shape: list[int] | None, num_features: int) -> None:
    if shape is None or len(shape) != 3 or min(shape) < 1 or math.prod(shape) != num_features:
        raise RequestError(
            "A row does not fill an image of this shape.",
            key="image_shape",
            found=shape,
            allowed=f"channels, height and width with a product of {num_features}",
        )
