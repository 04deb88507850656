"""Sweeps: every combination of comma-separated values, through Hydra's own launchers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from stabletrain.app.compose import to_composition
from stabletrain.app.paths import find_config_dir
from stabletrain.app.schema import register_schema
from stabletrain.errors import RequestError


def run_all(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> int:
    """Run every job of a sweep; return the worst exit code.

    Raises:
        RequestError: In-process data parallelism in a sweep.
    """
    import hydra

    register_schema()
    codes: list[int] = []
    search = [f"--config-dir={d.absolute()}" for d in config_dirs]

    def job(config: DictConfig) -> int:
        codes.append(_run_one(config))
        return codes[-1]

    before = sys.argv
    sys.argv = [before[0], *overrides, *search, "--multirun"]
    try:
        hydra.main(str(find_config_dir()), "config", version_base="1.3")(job)()
    finally:
        sys.argv = before
    return max(codes, default=1)


def _run_one(config: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig

    from stabletrain.app.commands import train

    hydra_config = HydraConfig.get()
    whole = config.copy()
    from omegaconf import OmegaConf, open_dict

    with open_dict(whole):
        whole.hydra = OmegaConf.create({"runtime": {"choices": dict(hydra_config.runtime.choices)}})
    overrides = list(hydra_config.overrides.task)
    composition = to_composition(whole, overrides)
    if str(composition.config["trainer"].get("strategy", "")).startswith(("ddp", "fsdp")):
        raise RequestError(
            "A sweep cannot start processes of its own: each would replay the whole sweep.",
            key="trainer",
            found=composition.choices["trainer"],
            allowed="one process per job; several processes launched from outside (torchrun, Slurm)",
            command="python -m stabletrain -m trainer=cpu …",
        )
    return train.run(composition)
