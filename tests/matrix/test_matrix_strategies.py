"""Every clip, several models, accumulation, precision and compilation under DDP and FSDP2: two processes match one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from compare_runs import assert_same_checkpoint, assert_same_record
from two_processes import run_together

from stabletrain.app.cli import main

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*srun.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),  # of torch's own compiler
]
BASE = ["logger=none", "trainer.accelerator=cpu", "trainer.max_steps=8", "watch=every_step", "watch.signals_every=1"]
BASE += ["trainer.log_every_n_steps=1", "watch.signals=[gradient,activation,delta,weight,update,moment,clip]"]
MLP = ["model=mlp", "model.width=12", "model.depth=2"]
KINDS = ("ddp", "fsdp")
LIMITS = {
    "none": [],
    "norm": ["clip.max_norm=0.1"],
    "value": ["clip.max_value=0.01"],
    "layer": ["clip.max_norm=0.02"],
    "adaptive": [],
    "percentile": [],
    "zscore": ["clip.warmup_steps=2", "clip.z_threshold=0.5"],
    "chain": [],
}
CASES = {
    **{f"clip_{name}": [*MLP, f"clip={name}", *limits] for name, limits in LIMITS.items()},
    "accumulate": [*MLP, "trainer.accumulate_grad_batches=2", "clip=norm", "clip.max_norm=0.1"],
    "lsuv": [*MLP, "init=lsuv"],
    "spectral": [*MLP, "norm=spectral"],
    "weight": [*MLP, "norm=weight"],
    "lstm": ["model=lstm"],
    "resnet": ["model=resnet", "norm=layer"],
    "adamw": [*MLP, "optimizer=adamw"],
    "own": ["model=custom", "model._target_=strategy_parts.Own"],
}
LOOSE = {"bf16": [*MLP, "trainer.precision=bf16-mixed"], "muon": [*MLP, "optimizer=muon"]}  # round in another order
COMPILED = {"mlp": MLP, "resnet": ["model=resnet", "norm=layer"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder, here = tmp_path_factory.mktemp("strategies"), Path.cwd()
    os.chdir(folder)
    lines = []
    try:
        for name, case in (CASES | LOOSE).items():
            assert main([*BASE, *case, "trainer=cpu", f"output_dir={name}"]) == 0
            lines += [[*BASE, *case, f"trainer={kind}", f"output_dir={name}_{kind}"] for kind in KINDS]
        for name, case in COMPILED.items():
            compiled = [*BASE, *case, "compile=true", "watch.signals_every=4"]
            assert main([*BASE, *case, "watch.signals_every=4", "trainer=cpu", f"output_dir=plain_{name}"]) == 0
            assert main([*compiled, "trainer=cpu", f"output_dir=compiled_{name}_one"]) == 0
            lines += [[*compiled, f"trainer={kind}", f"output_dir=compiled_{name}_{kind}"] for kind in KINDS]
        outcomes = run_together(folder, lines, timeout_s=1200)
    finally:
        os.chdir(here)
    assert [o["codes"] for o in outcomes] == [[0, 0]] * len(lines), [
        o["errors"] for o in outcomes if o["codes"] != [0, 0]
    ]
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_do_as_one(runs, name, kind):
    assert_same_record(runs / f"{name}_{kind}", runs / name)
    assert_same_checkpoint(runs / f"{name}_{kind}", runs / name, atol=1e-5)  # Adam amplifies tiny gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOOSE)
def test_half_precision_does_nearly_as_one(runs, name, kind):
    assert_same_checkpoint(runs / f"{name}_{kind}", runs / name, atol=5e-3)


@pytest.mark.parametrize("kind", ["one", *KINDS])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_code_does_the_same(runs, name, kind):
    assert_same_record(runs / f"compiled_{name}_{kind}", runs / f"plain_{name}", rtol=1e-3)
    assert_same_checkpoint(runs / f"compiled_{name}_{kind}", runs / f"plain_{name}", atol=1e-5)
