"""The outcome of one pass of the shipper."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ShipResult:
    """What one pass shipped, and what the server had already.

    Attributes:
        run_id: Id of the MLflow run, or None if there is no record yet.
        experiment_id: Id of its experiment.
        tracking_uri: The server, without a password.
        url: Link to the run's page.
        view_url: Link to the saved view.
        status: Status of the run in MLflow.
        points: Metric values shipped.
        images: Pictures shipped.
        artifacts: Artifacts shipped (the folder `tensorboard/` counts as one).
        points_already: Metric values that the server had already.
        images_already: Pictures that the server had already.
        artifacts_already: Artifacts that the server had already.
        notes: Sentences for the user.
    """

    run_id: str | None = None
    experiment_id: str | None = None
    tracking_uri: str = ""
    url: str | None = None
    view_url: str | None = None
    status: str | None = None
    points: int = 0
    images: int = 0
    artifacts: int = 0
    points_already: int = 0
    images_already: int = 0
    artifacts_already: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def links(self) -> dict[str, str | None]:
        """The fields of `summary.json` that point to the MLflow run."""
        return {
            "mlflow_run_id": self.run_id,
            "mlflow_tracking_uri": self.tracking_uri,
            "mlflow_url": self.url,
        }

    @property
    def already(self) -> int:
        """Number of points, pictures and artifacts that the server had already."""
        return self.points_already + self.images_already + self.artifacts_already

    def __str__(self) -> str:
        return (
            f"{self.points:,} points, {self.images:,} images, {self.artifacts:,} artifacts shipped; "
            f"{self.already:,} already on the server"
        )
