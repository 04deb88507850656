"""TrainCheck's silent errors (Jiang et al., OSDI 2025), rebuilt small where one process of plain PyTorch can have them.

python -m benchmarks.doctor.public.silent [--bare]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stabletrain as st
from benchmarks.doctor.public.data import make_data

STEPS = 300
Run = Callable[[bool, bool], st.Doctor]  # whether the error is in it, and whether the doctor knows the model only


@dataclass(frozen=True)
class Silent:
    """A silent error.

    Attributes:
        name: As in TrainCheck's artifact.
        error: What goes wrong.
        run: Trains with or without the error; None where one process of plain PyTorch cannot have it.
        causes: Kinds that name it; none where no kind does.
        why_not: Why it is not rebuilt, or why no kind names it.
    """

    name: str
    error: str
    run: Run | None = None
    causes: tuple[str, ...] = ()
    why_not: str = ""


def _network(norm: bool = False) -> nn.Sequential:
    layers = [nn.Linear(64, 64), *([nn.BatchNorm1d(64)] if norm else []), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def _batch(step: int) -> tuple[Tensor, Tensor]:
    data = make_data("digits")
    index = torch.randint(0, len(data.x), (64,), generator=torch.Generator().manual_seed(step))
    return data.x[index], data.y[index]


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    is_bare: bool,
    reset: Callable[[int], object] | None = None,
    batch: Callable[[int], tuple[Tensor, Tensor]] = _batch,
) -> st.Doctor:
    """Train; `reset` takes the place of the optimizer's `zero_grad`."""
    told = {} if is_bare else {"optimizer": optimizer, "num_steps": STEPS, "prior_loss": 2.302}
    doctor = st.Doctor(model, **told)
    for step in range(STEPS):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad() if reset is None else reset(step)
        loss.backward()
        doctor.step(loss)
        optimizer.step()
    return doctor


def _without_zero_grad(is_wrong: bool, is_bare: bool) -> st.Doctor:
    model = _network()
    return _train(model, torch.optim.SGD(model.parameters(), 0.1), is_bare, (lambda step: None) if is_wrong else None)


def _stale_reset(is_wrong: bool, is_bare: bool) -> st.Doctor:
    """From step 30 on, gradients are no longer reset, as by a compiled step that lacks a guard."""
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return _train(model, optimizer, is_bare, lambda step: None if is_wrong and step >= 30 else optimizer.zero_grad())


def _frozen_in_optimizer(is_wrong: bool, is_bare: bool) -> st.Doctor:
    """The optimizer has the frozen backbone, which was trained before, and not the new head."""
    model = _network()
    pretraining = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(100):
        x, y = _batch(step)
        pretraining.zero_grad()
        F.cross_entropy(model(x), y).backward()
        pretraining.step()
    model[0].requires_grad_(False)
    model[-1].reset_parameters()
    parameters = model[0].parameters() if is_wrong else model[-1].parameters()
    return _train(model, torch.optim.Adam(parameters, 3e-3), is_bare)


def _moved_parameters(is_wrong: bool, is_bare: bool) -> st.Doctor:
    """The model's parameters are replaced after the optimizer has taken the old ones."""
    model = _network()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for module in model.modules() if is_wrong else ():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.detach().clone()))
    return _train(model, optimizer, is_bare)


def _optimizer_of_a_copy(model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer of a copy of the model that has its gradients, and that nobody uses."""
    copy = _network()
    copy.load_state_dict(model.state_dict())
    for mine, theirs in zip(copy.parameters(), model.parameters(), strict=True):
        theirs.register_post_accumulate_grad_hook(lambda p, mine=mine: setattr(mine, "grad", p.grad.clone()))
    return torch.optim.Adam(copy.parameters(), 3e-3)


def _steps_on_a_copy(is_wrong: bool, is_bare: bool) -> st.Doctor:
    model = _network()
    optimizer = _optimizer_of_a_copy(model) if is_wrong else torch.optim.Adam(model.parameters(), 3e-3)
    return _train(model, optimizer, is_bare, lambda step: model.zero_grad())


def _left_in_eval(is_wrong: bool, is_bare: bool) -> st.Doctor:
    """The model is put into evaluation mode before the first forward pass and stays there."""
    model = _network(norm=True)
    nn.utils.parametrizations.spectral_norm(model[0])
    model.train(not is_wrong)
    return _train(model, torch.optim.Adam(model.parameters(), 3e-3), is_bare)


def _same_augmentation(is_wrong: bool, is_bare: bool) -> st.Doctor:
    """Each batch has the same random noise, as workers with a common seed give it."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        x, y = _batch(step)
        return x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0 if is_wrong else step)), y

    model = _network()
    return _train(model, torch.optim.Adam(model.parameters(), 3e-3), is_bare, batch=batch)


_HARDWARE = "several GPUs whose communication loses data"
_DISTRIBUTED = "several processes"
_INFERENCE = "inference only"

SILENT = (
    Silent("stackoverflow-60335387", "`zero_grad` is missing", _without_zero_grad, ("gradients_accumulate",)),
    Silent("pytorch-115607", "gradients are no longer reset", _stale_reset, ("gradients_accumulate",)),
    Silent("pytorch-forum-84911", "the optimizer has only frozen parameters", _frozen_in_optimizer, ("not_optimized",)),
    Silent("accelerate-2665", "the optimizer has the parameters from before", _moved_parameters, ("not_optimized",)),
    Silent("x-mattjiang", "gradients are applied to another copy of the model", _steps_on_a_copy, ("not_optimized",)),
    Silent("pytorch-51800", "`eval` before the first forward pass", _left_in_eval, ("wrong_mode",)),
    Silent(
        "stackoverflow-67180955",
        "workers return the same augmentation",
        _same_augmentation,
        why_not="training goes well: what should differ is known to its author only",
    ),
    Silent("mmpretrain-702", "stages meant to be frozen are not", why_not="what is meant is known to its author only"),
    Silent("lightning-thunder-725", "autocast is not applied", why_not="a compiler that is no part of PyTorch"),
    Silent("transformers-17877", "weights are initialized several times", why_not="slow, not wrong"),
    Silent("transformers-33844", "dropout stays active in evaluation", why_not=_INFERENCE),
    Silent("transformers-23723", "too many tokens are generated", why_not=_INFERENCE),
    Silent("transformers-34204", "a processor merges a batch", why_not="data processing of one library"),
    Silent("deepspeed-1801", "layer norms differ among tensor-parallel ranks", why_not=_DISTRIBUTED),
    Silent("deepspeed-5794", "experts communicate out of step", why_not=_DISTRIBUTED),
    Silent("pytorch-104336", "gradients are not synchronized", why_not=_DISTRIBUTED),
    Silent("x-jxmnop-ddp-out-of-sync", "gradients are not synchronized", why_not=_DISTRIBUTED),
    Silent("pytorch-84803", "gradients are lost", why_not=_HARDWARE),
    Silent("pytorch-96600", "gradients are lost", why_not=_HARDWARE),
    Silent("baichuan2-86", "activations are lost", why_not=_HARDWARE),
)


def alarms(run: Run, is_wrong: bool, is_bare: bool) -> list[str]:
    """Return the kinds of the alarms, first the cause."""
    torch.manual_seed(0)
    doctor = run(is_wrong, is_bare)
    found = [finding.kind for finding in doctor.findings if finding.alarms]
    doctor.detach()
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bare", action="store_true", help="tell the doctor nothing but the model")
    is_bare = parser.parse_args().bare
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print("| error | what | the doctor's alarms | named | without the error |\n|---|---|---|---|---|")
    for silent in SILENT:
        if silent.run is None:
            print(f"| `{silent.name}` | {silent.error} | n/a: {silent.why_not} | | |")
            continue
        wrong, right = alarms(silent.run, True, is_bare), alarms(silent.run, False, is_bare)
        named = silent.why_not or ("yes" if wrong and wrong[0] in silent.causes else "no")
        cells = (f"`{silent.name}`", silent.error, ", ".join(wrong) or "none", named, ", ".join(right) or "none")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
