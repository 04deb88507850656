"""Run compositions of options. Each trains for three steps, is watched, saved and reloaded, or is rejected."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import shutil
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from allpairspy import AllPairs
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from recorded_snapshots import snapshots_of

from stabletrain.app.building.build_data import accepted_forms, build_data, examples_of
from stabletrain.app.building.build_model import build_network
from stabletrain.app.building.prepare import prepare
from stabletrain.app.commands.diagnose import examine
from stabletrain.app.composition.compose import Composition, compose
from stabletrain.app.composition.paths import list_groups
from stabletrain.app.console import Console
from stabletrain.errors import RequestError
from stabletrain.record.reader import load_record
from stabletrain.record.run_folder import RunFolder
from stabletrain.training.optimization.stability import NonFiniteGradient
from stabletrain.training.run import execute
from stabletrain.vocabulary.statuses import FINISHED

HERE = Path(__file__).parent
NUM_STEPS = 3
FAMILIES = (
    "mlp",
    "rnn",
    "lstm",
    "gru",
    "cnn",
    "resnet",
    "resnet_pre",
    "densenet1d",
    "transformer",
    "transformer_post",
    "custom",
)
GROUPS = (
    "activation",
    "init",
    "norm",
    "residual",
    "clip",
    "optimizer",
    "schedule",
    "data",
    "trainer",
    "logger",
    "watch",
    "doctor",
)
# Small data, and the settings that an option requires.
SIZES = {
    "data=adding": {"num_steps": 12, "num_train": 64, "num_val": 32, "num_test": 16},
    "data=temporal_order": {"num_steps": 12, "num_train": 64, "num_val": 32, "num_test": 16},
    "data=copy": {"num_steps": 4, "num_train": 64, "num_val": 32, "num_test": 16},
    "data=text": {"path": str(HERE / "matrix_text.txt"), "num_steps": 12},
    "data=table": {"path": str(HERE.parent / "data" / "iris.csv"), "target": "species"},
}
OWN = {
    "model": {"_target_": "matrix_parts.Net", "width": 16},
    "data": {"_target_": "matrix_parts.Waves", "batch_size": 16},
}
SMALL = {"width": 16, "depth": 3}
# Variants of a model: the option, and the settings that differ.
VARIANTS = {"transformer_post": ("transformer", {"placement": "post"}), "resnet_pre": ("resnet", {"order": "pre"})}
# Other options that an option is tried with if it is rejected with the defaults of a model.
SUPPORT = {
    ("init", "depth_scaled"): {"residual": "add"},
    ("init", "fixup"): {"residual": "add"},
    ("residual", "deepnorm"): {"norm": "layer"},
}


@dataclass
class Result:
    """The result of one composition."""

    choices: dict[str, str]
    refusal: str | None = None
    failure: str | None = None
    divergence: str | None = None

    @property
    def outcome(self) -> str:
        """Return the name of the list in `Tally` that the result belongs to."""
        if self.failure:
            return "failed"
        if self.refusal:
            return "refused"
        return "diverged" if self.divergence else "worked"


@dataclass
class Tally:
    """The results of a family."""

    family: str
    worked: list[dict[str, str]] = field(default_factory=list)
    refused: list[Result] = field(default_factory=list)
    diverged: list[Result] = field(default_factory=list)
    failed: list[Result] = field(default_factory=list)
    num_pairs: int = 0
    num_pairs_worked: int = 0
    refused_pairs: dict[tuple[tuple[str, str], tuple[str, str]], str] = field(default_factory=dict)
    missing_pairs: list[tuple] = field(default_factory=list)

    @property
    def num_compositions(self) -> int:
        """Return the number of compositions that were tried."""
        return len(self.worked) + len(self.refused) + len(self.diverged) + len(self.failed)

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons why pairs were rejected, with the number of pairs for each."""
        return Counter(self.refused_pairs.values()).most_common()

    def __str__(self) -> str:
        """Return the counts in one line."""
        reasons = Counter(r.refusal for r in self.refused)
        return (
            f"{self.family}: {self.num_compositions} compositions, "
            f"{len(self.worked)} worked, {len(self.refused)} refused ({len(reasons)} reasons), "
            f"{len(self.diverged)} stopped as they diverged, {len(self.failed)} failed; "
            f"{self.num_pairs} pairs, {self.num_pairs_worked} work, {len(self.refused_pairs)} refused with a reason, "
            f"{len(self.missing_pairs)} unexplained"
        )


# They require a download, or several processes, which test_matrix_strategies.py covers.
UNUSABLE = {"data": {"openml"}, "trainer": {"ddp", "ddp_cpu", "fsdp"}}


@functools.cache
def options(group: str) -> tuple[str, ...]:
    """Return the options of a group that can be tried in one process without a network."""
    return tuple(o for o in list_groups()[group] if o not in UNUSABLE.get(group, ()))


@functools.cache
def base() -> str:
    """Return the default configuration, as JSON."""
    return json.dumps(compose([]).config)


@functools.cache
def section(group: str, option: str) -> str:
    """Return one group's section for an option, as JSON, from a real composition."""
    if option == "custom":
        return json.dumps(OWN[group])
    option, changes = VARIANTS.get(option, (option, {}))
    chosen = compose([f"{group}={option}"]).config[group]
    if isinstance(chosen, dict):
        chosen |= (SMALL if group == "model" else {}) | changes | SIZES.get(f"{group}={option}", {})
    return json.dumps(chosen)


@functools.cache
def defaults(family: str) -> dict[str, str]:
    """Return the default options of a family."""
    if family == "custom":
        return {**defaults("mlp"), "model": family}
    choices = compose([f"model={VARIANTS.get(family, (family,))[0]}"]).choices
    return {"model": family, **{group: choices[group] for group in GROUPS}, "trainer": "cpu", "logger": "none"}


def compose_quickly(choices: dict[str, str], folder: Path) -> Composition:
    """Return the same as `compose`, from sections that are composed only once."""
    config = json.loads(base())
    for group, option in choices.items():
        config[group] = json.loads(section(group, option))
    config["trainer"] |= {
        "max_steps": NUM_STEPS,
        "max_epochs": 1,
        "limit_val_batches": 1,
        "limit_test_batches": 1,
        "log_every_n_steps": 1,
    }
    config["output_dir"] = str(folder)
    for each in config["logger"].values():
        if "save_dir" in each:
            each["save_dir"] = str(folder)
    return Composition(config, choices, (), OmegaConf.create(config))


class SilentConsole(Console):
    """Print nothing."""

    def print(self, text: str = "") -> None:
        pass

    def progress(self, console="default"):
        return Callback()


def run_case(choices: dict[str, str], folder: Path) -> Result:
    """Build, train, watch, save and reload one composition."""
    result = Result(choices)
    run = RunFolder(folder)
    try:
        _train(choices, run)
    except RequestError as error:
        is_explained = error.__cause__ is None or isinstance(error.__cause__, RequestError)
        if is_explained or choices["trainer"] == "gpu":
            result.refusal = error.problem
        else:  # a wrapped exception is a failure, not a refusal
            result.failure = traceback.format_exc()
    except NonFiniteGradient as error:
        result.divergence = str(error)
    except Exception:
        result.failure = traceback.format_exc()
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _train(choices: dict[str, str], run: RunFolder) -> None:
    composition = compose_quickly(choices, run.path)
    prepared = prepare(composition, run, SilentConsole())
    run.path.mkdir(parents=True)
    prepared.record.writer.write_info({"choices": choices})
    outcome = execute(prepared.trainer, prepared.built.module, prepared.built.datamodule, run)
    prepared.record.close()
    if outcome.status != FINISHED:
        raise outcome.error or AssertionError(outcome.status)
    assert outcome.steps == NUM_STEPS
    _require_watched(prepared, run, choices)
    if choices["doctor"] != "off":
        examine(run)
    _require_same_after_reload(prepared, run)


def _require_watched(prepared, run: RunFolder, choices: dict[str, str]) -> None:
    record = load_record(run.path)
    losses = record.scalars["train/loss"].values
    assert len(losses) == NUM_STEPS, losses
    assert all(map(math.isfinite, losses)), losses
    num_parameters = sum(p.requires_grad for p in prepared.built.network.parameters())
    watched = {s.layer for snapshot in snapshots_of(record)[:1] for s in snapshot.layers}
    assert len(watched) == (0 if choices["watch"] == "off" else num_parameters), watched
    for name in ("clip/norm_after", "clip/fraction", "gradient/norm/total"):
        assert len(record.scalars[name].values) == NUM_STEPS


def _require_same_after_reload(prepared, run: RunFolder) -> None:
    config, data = prepared.composition.config, prepared.built.data
    again = build_network(config, data, initialized=False)
    saved = torch.load(run.checkpoints / "last.ckpt", weights_only=True)["state_dict"]
    again.load_state_dict({k.removeprefix("network."): v for k, v in saved.items() if k.startswith("network.")})
    inputs = examples_of(data, 4, "val")
    with torch.no_grad():
        found, expected = again.eval()(inputs), prepared.built.network.eval()(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def pairs_of(choices: dict[str, str]) -> set[tuple]:
    """Return all pairs of options from two groups."""
    return set(itertools.combinations(sorted(choices.items()), 2))


def cover(family: str, folder: Path, say=lambda result: None) -> Tally:
    """Try every pair of options from any two groups, in a composition that works or that is rejected for this pair.

    First, every option is tried alone; if it is rejected, so are all of its pairs. The others are then tried in a
    covering array. If such a composition of twelve options is rejected, or diverges and is stopped, each of its pairs
    is tried again with the defaults of the family, since not every pair is a cause. A single option or pair
    that diverges is a failure.
    """
    tally, known = Tally(family), defaults(family)
    number = itertools.count()
    reasons: dict[tuple[str, str], str] = {}

    def attempt(changes: dict[str, str]) -> Result:
        support = [SUPPORT.get(one, {}) for one in changes.items()] if len(changes) <= 2 else []
        result = run_case(
            known | dict(itertools.chain(*(s.items() for s in support))) | changes, folder / str(next(number))
        )
        if result.divergence and len(changes) <= 2:
            result.failure = result.divergence
        bucket = getattr(tally, result.outcome)
        bucket.append(result.choices if bucket is tally.worked else result)
        say(result)
        return result

    for group in GROUPS:
        for option in options(group):
            result = attempt({group: option})
            if result.refusal:
                reasons[group, option] = result.refusal
    left = {g: [o for o in options(g) if (g, o) not in reasons] for g in GROUPS}
    for row in AllPairs([left[g] for g in GROUPS]):
        attempt(dict(zip(GROUPS, row, strict=True)))
    wanted = {
        tuple(sorted([(g, a), (h, b)]))
        for g, h in itertools.combinations(GROUPS, 2)
        for a in options(g)
        for b in options(h)
    }
    tally.num_pairs = len(wanted)
    covered = set().union(*map(pairs_of, tally.worked)) & wanted
    for pair in sorted(wanted - covered):
        blamed = next((reasons[one] for one in pair if one in reasons), None)
        if blamed is None and pair not in covered:
            result = attempt(dict(pair))
            if result.outcome == "worked":
                covered |= pairs_of(result.choices) & wanted
                continue
            blamed = result.refusal
        if blamed is not None:
            tally.refused_pairs[pair] = blamed
        elif pair not in covered:
            tally.missing_pairs.append(pair)
    tally.num_pairs_worked = len(covered)
    return tally


@contextlib.contextmanager
def shared_data(monkeypatch) -> Iterator[None]:
    """Build each data set only once for all compositions."""
    made: dict[str, object] = {}

    def build_once(config):
        key = json.dumps([config["data"], accepted_forms(config)], sort_keys=True)
        if key not in made:
            made[key] = build_data(config)
        return made[key]

    monkeypatch.setattr("stabletrain.app.building.build.build_data", build_once)
    yield
