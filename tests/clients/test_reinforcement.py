"""stable-baselines3's DQN and PPO, whose loop calls no hook of ours: the doctor is called where the optimizer steps."""

from __future__ import annotations

import functools

import pytest
from client_runs import FAULTS, Run, break_, check_broken, check_healthy, rate, weights_of
from torch.optim.optimizer import register_optimizer_step_pre_hook

import stabletrain as st

sb3 = pytest.importorskip("stable_baselines3")
pytest.importorskip("gymnasium")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

DQN = {
    "learning_starts": 100,
    "train_freq": 1,
    "target_update_interval": 100,
    "exploration_fraction": 0.3,
    "policy_kwargs": {"net_arch": [32, 32]},
}
ALGORITHMS = {
    "dqn": (sb3.DQN, 1e-3, DQN, 3000),
    "ppo": (sb3.PPO, 3e-4, {"n_steps": 128, "n_epochs": 4, "batch_size": 32}, 1000),
}


@functools.cache
def make_client(name):
    algorithm, lr, settings, num_steps = ALGORITHMS[name]

    def train(fault, watched, folder) -> Run:
        model = algorithm("MlpPolicy", "CartPole-v1", learning_rate=rate(lr, fault), seed=0, device="cpu", **settings)
        trained = model.q_net if name == "dqn" else model.policy
        break_(trained, fault)
        doctor = st.Doctor(trained, optimizer=model.policy.optimizer) if watched else None
        if doctor is not None:  # a global hook, which runs before those of the optimizer itself
            optimizer = model.policy.optimizer

            def measure(stepped, *_) -> None:
                if stepped is optimizer:
                    doctor.step()

            handle = register_optimizer_step_pre_hook(measure)
        try:
            model.learn(num_steps)
        except ValueError:  # torch's distributions refuse NaN
            if fault is None:
                raise
        finally:
            if doctor is not None:
                handle.remove()
        returns = [-float(episode["r"]) for episode in model.ep_info_buffer or ()]
        if doctor is None:
            return Run(weights_of(trained), losses=returns)
        return Run(weights_of(trained), doctor.verdict, doctor.findings, returns)

    return train


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_healthy_run_is_left_alone(name, tmp_path):
    check_healthy(make_client(name), tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_broke_it_comes_first(name, fault, tmp_path):
    check_broken(make_client(name), fault, tmp_path)
