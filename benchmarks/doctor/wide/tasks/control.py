"""Reinforcement learning in two tiny environments: policy gradients and Q-learning."""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.program import Batch, Program
from benchmarks.doctor.wide.tasks.layers import Body, mlp


class Corridor:
    """A corridor of five places: the state is the place and the goal, the actions are left, stay and right.

    The goal is at a random place; the reward of a step is 1 at the goal, else 0, for six steps.
    """

    size, horizon, num_actions = 5, 6, 3

    def start(self, count: int, generator: Generator) -> Tensor:
        """Return places and goals (count, 2)."""
        return torch.randint(self.size, (count, 2), generator=generator)

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next states (N, 2) and rewards (N,)."""
        place = (state[:, 0] + action - 1).clamp(0, self.size - 1)
        return torch.stack([place, state[:, 1]], 1), (place == state[:, 1]).float()

    def features(self, state: Tensor) -> Tensor:
        """Return place and goal, each one-hot (…, 10)."""
        return F.one_hot(state, self.size).flatten(-2).float()

    def best(self, state: Tensor) -> float:
        """Return the mean reward per step of the best policy."""
        distance = (state[:, 0] - state[:, 1]).abs()
        return ((self.horizon - (distance - 1).clamp(min=0)).clamp(min=0) / self.horizon).mean().item()


class _PolicyGradient(Program):
    """Points: 100 times the return, as a share of the best policy's, when the likeliest action is taken."""

    has_float_inputs = False
    has_targets = False
    world = Corridor()

    @torch.no_grad()
    def batch(self, size: int, generator: Generator) -> Batch:
        """Return the features (T · N, F), actions and discounted returns of episodes under the current policy."""
        state, rows = self.world.start(size, generator), []
        for _ in range(self.world.horizon):
            features = self.world.features(state)
            logits = self.logits(features).float()
            if not logits.isfinite().all():
                logits = torch.zeros_like(logits)
            action = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
            state, reward = self.world.move(state, action)
            rows.append((features, action, reward))
        features, actions, rewards = (torch.stack(x) for x in zip(*rows, strict=True))
        weights = 0.8 ** (torch.arange(len(rewards))[None] - torch.arange(len(rewards))[:, None]).float()
        returns = weights.triu() @ rewards
        return features.flatten(0, 1), actions.flatten(), returns.flatten()

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits of the actions."""
        return self.model(features)

    def score(self) -> float:
        state = torch.cartesian_prod(*2 * [torch.arange(self.world.size)])
        best, total = self.world.best(state), 0.0
        for _ in range(self.world.horizon):
            state, reward = self.world.move(state, self.logits(self.world.features(state)).argmax(-1))
            total += reward.mean().item() / self.world.horizon
        return 100.0 * total / best


class Reinforce(_PolicyGradient):
    """The policy gradient with the batch's mean return as baseline (Williams 1992)."""

    batch_size = 32
    num_steps = 200
    lr = 1e-2
    sgd_lr = 0.3
    parts = ("body.0", "head")

    def __init__(self, seed: int) -> None:
        self.networks = {"model": Body(nn.Sequential(nn.Linear(10, 48), nn.Tanh()), nn.Linear(48, 3))}

    def loss(self, batch: Batch, network: str) -> Tensor:
        features, actions, returns = batch
        chosen = self.logits(features).log_softmax(-1).gather(1, actions[:, None])[:, 0]
        return -(chosen * (returns - returns.mean())).mean()


class _ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 48), nn.Tanh())
        self.actor, self.critic = nn.Linear(48, 3), nn.Linear(48, 1)
        with torch.no_grad():
            self.actor.weight.mul_(0.01)  # as is usual for a policy's last layer (Andrychowicz et al. 2021)


class ActorCritic(_PolicyGradient):
    """A clipped policy gradient with a value function and a bonus for entropy (Schulman et al. 2017), one epoch."""

    head = "actor"
    batch_size = 32
    num_steps = 150
    lr = 1e-2
    sgd_lr = 0.1
    parts = ("body.0", "actor", "critic")

    def __init__(self, seed: int) -> None:
        self.networks = {"model": _ActorCritic()}

    def logits(self, features: Tensor) -> Tensor:
        return self.model.actor(self.model.body(features))

    def loss(self, batch: Batch, network: str) -> Tensor:
        features, actions, returns = batch
        h = self.model.body(features)
        log_p, value = self.model.actor(h).log_softmax(-1), self.model.critic(h)[:, 0]
        advantage = (returns - value).detach()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-6)
        chosen = log_p.gather(1, actions[:, None])[:, 0]
        ratio = (chosen - chosen.detach()).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
        bonus = -(log_p.exp() * log_p).sum(1).mean()
        return -gain + 0.5 * F.mse_loss(value, returns) - 0.01 * bonus


class QLearning(Program):
    """Q-learning from random transitions, with targets from the network itself; points as for policies."""

    parts = ("body.0", "head")
    has_float_inputs = False
    has_column = True
    num_steps = 300
    batch_size = 64
    lr = 1e-2
    sgd_lr = 0.1
    discount = 0.8
    world = Corridor()

    def __init__(self, seed: int) -> None:
        self.networks = {"model": Body(nn.Sequential(nn.Linear(10, 64), nn.ReLU()), nn.Linear(64, 3))}
        self.target = self.model

    @torch.no_grad()
    def batch(self, size: int, generator: Generator) -> Batch:
        """Return features, actions (N, 1) and targets (N, 1)."""
        state = self.world.start(size, generator)
        action = torch.randint(3, (size,), generator=generator)
        after, reward = self.world.move(state, action)
        future = self.target(self.world.features(after)).float().amax(1)
        return self.world.features(state), action[:, None], (reward + self.discount * future)[:, None]

    def loss(self, batch: Batch, network: str) -> Tensor:
        features, action, target = batch
        return F.smooth_l1_loss(self.model(features).gather(1, action), target)

    def score(self) -> float:
        state = torch.cartesian_prod(*2 * [torch.arange(self.world.size)])
        best, total = self.world.best(state), 0.0
        for _ in range(self.world.horizon):
            state, reward = self.world.move(state, self.model(self.world.features(state)).argmax(-1))
            total += reward.mean().item() / self.world.horizon
        return 100.0 * total / best


class TargetNetwork(QLearning):
    """Deep Q-learning: two layers, a replay of old transitions, and targets from a copy (Mnih et al. 2015)."""

    parts = ("body.0", "body.2", "head")
    num_steps = 300
    lr = 3e-3
    sgd_lr = 0.1
    every = 10

    def __init__(self, seed: int) -> None:
        self.networks = {"model": Body(nn.Sequential(*mlp(10, 64, 64), nn.ReLU()), nn.Linear(64, 3))}
        self.target = copy.deepcopy(self.model)
        self.replay = self.world.start(2000, torch.Generator().manual_seed(seed))

    def batch(self, size: int, generator: Generator) -> Batch:
        chosen = self.replay[torch.randint(len(self.replay), (size,), generator=generator)]
        with torch.no_grad():
            action = torch.randint(3, (size,), generator=generator)
            after, reward = self.world.move(chosen, action)
            future = self.target(self.world.features(after)).float().amax(1)
        return self.world.features(chosen), action[:, None], (reward + self.discount * future)[:, None]

    def after_step(self, step: int) -> None:
        if step % self.every == 0:
            self.target.load_state_dict(self.model.state_dict())
