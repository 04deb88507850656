"""Ship a run's record to MLflow, in batches that may be repeated.

The record on disk is the source of truth. The position up to which it was shipped is a tag of the MLflow run, written
in the same request as the metric values: another server starts from nothing, and a batch that failed half-way is sent
again unchanged (MLflow ignores a value that it has, with the same key, timestamp, step and value).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stabletrain.record.reader import Info, Position, event_files
from stabletrain.record.run_folder import RunFolder
from stabletrain.report.run_verdict import verdict_so_far
from stabletrain.tracking import mlflow_view, tags
from stabletrain.tracking.contents.artifacts import LogModel, ship_artifacts, ship_model
from stabletrain.tracking.contents.description import describe
from stabletrain.tracking.contents.images import pictures_there, upload_picture
from stabletrain.tracking.contents.layer_table import WorstLayers
from stabletrain.tracking.contents.params_and_tags import ship_params_and_tags
from stabletrain.tracking.contents.picture_plan import PicturePlan
from stabletrain.tracking.metrics import Point, Progress, covers, decode_position, encode_position, read_events
from stabletrain.tracking.runs import end_ms, find_run, first_info, is_training
from stabletrain.tracking.server_errors import plain_errors
from stabletrain.tracking.ship_lock import ship_lock
from stabletrain.tracking.ship_result import ShipResult
from stabletrain.tracking.store import Unreachable, is_reachable, open_client, public_uri, quiet, run_url, view_url
from stabletrain.vocabulary import statuses

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SEARCH_INTERVAL_S = 30.0  # between two looks at the run in MLflow during training: was it deleted, or shipped to?
MAX_POINTS = 900  # in a batch; MLflow accepts 1,000 entries, the tag included
STATUS = {
    statuses.FINISHED: "FINISHED",
    statuses.FAILED: "FAILED",
    statuses.STOPPED: "FAILED",
    statuses.TERMINATED: "KILLED",
}
DIED = "The training process was killed or ran out of memory. Everything that it had recorded is here."


class Shipper:
    """Ships the record of one run to one tracking server; every pass may be repeated.

    Args:
        folder: The run's folder.
        tracking_uri: The server or store (see `resolve_tracking_uri`).
        experiment_name: Name of the MLflow experiment; as in the record if None, else `stabletrain`.
        run_name: Name of the MLflow run; as in the record if None, else the folder's name.
        log_model: Called once with (run_id, tracking_uri) when the run has ended and has a best checkpoint.
        live_pictures: Whether to draw pictures while the run is training; if not, all are drawn at its end.
    """

    def __init__(
        self,
        folder: RunFolder,
        tracking_uri: str,
        *,
        experiment_name: str | None = None,
        run_name: str | None = None,
        log_model: LogModel | None = None,
        live_pictures: bool = True,
    ) -> None:
        self.folder = folder
        self.tracking_uri = tracking_uri
        self._experiment_name = experiment_name
        self._run_name = run_name
        self._log_model = log_model
        self._live_pictures = live_pictures
        self._opened: MlflowClient | None = None
        self._run_id: str | None = None
        self._run_info: dict[str, Any] = {}
        self._forget()

    @property
    def _client(self) -> MlflowClient:
        if self._opened is None:
            self._opened = open_client(self.tracking_uri)
        return self._opened

    def _forget(self) -> None:
        """Discard the reading state: the next pass reads the record from the start."""
        self._progress = Progress()
        self._plan: PicturePlan | None = None
        self._worst = WorstLayers()
        self._position: Position = {}
        self._shipped_text: str | None = None
        self._info: dict[str, Any] = {}
        self._image_steps: dict[str, int] = {}
        self._viewed: tuple[list[str], dict[str, int]] | None = None
        self._found: tuple[Run, float] | None = None  # and the time

    def has_news(self) -> bool:
        """Return whether the record has grown since the last pass that shipped it."""
        sizes = {path.name: path.stat().st_size for path in event_files(self.folder.events)}
        return self._found is None or not covers(self._position, sizes)

    def ship(
        self, *, ended: bool | None = None, on_run: Callable[[ShipResult], None] = lambda result: None
    ) -> ShipResult:
        """Ship everything that is recorded and not yet on the server.

        Args:
            ended: Whether training has ended; if None, this is inferred from the summary and the training process.
            on_run: Called as soon as the MLflow run is known.

        Returns:
            What was shipped; its `run_id` is None if nothing is recorded yet.

        Raises:
            Unreachable: The server does not answer, or not in time. Nothing is lost; ship again later.
            RequestError: The server answers and refuses.
        """
        result = ShipResult(tracking_uri=public_uri(self.tracking_uri))
        final, died = self._ending(ended)
        with quiet(), ship_lock(self.folder.path), plain_errors(self.tracking_uri, self.folder.path):
            if reason := is_reachable(self.tracking_uri):
                raise Unreachable(reason)
            info = self._run_info or first_info(self.folder)
            if info is None and not final:
                return result
            self._run_info = info or {}
            run = self._find_run(final, result)
            on_run(result)
            try:
                self._ship_run(run, result, final, died)
            except BaseException:
                self._forget()  # what was read may not have been sent
                raise
        return result

    def write_links(self, result: ShipResult) -> None:
        """Add links to the run to `summary.json`. Not while training is running: its process writes that file."""
        if result.run_id is not None:
            self.folder.update_summary(**result.links)

    def _ending(self, ended: bool | None) -> tuple[bool, bool]:
        """Return whether the run has ended, and whether it did so without writing a status."""
        if ended is False:
            return False, False
        if self.folder.read_summary().get("status") in STATUS:
            return True, False
        died = bool(ended) or not is_training(self.folder)
        return died, died

    def _find_run(self, final: bool, result: ShipResult) -> Run:
        if self._found is not None and not final and time.monotonic() - self._found[1] < SEARCH_INTERVAL_S:
            run = self._found[0]
        else:
            run = find_run(
                self._client,
                self.tracking_uri,
                self.folder,
                self._run_info,
                experiment_name=self._experiment_name,
                run_name=self._run_name,
                known_id=self._run_id,
                notes=result.notes,
            )
            self._check_position(run)
            self._found = run, time.monotonic()
        result.run_id, result.experiment_id, result.status = run.info.run_id, run.info.experiment_id, run.info.status
        result.url = run_url(self.tracking_uri, run.info.experiment_id, run.info.run_id)
        result.view_url = view_url(self.tracking_uri, run.info.experiment_id, mlflow_view.VIEW_ID)
        return run

    def _check_position(self, run: Run) -> None:
        """Read the record from the start if this is another run, or if another process has shipped to it."""
        shipped_text = run.data.tags.get(tags.POSITION)
        if run.info.run_id != self._run_id or shipped_text != self._shipped_text:
            self._forget()
            self._run_id, self._shipped_text = run.info.run_id, shipped_text

    def _ship_run(self, run: Run, result: ShipResult, final: bool, died: bool) -> None:
        if not final and run.info.status != "RUNNING":  # resumed
            self._client.update_run(run.info.run_id, status="RUNNING")
            result.status, self._found = "RUNNING", None
        plan = self._ship_points(run, result)
        if final:
            plan.plan_last(self.folder.read_findings())
        if final or self._live_pictures:
            self._ship_images(run, plan, result)
        self._ship_view(run, result)
        if final:
            self._finish(run, result, died)

    def _ship_points(self, run: Run, result: ShipResult) -> PicturePlan:
        if self._plan is None:
            self._plan = PicturePlan(pictures_there(self._client, run.info.run_id), course=self._live_pictures)
            result.images_already = len(self._plan.there)
        shipped = decode_position(self._shipped_text, self.folder.events)
        info: dict[str, Any] | None = None
        batch: list[Point] = []
        for entries, position in read_events(self.folder.events, self._position):
            info = next((e.info for e in entries if isinstance(e, Info)), info)
            points = self._progress.take(entries)
            self._plan.take(entries)
            self._worst.take(entries)
            if covers(shipped, position):
                result.points_already += len(points)
            else:
                if batch and len(batch) + len(points) > MAX_POINTS:
                    result.points += self._send(run, batch, self._position)
                    batch = []
                batch += points
            self._position = position
        if batch:
            result.points += self._send(run, batch, self._position)
        if info is not None:
            ship_params_and_tags(self._client, run, info)
            self._info = info
        return self._plan

    def _send(self, run: Run, points: list[Point], position: Position) -> int:
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in points]
        while len(metrics) > MAX_POINTS:  # one event with more layers than fit in a batch
            self._client.log_batch(run.info.run_id, metrics=metrics[:MAX_POINTS])
            metrics = metrics[MAX_POINTS:]
        text = encode_position(position)
        self._client.log_batch(run.info.run_id, metrics=metrics, tags=[RunTag(tags.POSITION, text)])
        self._shipped_text = text
        return len(points)

    def _ship_images(self, run: Run, plan: PicturePlan, result: ShipResult) -> None:
        drawn_by, png = None, b""
        for picture in plan.pending():
            try:
                if picture.draw is not drawn_by:  # the last picture of a kind is there under two keys
                    drawn_by, png = picture.draw, picture.draw()
            except Exception as error:  # metric values are shipped even if a picture cannot be drawn
                result.notes.append(f"{picture.key} of step {picture.step} could not be drawn: {error}")
            else:
                upload_picture(self._client, run.info.run_id, picture, png)
                result.images += 1
            plan.done(picture)
        self._image_steps = {
            key: step for key, step, _ in sorted(plan.there, reverse=True)
        }  # the earliest of each kind

    def _ship_view(self, run: Run, result: ShipResult) -> None:
        keys = mlflow_view.view_keys(self._progress.keys.values())
        if (keys, self._image_steps) == self._viewed:
            return
        try:
            mlflow_view.write_view(self._client, run.info.experiment_id, keys, self._image_steps)
        except Exception as error:  # the format is not documented
            result.notes.append(f"The saved view could not be written: {error}")
        self._viewed = (keys, self._image_steps)

    def _finish(self, run: Run, result: ShipResult, died: bool) -> None:
        run_id = run.info.run_id
        summary = self.folder.read_summary() | result.links
        findings = self.folder.read_findings()
        uploaded, already = ship_artifacts(self._client, run, self.folder, summary, self._worst.table())
        result.artifacts, result.artifacts_already = len(uploaded), len(already)
        self._client.set_tag(run_id, tags.NOTE, describe(summary, findings, self._info, DIED if died else None))
        if verdict := verdict_so_far(summary, findings):
            self._client.set_tag(run_id, tags.VERDICT, verdict)
        if self._log_model is not None:
            ship_model(self._client, run, self.folder, self._log_model, self.tracking_uri, result.notes)
        status = "KILLED" if died else STATUS[str(summary["status"])]
        result.status = status
        self._client.set_terminated(run_id, status, end_time=end_ms(self.folder))
