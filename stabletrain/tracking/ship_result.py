"""What one pass of the shipper did."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ShipResult:
    """What one pass carried over, and what was there already.

    Attributes:
        run_id: The MLflow run, or None if there is no record yet.
        experiment_id: Its experiment.
        tracking_uri: Where it is, without a password.
        url: Link to the run's page.
        view_url: Link to the saved view.
        status: MLflow's status of the run.
        points: Metric values carried over.
        images: Pictures carried over.
        artifacts: Artifacts carried over (the folder `tensorboard/` counts as one).
        points_already: Metric values that were there already.
        images_already: Pictures that were there already.
        artifacts_already: Artifacts that were there already.
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
        """What `summary.json` says of the run."""
        return {
            "mlflow_run_id": self.run_id,
            "mlflow_tracking_uri": self.tracking_uri,
            "mlflow_url": self.url,
        }

    @property
    def already(self) -> int:
        """Points, pictures and artifacts that were there already."""
        return self.points_already + self.images_already + self.artifacts_already

    def __str__(self) -> str:
        return (
            f"{self.points:,} points, {self.images:,} images, {self.artifacts:,} artifacts carried; "
            f"{self.already:,} already there"
        )
