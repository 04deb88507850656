"""`threads`: how many threads torch uses on the CPU, chosen before anything that depends on their number is computed.

Sums are added up in another order on another number of threads, so losses and weights differ in their last digits. The
number therefore follows from the composition and never from a measurement, and a run's `config.yaml` keeps it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stabletrain.app.building.build import Built, build
from stabletrain.app.building.build_data import examples_of
from stabletrain.app.composition.compose import Composition
from stabletrain.app.composition.schema import AUTO
from stabletrain.torch_tools.multiply_adds import mean_multiply_adds

MULTIPLY_ADDS_EACH = 4_000_000  # per thread, of an average matrix product; measured: docs/configuration.md#threads
NUM_THREADS = "OMP_NUM_THREADS"
OF_USER = (NUM_THREADS, "MKL_NUM_THREADS")  # torch takes the number from either
_NUM_EXAMPLES = 2


@dataclass(frozen=True)
class Available:
    """The threads that torch had when the process started.

    Attributes:
        num_threads: Their number: one per core, unless the environment sets it.
        is_set: Whether the environment set it: the user, or a launcher such as torchrun.
    """

    num_threads: int
    is_set: bool


@functools.cache
def find_available() -> Available:
    """Return the threads that torch had at the first call in this process."""
    return Available(torch.get_num_threads(), any(os.environ.get(name) for name in OF_USER))


def choose_num_threads(multiply_adds: float | None, most: int) -> int:
    """Return one thread per `MULTIPLY_ADDS_EACH`, from 1 to `most`; `most` if the work is unknown."""
    return most if multiply_adds is None else min(most, max(1, int(multiply_adds / MULTIPLY_ADDS_EACH)))


def build_on_threads(composition: Composition) -> tuple[Composition, Built]:
    """Set the number of threads, and build with it.

    `threads=auto` builds with one thread and, if the network has work for more, builds again with that number: the
    results are those of a run with this number from the start.

    Returns:
        The composition with the number that was chosen, and what was built. On a device other than the CPU, torch's
        number and `threads=auto` stay.

    Raises:
        RequestError: The parts do not fit one another.
    """
    config, available = composition.config, find_available()
    local, machines = _num_processes(config["trainer"])
    is_distributed = local * machines > 1
    if config["threads"] != AUTO:
        use_threads(config["threads"], is_distributed)
        return composition, build(config)
    if not _is_on_cpu(config["trainer"]):
        torch.set_num_threads(available.num_threads)
        return composition, build(config)
    if available.is_set:
        num_threads = available.num_threads
        use_threads(num_threads, is_distributed)
        return composition.with_values({"threads": num_threads}), build(config)
    use_threads(1, is_distributed)
    built = build(config)
    most = max(1, available.num_threads // local)
    num_threads = choose_num_threads(_work_of(built, local * machines), most) if most > 1 else 1
    if num_threads > 1:
        use_threads(num_threads, is_distributed)
        built = build(config)
    return composition.with_values({"threads": num_threads}), built


def build_as_recorded(config: Mapping[str, Any]) -> Built:
    """Build from a run's `config.yaml`, with the run's number of threads if it has one."""
    if isinstance(config.get("threads"), int):
        use_threads(config["threads"])
    return build(config)


def use_threads(num_threads: int, is_distributed: bool = False) -> None:
    """Set the number of torch's threads; with several processes so that Lightning's launcher keeps it."""
    torch.set_num_threads(num_threads)
    if is_distributed:  # lightning_fabric 2.6.6 divides the cores among the processes unless the environment sets it
        find_available()
        os.environ[NUM_THREADS] = str(num_threads)


def note_threads(config: Mapping[str, Any]) -> list[str]:
    """Return a note if there are more threads than cores."""
    asked, num_cores = config["threads"], num_usable_cores()
    if asked == AUTO or asked <= num_cores:
        return []
    return [f"threads={asked}, but there are {num_cores} cores: threads wait for each other. threads=auto uses fewer."]


def num_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work_of(built: Built, num_processes: int) -> float | None:
    batch_size = max(1, built.data.batch_size // num_processes)
    return mean_multiply_adds(built.network, examples_of(built.data, _NUM_EXAMPLES), batch_size)


def _is_on_cpu(section: Mapping[str, Any]) -> bool:
    accelerator = section.get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def _num_processes(section: Mapping[str, Any]) -> tuple[int, int]:
    """Return the processes on this machine, and the machines."""
    devices, nodes = section.get("devices"), section.get("num_nodes")
    return max(1, devices) if isinstance(devices, int) else 1, nodes if isinstance(nodes, int) else 1
