"""Train on a Ray cluster: Ray Train starts the workers, Lightning trains in them. Needs the extra `ray`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stabletrain.errors import RequestError, require_range

try:
    from ray.train import (  # pyright: ignore[reportMissingImports]
        FailureConfig,
        RunConfig,
        ScalingConfig,
        get_context,
    )
    from ray.train.torch import TorchConfig, TorchTrainer  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise ImportError(
        f"stabletrain.integrations.ray needs the package ray, which cannot be imported: {error}. "
        "Install it, into a separate environment, with  python -m pip install 'stabletrain[ray]'"
    ) from error


def train(
    overrides: Sequence[str] = (),
    *,
    num_workers: int = 2,
    gpu: bool = False,
    max_failures: int = 3,
    storage_path: Path | str | None = None,
) -> Path:
    """Train one run on several workers of a Ray cluster that form one data-parallel group.

    If a worker is lost, Ray restarts the group, which resumes from the run's last checkpoint.

    Args:
        overrides: Overrides as on the command line. `output_dir` must be on a file system shared by all nodes; the
            default is a new folder in `runs/`.
        num_workers: Number of processes, at least 1.
        gpu: Whether each process needs a GPU.
        max_failures: Maximum number of restarts.
        storage_path: Where Ray stores its own state of the training; by default the run's folder.

    Returns:
        The run's folder.

    Raises:
        RequestError: The configuration is invalid, or `num_workers` is below 1.

    Example:
        stabletrain.integrations.ray.train(["model=rnn", "clip=norm"], num_workers=4, gpu=True)
    """
    from stabletrain.app.composition.compose import compose
    from stabletrain.app.composition.override_text import without, write_override
    from stabletrain.app.output_dir import unique_id

    require_range("num_workers", num_workers, 1)
    require_range("max_failures", max_failures, 0)
    config = compose(overrides).config
    folder = Path(config["output_dir"] or f"runs/{unique_id()}").absolute()
    words = without(overrides, ("output_dir",))
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "overrides": [*words, write_override("output_dir", folder)],
            "name": folder.name,
            "here": os.getcwd(),
        },
        torch_config=TorchConfig(backend=None if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(Path(storage_path or folder).absolute()),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    trainer.fit()
    return folder


def _work(settings: dict[str, Any]) -> None:
    """Train in one worker. Ray has set up the process group; describe it in the variables that `torchrun` sets."""
    from stabletrain.app.commands import train as command
    from stabletrain.app.composition.compose import compose

    context = get_context()
    num_local = context.get_local_world_size()
    os.environ["TORCHELASTIC_RUN_ID"] = f"ray-{settings['name']}"
    os.environ["GROUP_WORLD_SIZE"] = str(context.get_world_size() // num_local)
    os.environ["LOCAL_WORLD_SIZE"] = str(num_local)
    os.chdir(settings["here"])
    code = command.run(compose(settings["overrides"]))
    if code:
        raise RuntimeError(f"The run ended with exit code {code}; its report says why.")


def main() -> None:
    """Run `python -m stabletrain.integrations.ray --num-workers 4 model=rnn`; RAY_ADDRESS names the cluster."""
    parser = argparse.ArgumentParser(prog="python -m stabletrain.integrations.ray", description=__doc__)
    parser.add_argument("--num-workers", type=int, default=2, help="number of processes (default: 2)")
    parser.add_argument("--gpu", action="store_true", help="give each process a GPU")
    parser.add_argument("--max-failures", type=int, default=3, help="maximum number of restarts (default: 3)")
    parser.add_argument("overrides", nargs="*", help="overrides as for python -m stabletrain train")
    words = parser.parse_args()
    try:
        folder = train(words.overrides, num_workers=words.num_workers, gpu=words.gpu, max_failures=words.max_failures)
    except RequestError as error:
        parser.exit(2, f"stabletrain: {error}\n")
    print(f"files  {folder}")


if __name__ == "__main__":
    main()
