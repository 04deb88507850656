"""Launchers: torchrun or Slurm starts the processes, and the run takes the numbers of nodes and devices from them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from stabletrain.app.composition.override_text import key_of, value_of
from stabletrain.errors import RequestError
from stabletrain.record.checkpoint_files import LAST
from stabletrain.record.run_folder import RunFolder
from stabletrain.vocabulary.statuses import FINISHED, STOPPED

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from stabletrain.app.composition.compose import Composition
    from stabletrain.training.callbacks.requeue import Requeue

_INTERACTIVE = ("bash", "interactive")  # job names that Lightning 2.6.6 takes for a terminal on a node


@dataclass(frozen=True)
class Launch:
    """The group of processes that a launcher started.

    Attributes:
        engine: torchrun or slurm.
        num_nodes: Nodes in the group.
        num_local: Processes on this node.
        run_id: Name of the job, the same in all its processes and after each restart; None if the launcher has none.
        restarts: How often the launcher has restarted the job.
    """

    engine: str
    num_nodes: int
    num_local: int
    run_id: str | None = None
    restarts: int = 0

    @property
    def id(self) -> str | None:
        """Return the name of the launch that a run records, such as `torchrun-spring` or `slurm-17`."""
        return f"{self.engine}-{self.run_id}" if self.run_id else None

    def began(self, summary: Mapping[str, Any]) -> bool:
        """Return whether the run of this `summary.json` was started by this job and has not ended."""
        is_ours = self.id is not None and summary.get("launch") == self.id
        return is_ours and (self.restarts > 0 or summary.get("status") not in (FINISHED, STOPPED))


def find_launch(environ: Mapping[str, str] | None = None) -> Launch | None:
    """Return what launched this process, or None if it was started by hand.

    Raises:
        RequestError: A Slurm job with several tasks runs the program only once, the nodes have different numbers of
            tasks, or torchrun is asked for restarts that cannot succeed.
    """
    environ = os.environ if environ is None else environ
    if "TORCHELASTIC_RUN_ID" in environ:
        return _torchrun(environ)
    if "SLURM_STEP_NUM_TASKS" in environ and environ.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        return _slurm(environ)
    num_tasks = int(environ.get("SLURM_NTASKS", "1"))
    if num_tasks > 1 and environ.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        raise RequestError(
            f"The Slurm job has {num_tasks} tasks, but the program was started once: srun starts it for each task.",
            key="SLURM_NTASKS",
            found=num_tasks,
            allowed="srun before the command, or a job of one task",
            command="srun python -m stabletrain …",
        )
    return None


def _torchrun(environ: Mapping[str, str]) -> Launch:
    num_nodes = int(environ.get("GROUP_WORLD_SIZE", "1"))
    run_id: str | None = environ["TORCHELASTIC_RUN_ID"]
    if run_id == "none" or _is_uuid(run_id):  # the job has no name: torchrun's defaults for several nodes and for one
        run_id = _agent_id() if num_nodes == 1 else None
    restarts = int(environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    _require_own_store(environ)
    return Launch("torchrun", num_nodes, int(environ["LOCAL_WORLD_SIZE"]), run_id, restarts)


def _require_own_store(environ: Mapping[str, str]) -> None:
    """Refuse restarts that cannot succeed: the new processes would find the old ones' addresses in torchrun's store."""
    is_shared = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if is_shared and int(environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        raise RequestError(
            "A restart by torchrun would fail: its store keeps the addresses of the processes that have ended.",
            key="--max-restarts",
            found=environ["TORCHELASTIC_MAX_RESTARTS"],
            allowed="0, or a new store for each attempt: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on all nodes",
            command="export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
        )


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _agent_id() -> str:
    """Return a name for the torchrun that started this process: it survives every restart of its workers."""
    from datetime import datetime

    import psutil

    agent = psutil.Process(os.getppid())
    return f"{datetime.fromtimestamp(agent.create_time()):%Y-%m-%d_%H-%M-%S}-{agent.pid}"


def _slurm(environ: Mapping[str, str]) -> Launch:
    num_nodes, num_tasks = int(environ["SLURM_STEP_NUM_NODES"]), int(environ["SLURM_STEP_NUM_TASKS"])
    if num_tasks % num_nodes:
        raise RequestError(
            "The tasks cannot be divided equally among the nodes.",
            key="SLURM_STEP_NUM_TASKS",
            found=f"{num_tasks} tasks on {num_nodes} nodes",
            allowed=f"a multiple of {num_nodes}",
            command="srun --ntasks-per-node=… python -m stabletrain …",
        )
    job = environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in environ:
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    step = environ.get("SLURM_STEP_ID", "0")
    run_id = job if step == "0" else f"{job}.{step}"  # a second srun in the job is a second run
    return Launch("slurm", num_nodes, num_tasks // num_nodes, run_id, int(environ.get("SLURM_RESTART_COUNT", 0)))


def as_launched(composition: Composition) -> Composition:
    """Return the composition with the launcher's numbers of nodes and devices.

    Raises:
        RequestError: An override asks for a different number than the launcher started.
    """
    launch = find_launch()
    if launch is None:
        return composition
    values = {"trainer.devices": launch.num_local, "trainer.num_nodes": launch.num_nodes}
    asked = {key_of(o): value_of(o) for o in composition.overrides}
    for key, value in values.items():
        if asked.get(key, str(value)) not in (str(value), "auto", "-1"):
            raise RequestError(
                f"{launch.engine} started a different number of processes or nodes.",
                key=key,
                found=asked[key],
                allowed=f"{value}, which is taken from {launch.engine}: leave the setting out",
                closest=str(value),
            )
    if launch.num_nodes == 1:
        del values["trainer.num_nodes"]  # Lightning's default
    return composition.with_values(values)


def requeue_when_asked(folder: RunFolder, trainer: pl.Trainer) -> Requeue | None:
    """Under Slurm, add a callback that saves the run and requeues its job on Slurm's signal."""
    launch = find_launch()
    if launch is None or launch.engine != "slurm":
        return None
    from stabletrain.training.callbacks.requeue import Requeue

    by_submitit = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2") if by_submitit else "USR1"
    requeue = Requeue(folder.checkpoints / LAST, getattr(signal, f"SIG{name}"))
    trainer.callbacks.append(requeue)  # pyright: ignore[reportAttributeAccessIssue]
    return requeue
