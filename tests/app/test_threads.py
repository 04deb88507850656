"""`threads`: the rule, what the user set, and bit-identical results at the same number."""

import os

import pytest
import torch
import yaml

from stabletrain.__main__ import main
from stabletrain.app.building import build_on_threads as module
from stabletrain.app.building.build import build
from stabletrain.app.building.build_on_threads import (
    MULTIPLY_ADDS_EACH,
    Available,
    build_as_recorded,
    build_on_threads,
    choose_num_threads,
    note_threads,
)
from stabletrain.app.composition.compose import compose
from stabletrain.app.openmp_environment import OF_USER, wait_asleep
from stabletrain.errors import RequestError

LARGE = ["model=lstm", "model.width=512"]  # 30 million multiply-adds per step


@pytest.fixture
def cores(monkeypatch):
    """Pretend that torch started with a number of threads, which the environment set or not."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is restored
    monkeypatch.delenv("OMP_NUM_THREADS")

    def pretend(num, is_set=False):
        monkeypatch.setattr(module, "find_available", lambda: Available(num, is_set))
        torch.set_num_threads(num)

    return pretend


@pytest.mark.parametrize(
    ("work", "most", "expected"),
    [
        (0.0, 2, 1),
        (1.9 * MULTIPLY_ADDS_EACH, 2, 1),
        (2 * MULTIPLY_ADDS_EACH, 2, 2),
        (100 * MULTIPLY_ADDS_EACH, 2, 2),
        (5.5 * MULTIPLY_ADDS_EACH, 64, 5),
        (100 * MULTIPLY_ADDS_EACH, 1, 1),
        (None, 8, 8),
    ],
)
def test_one_thread_per_four_million_multiply_adds(work, most, expected):
    assert choose_num_threads(work, most) == expected


@pytest.mark.parametrize("model", ["mlp", "rnn", "lstm", "gru", "cnn", "resnet", "densenet1d", "transformer"])
def test_every_model_of_default_size_gets_one_thread(model, cores):
    cores(2)
    composition, _ = build_on_threads(compose([f"model={model}"]))
    assert composition.config["threads"] == torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "overrides", [LARGE, ["model=mlp", "model.width=1024"], ["model=transformer", "data=text", "model.width=128"]]
)
def test_a_large_network_gets_both_cores(overrides, cores):
    cores(2)
    composition, _ = build_on_threads(compose(overrides))
    assert composition.config["threads"] == torch.get_num_threads() == 2


def test_the_batch_of_each_process_counts_and_the_cores_are_shared(cores):
    cores(16)
    alone, _ = build_on_threads(compose(LARGE))
    assert alone.config["threads"] == 7
    two, _ = build_on_threads(compose([*LARGE, "trainer=ddp_cpu"]))
    assert two.config["threads"] == torch.get_num_threads() == 3
    assert os.environ["OMP_NUM_THREADS"] == "3"  # or Lightning would divide the cores among the processes


@pytest.mark.parametrize("overrides", [["model=mlp"], LARGE])
def test_the_environment_is_respected(overrides, cores):
    cores(3, is_set=True)
    composition, _ = build_on_threads(compose(overrides))
    assert composition.config["threads"] == torch.get_num_threads() == 3


def test_a_number_wins_over_the_rule_and_the_environment(cores):
    cores(3, is_set=True)
    composition, _ = build_on_threads(compose(["threads=2"]))
    assert composition.config["threads"] == torch.get_num_threads() == 2


def test_on_a_gpu_torch_keeps_its_number(cores, monkeypatch):
    cores(6)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    composition, _ = build_on_threads(compose(["trainer=auto"]))
    assert (composition.config["threads"], torch.get_num_threads()) == ("auto", 6)
    composition, _ = build_on_threads(compose(["trainer=cpu"]))
    assert composition.config["threads"] == 1


@pytest.mark.parametrize("overrides", [["model=mlp", "init=orthogonal"], [*LARGE, "init=orthogonal"]])
def test_auto_gives_the_weights_of_its_number_from_the_start(overrides, cores):
    cores(2)
    composition, built = build_on_threads(compose(overrides))
    torch.set_num_threads(composition.config["threads"])
    expected = build(compose(overrides).config).network.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in built.network.state_dict().items())
    assert torch.equal(built.data.train.tensors[0], build(compose(overrides).config).data.train.tensors[0])


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "null", "true"])
def test_other_values_are_refused(value):
    with pytest.raises(RequestError, match="number of threads") as error:
        compose([f"threads={value}"])
    assert error.value.key == "threads"
    assert error.value.allowed == "auto, or an integer from 1"


def test_more_threads_than_cores_are_a_note(monkeypatch):
    monkeypatch.setattr(module, "num_usable_cores", lambda: 2)
    assert note_threads({"threads": 2}) == note_threads({"threads": "auto"}) == []
    (note,) = note_threads({"threads": 3})
    assert "threads=3" in note
    assert "2 cores" in note


def test_a_replay_uses_the_number_of_its_run():
    config = compose(["threads=2"]).config
    build_as_recorded(config)
    assert torch.get_num_threads() == 2
    build_as_recorded({k: v for k, v in config.items() if k != "threads"})  # of an earlier version
    assert torch.get_num_threads() == 2


def test_the_run_keeps_the_number_and_prints_it(cores, tmp_path, monkeypatch, capfd):
    cores(2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["stabletrain", "trainer=debug", "trainer.max_epochs=1", "logger=none", "output_dir=run"]
    )
    for name in OF_USER:  # `main` sets the first of them
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert "1 thread\n" in capfd.readouterr().out
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["threads"] == 1
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("name", OF_USER)
def test_the_users_way_of_waiting_is_kept(name):
    environment = {name: "1"}
    wait_asleep(environment)
    assert environment == {name: "1"}


def test_threads_sleep_by_default():
    environment = {}
    wait_asleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}
