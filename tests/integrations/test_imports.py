"""What the integrations import, and the names that they had before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("pytorch_lightning", "lightning", "hydra", "omegaconf", "mlflow", "transformers", "ray")
PROGRAM = """
import sys
import stabletrain as st
{names}
print(*sorted(set(sys.modules) & set({heavy!r})))
"""
FAKE_RAY = """
FailureConfig = RunConfig = ScalingConfig = get_context = TorchConfig = TorchTrainer = None
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, env=os.environ | environment
    )


def heavy_modules_after(names: str) -> list[str]:
    done = run("-c", PROGRAM.format(names=names, heavy=HEAVY))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_public_names_need_neither_lightning_nor_hydra_nor_mlflow():
    every_name = "print(end='', *[getattr(st, n) and '' for n in dir(st) if n not in ('callbacks', '__version__')])"
    assert heavy_modules_after("st.Doctor") == []
    assert heavy_modules_after(every_name) == []
    assert "pytorch_lightning" in heavy_modules_after("st.callbacks")  # the control


def test_the_module_for_hugging_face_can_be_imported_by_its_old_name():
    pytest.importorskip("transformers")
    from stabletrain.integrations import huggingface

    sys.modules.pop("stabletrain.huggingface", None)
    with pytest.warns(DeprecationWarning, match="moved to stabletrain.integrations.huggingface"):
        import stabletrain.huggingface as old  # pyright: ignore[reportMissingImports]
    assert old is huggingface


@pytest.mark.parametrize("name", ["stabletrain.ray", "stabletrain.integrations.ray"])
def test_the_command_for_ray_runs_by_both_names(name, tmp_path):
    package = tmp_path / "ray/train"
    package.mkdir(parents=True)
    for file in (tmp_path / "ray/__init__.py", package / "__init__.py", package / "torch.py"):
        file.write_text(FAKE_RAY)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    done = run("-m", name, "--help", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "--num-workers" in done.stdout
    wrong = run("-m", name, "--num-workers", "0", PYTHONPATH=path)
    assert (wrong.returncode, "num_workers" in wrong.stderr) == (2, True)
