"""What a run takes from the launcher that started it."""

from __future__ import annotations

import pytest

from stabletrain.app.composition.compose import compose
from stabletrain.app.first_process import is_first_process
from stabletrain.app.launch import Launch, as_launched, find_launch
from stabletrain.app.output_dir import choose_folder
from stabletrain.app.sweeps.multirun import run_all
from stabletrain.app.sweeps.sweep_child import refuse_own_processes
from stabletrain.errors import RequestError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "spring", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}
SLURM = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "8"}
LAUNCHERS = ("TORCHELASTIC", "SLURM", "GROUP_", "LOCAL_", "RANK", "NODE_RANK", "WORLD_SIZE", "STABLETRAIN")


@pytest.fixture(autouse=True)
def _started_by_hand(monkeypatch, tmp_path):
    import os

    for name in [n for n in os.environ if n.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def launched(monkeypatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 2, 4, "spring")),
        (TORCHRUN | {"TORCHELASTIC_RESTART_COUNT": "2"}, Launch("torchrun", 2, 4, "spring", 2)),
        (TORCHRUN | SLURM, Launch("torchrun", 2, 4, "spring")),  # one torchrun per node, started by srun
        (TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"}, Launch("torchrun", 2, 4, None)),
        (SLURM, Launch("slurm", 2, 4, "17")),
        (SLURM | {"SLURM_STEP_ID": "1"}, Launch("slurm", 2, 4, "17.1")),
        (SLURM | {"SLURM_RESTART_COUNT": "1"}, Launch("slurm", 2, 4, "17", 1)),
        (SLURM | {"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "3"}, Launch("slurm", 2, 4, "16_3")),
        (SLURM | {"SLURM_JOB_NAME": "bash"}, None),  # a terminal on a node
        ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1"}, None),  # a batch script of one task, without srun
    ],
)
def test_the_numbers_come_from_the_launcher(variables, launch):
    assert find_launch(variables) == launch


@pytest.mark.parametrize(
    ("variables", "key"),
    [({"SLURM_NTASKS": "2"}, "SLURM_NTASKS"), (SLURM | {"SLURM_STEP_NUM_TASKS": "7"}, "SLURM_STEP_NUM_TASKS")],
)
def test_a_job_that_would_wait_for_ever_is_refused(variables, key):
    with pytest.raises(RequestError) as caught:
        find_launch(variables)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("shared", "max_restarts", "is_refused"), [("True", "3", True), ("True", "0", False), ("False", "3", False)]
)
def test_restarts_that_cannot_succeed_are_refused(shared, max_restarts, is_refused):
    variables = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": shared, "TORCHELASTIC_MAX_RESTARTS": max_restarts}
    if not is_refused:
        assert find_launch(variables) == Launch("torchrun", 2, 4, "spring")
        return
    with pytest.raises(RequestError) as caught:
        find_launch(variables)
    assert caught.value.command == "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"


@pytest.mark.parametrize("run_id", ["none", "5e8f0e56-6f19-4b3e-8d8b-0f0d2ad3d2a5"])
def test_an_unnamed_job_on_one_node_is_named_after_its_torchrun(run_id):
    variables = {"TORCHELASTIC_RUN_ID": run_id, "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}
    first, again = find_launch(variables), find_launch(variables | {"TORCHELASTIC_RESTART_COUNT": "1"})
    assert first is not None
    assert again is not None
    assert first.id == again.id
    assert run_id not in str(first.id)


def test_devices_and_nodes_need_no_override(monkeypatch):
    launched(monkeypatch, TORCHRUN)
    trainer = as_launched(compose(["trainer=cpu"])).config["trainer"]
    assert (trainer["devices"], trainer["num_nodes"]) == (4, 2)


def test_a_number_at_odds_with_the_launcher_is_refused(monkeypatch):
    launched(monkeypatch, TORCHRUN)
    assert as_launched(compose(["trainer.devices=4"])).config["trainer"]["devices"] == 4
    with pytest.raises(RequestError) as caught:
        as_launched(compose(["trainer.devices=2"]))
    assert (caught.value.key, caught.value.closest) == ("trainer.devices", "4")


def test_all_processes_know_the_folder(monkeypatch):
    launched(monkeypatch, TORCHRUN)
    folders = set()
    for rank in range(8):
        monkeypatch.setenv("RANK", str(rank))
        assert is_first_process() == (rank == 0)
        folders.add(str(choose_folder(compose().config)[0].path))
    assert [f.rpartition("/")[2] for f in folders] == ["torchrun-spring"]


def test_torchrun_counts_where_slurm_counts_too(monkeypatch):
    launched(monkeypatch, {"RANK": "0", "SLURM_PROCID": "1"})
    assert is_first_process()


def test_nodes_without_a_name_between_them_need_a_folder(monkeypatch):
    launched(monkeypatch, TORCHRUN | {"TORCHELASTIC_RUN_ID": "none", "RANK": "0"})
    with pytest.raises(RequestError) as caught:
        choose_folder(compose().config)
    assert caught.value.key == "output_dir"
    assert choose_folder(compose(["output_dir=mine"]).config)[0].path.name == "mine"


@pytest.mark.parametrize(
    ("begun_by", "status", "restarts", "goes_on"),
    [
        ("slurm-17", "running", 1, True),
        ("slurm-17", "running", 0, True),  # its node was lost: a new agent counts from 0
        ("slurm-17", "finished", 1, True),  # another process failed after the first was done
        ("slurm-17", "finished", 0, False),  # the same name used for a second job
        ("slurm-16", "running", 1, False),  # the folder of another job
        (None, "running", 1, False),
    ],
)
def test_a_job_begun_again_goes_on_in_its_own_folder_only(monkeypatch, begun_by, status, restarts, goes_on):
    launched(monkeypatch, SLURM | {"SLURM_RESTART_COUNT": str(restarts)})
    folder, checkpoint = choose_folder(compose(["output_dir=mine"]).config)
    assert checkpoint is None
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "last.ckpt").touch()
    folder.config.touch()
    folder.update_summary(status=status, **({"launch": begun_by} if begun_by else {}))
    if goes_on:
        assert choose_folder(compose(["output_dir=mine"]).config)[1] == folder.checkpoints / "last.ckpt"
    else:
        with pytest.raises(RequestError) as caught:
            choose_folder(compose(["output_dir=mine"]).config)
        assert caught.value.key == "output_dir"


def test_a_sweep_behind_torchrun_is_refused(monkeypatch):
    launched(monkeypatch, TORCHRUN)
    with pytest.raises(RequestError) as caught:
        run_all(["seed=0,1"], train=pytest.fail)
    assert "hydra.launcher.tasks_per_node=4" in str(caught.value.command)


def test_a_child_that_starts_processes_is_refused_unless_slurm_started_them(monkeypatch):
    with pytest.raises(RequestError) as caught:
        refuse_own_processes(compose(["trainer=ddp_cpu"]))
    assert "torchrun --nproc-per-node=2" in str(caught.value.allowed)
    assert "hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=2" in str(caught.value.allowed)
    launched(monkeypatch, SLURM)
    refuse_own_processes(compose(["trainer=ddp_cpu"]))
