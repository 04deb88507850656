"""A watched model can be pickled, copied, saved, traced, scripted, exported, sent and compiled at any moment.

Every public entry is tried in every way at every moment of a step. The results must not differ from those of an
unwatched twin, and the original must still be measured.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
from functools import partial
from multiprocessing.reduction import ForkingPickler

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import stabletrain as st
from stabletrain.network.surgery.reparametrization import reparametrize_
from stabletrain.record.reader import load_record
from stabletrain.torch_tools.module_hooks import ModuleHooks, is_hooked
from stabletrain.training import TrainingModule
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, SIGNALS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module` and is already saved.*"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*`torch.jit.*` is .*deprecated.*"),
    pytest.mark.filterwarnings("ignore:.*is not supported in Python 3.14.*"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
X = torch.randn(600, 3, generator=torch.Generator().manual_seed(0))  # enough samples for `units`


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def with_spectral_norm() -> nn.Module:
    return reparametrize_(make_network(), "spectral")


def with_weight_norm() -> nn.Module:
    return reparametrize_(make_network(), "weight")


def with_replacements() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    st.replace_activations_(network, "prelu")
    return st.replace_norms_(network, "rms")


# ---------------------------------------------------------------- ways to make another module of one


def save_and_load(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "deepcopy": copy.deepcopy,
    "torch.save": save_and_load,
    "spawn": lambda model: pickle.loads(bytes(ForkingPickler.dumps(model))),  # as arguments travel to a process
}


def trace(model):
    traced = torch.jit.trace(model, X[:5], check_trace=False)
    return re.sub(r"\.___torch_mangle_\d+", "", str(traced.inlined_graph)), traced


def script(model):
    scripted = torch.jit.script(model)
    return re.sub(r"\.___torch_mangle_\d+", "", str(scripted.inlined_graph)), scripted


def export(model):
    program = torch.export.export(model, (X[:5],))
    return program.graph_module.code, program.module()


GRAPHS = {"jit.trace": trace, "jit.script": script, "export": export}


def outputs_of(model):
    """Run a copy in evaluation mode: nothing is measured, and no buffer moves."""
    model = copy.deepcopy(model).eval()
    return model(X[:5]).detach()


def hooks_of(module):
    """Return the type and length of every dictionary of hooks but one: weight norm's, which pickles leave out."""
    found = {k: v for k, v in module.__dict__.items() if k.endswith("_hooks") and k != "_load_state_dict_pre_hooks"}
    return {k: (type(v), len(v)) for k, v in found.items()}


def assert_unmarked(other, twin):
    """A copy has the classes, attributes, hooks and state of an unwatched twin."""
    pairs = list(zip(other.named_modules(), twin.named_modules(), strict=True))
    for (path, module), (expected_path, expected) in pairs:
        assert (path, type(module).__qualname__) == (expected_path, type(expected).__qualname__)
        assert module.__dict__.keys() == expected.__dict__.keys()
        assert hooks_of(module) == hooks_of(expected)
        assert not is_hooked(module)


def check_copies(model, twin, ways=COPIES):
    """Every copy is unmarked, holds the same numbers, and computes the same."""
    for way in ways:
        other = COPIES[way](model)
        assert_unmarked(other, twin)
        for (name, value), (expected_name, expected) in zip(
            other.state_dict().items(), model.state_dict().items(), strict=True
        ):
            assert name == expected_name, way
            assert torch.equal(value, expected), way
        assert torch.equal(outputs_of(other), outputs_of(model)), way


def check_graphs(model, twin, ways=GRAPHS):
    """Every graph is that of the twin with the same weights, and computes the same."""
    twin = copy.deepcopy(twin).train(model.training)
    twin.load_state_dict(model.state_dict())
    for way in ways:
        (graph, runs), (expected, _) = GRAPHS[way](model), GRAPHS[way](twin)
        assert graph == expected, way
        assert torch.equal(runs(X[:5]), twin(X[:5])), way


def check_compiled(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled(X[:5]), copy.deepcopy(model).train(model.training)(X[:5]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# ---------------------------------------------------------------- plain loops


def steps_of_watch(model, optimizer, check):
    """Every moment of two steps, all signals due on each."""
    watch = st.Watch(model, optimizer=optimizer, signals=SIGNALS)
    for _ in range(2):
        watch.expect(True)
        assert all(map(is_hooked, model))
        check("before the forward pass")
        loss = model(X).square().mean()
        check("before the backward pass")
        loss.backward()
        check("before the measurement")
        snapshot = watch.step()
        check("before the optimizer's step")
        optimizer.step()
        assert set(SIGNALS) - {"gradient", "units"} == set(snapshot.signals)
        assert (len(snapshot.signals[ACTIVATION]), len(snapshot.signals[DELTA])) == (5, 5)
        assert [m.size for m in snapshot.signals[ACTIVATION]] == [600 * n for n in (8, 8, 8, 8, 2)]
        assert snapshot.units["dead"].keys() == {"L02.2", "L04.4"}
        optimizer.zero_grad()


def steps_of_doctor(model, optimizer, check):
    doctor = st.Doctor(model, optimizer=optimizer)
    for _ in range(2):
        assert all(map(is_hooked, model))
        check("before the forward pass")
        loss = model(X).square().mean()
        check("before the backward pass")
        loss.backward()
        doctor.step(loss)
        check("before the optimizer's step")
        optimizer.step()
        optimizer.zero_grad()
    found = doctor.observations
    assert {ACTIVATION, DELTA, "update", "moment", "clip", "weight", "gradient"} <= found.rms.keys()
    assert list(found.rms[ACTIVATION].steps) == [0, 1]


ENTRIES = {"Watch": steps_of_watch, "Doctor": steps_of_doctor}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_watched_model_is_copied_at_every_moment(entry):
    model = make_network()
    twin, moments = copy.deepcopy(model), []

    def check(moment):
        moments.append(moment)
        check_copies(model, twin)

    ENTRIES[entry](model, torch.optim.Adam(model.parameters(), lr=0.01), check)
    assert len(set(moments)) >= 3


@pytest.mark.parametrize("way", [*GRAPHS, "compile"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_watched_model_becomes_a_graph_at_every_moment(entry, way):
    model = make_network()
    twin, done = copy.deepcopy(model), set()

    def check(moment):
        if moment not in done:
            done.add(moment)
            if way == "compile":
                with torch.no_grad():  # or the pass would be one of the training's, and measured
                    check_compiled(model)
            else:
                check_graphs(model, twin, [way])

    ENTRIES[entry](model, torch.optim.Adam(model.parameters(), lr=0.01), check)
    assert len(done) >= 3


@pytest.mark.parametrize("make", [with_spectral_norm, with_weight_norm, with_replacements])
def test_what_we_change_in_a_model_is_copied_too(make):
    model = make()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = st.Watch(model, optimizer=optimizer, signals=SIGNALS)
    loss = model(X).square().mean()
    check_copies(model, twin)
    loss.backward()
    snapshot = watch.step()
    check_copies(model, twin)
    optimizer.step()
    assert len(snapshot.signals["update"]) == len(list(model.parameters()))
    module = TrainingModule(model, "regression", 2, partial(torch.optim.SGD, lr=0.1))
    assert torch.equal(outputs_of(COPIES["pickle"](module).network), outputs_of(model))


def test_a_watched_model_is_sent_to_a_process(tmp_path):
    models = {entry: make_network() for entry in ENTRIES}
    twin = make_network()
    watches = [st.Watch(models["Watch"], signals=["activation", "units"]), st.Doctor(models["Doctor"])]
    process = torch.multiprocessing.get_context("spawn").Process(target=torch.save, args=(models, tmp_path / "models"))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert len(watches) == 2
    for entry, other in torch.load(tmp_path / "models", weights_only=False).items():
        assert is_hooked(models[entry])
        assert_unmarked(other, twin)
        assert torch.equal(outputs_of(other), outputs_of(twin))


def test_a_watch_may_be_copied_with_the_module_that_keeps_it():
    model = make_network()
    model.doctor = st.Doctor(model)
    other = copy.deepcopy(model)
    assert is_hooked(model)
    assert not any(map(is_hooked, other.modules()))
    assert torch.equal(other(X[:5]), model(X[:5]))
    other(X).sum().backward()
    other.doctor.step(1.0)
    assert list(other.doctor.observations.rms) == ["gradient", "weight"]


# ---------------------------------------------------------------- Lightning, with the patterns of other projects


class TemplateModule(pl.LightningModule):
    """As in lightning-hydra-template: the network and the optimizer's factory are hyperparameters."""

    def __init__(self, net: nn.Module, optimizer, compile: bool = False):
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.net = net
        self.criterion = nn.MSELoss()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return self.hparams.optimizer(self.parameters())

    @property
    def checked(self):
        return self.net


class SquaredError(nn.Module):
    def forward(self, outputs, targets):
        return (outputs - targets).square().mean()


class ForecastingModule(pl.LightningModule):
    """As in pytorch-forecasting: the loss and the metrics, which are modules, are hyperparameters of a base class."""

    def __init__(self, loss: nn.Module, logging_metrics: nn.ModuleList, output_transformer: nn.Module):
        super().__init__()
        self.save_hyperparameters()
        self.loss, self.logging_metrics, self.net = loss, logging_metrics, output_transformer

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        outputs = self(batch[0])
        for metric in self.logging_metrics:
            self.log("train/metric", metric(outputs.detach(), batch[1]))
        return self.loss(outputs, batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    @property
    def checked(self):
        return self.net


def template():
    return TemplateModule(make_network(), partial(torch.optim.Adam, lr=0.01))


def forecasting():
    return ForecastingModule(SquaredError(), nn.ModuleList([SquaredError()]), make_network())


class CheckAtEveryHook(Callback):
    """Copies the network and writes a checkpoint wherever Lightning calls back within a step."""

    def __init__(self, twin, folder):
        self.twin, self.folder, self.moments = twin, folder, set()

    def _check(self, trainer, module, moment):
        if trainer.global_step < 3 and (moment, trainer.global_step) not in self.moments:
            self.moments.add((moment, trainer.global_step))
            check_copies(module.checked, self.twin)
            trainer.save_checkpoint(self.folder / f"{moment}-{trainer.global_step}.ckpt")

    def on_train_batch_start(self, trainer, module, *_):
        self._check(trainer, module, "start")

    def on_before_backward(self, trainer, module, *_):
        self._check(trainer, module, "forward")

    def on_after_backward(self, trainer, module):
        self._check(trainer, module, "backward")

    def on_before_optimizer_step(self, trainer, module, *_):
        self._check(trainer, module, "step")

    def on_train_batch_end(self, trainer, module, *_):
        self._check(trainer, module, "end")


def fit(module, callbacks, folder):
    trainer = pl.Trainer(
        logger=False,
        callbacks=[*callbacks, ModelCheckpoint(folder / "each", every_n_train_steps=2, save_top_k=-1)],
        default_root_dir=folder / "tensorboard",  # where `load_record` reads
        max_steps=6,
        max_epochs=-1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(X, X[:, :2]), batch_size=100))
    return trainer


CALLBACKS = {
    "GradientWatch": lambda: [st.callbacks.GradientWatch(1, 1, signals=SIGNALS, signals_every=1)],
    "Doctor": lambda: [st.callbacks.Doctor(say=lambda line: None)],
    "both": lambda: [
        st.callbacks.GradientWatch(1, 1, signals=SIGNALS, signals_every=1),
        st.callbacks.Doctor(say=lambda line: None),
        st.callbacks.OffenderBundle(),
    ],
}


@pytest.mark.parametrize("make", [template, forecasting])
@pytest.mark.parametrize("callbacks", CALLBACKS)
def test_checkpoints_hold_a_network_without_hooks(tmp_path, callbacks, make):
    module = make()
    twin = copy.deepcopy(module.checked)
    check = CheckAtEveryHook(twin, tmp_path)
    fit(module, [*CALLBACKS[callbacks](), check], tmp_path)
    assert {moment for moment, _ in check.moments} == {"start", "forward", "backward", "step", "end"}
    paths = [*tmp_path.glob("*.ckpt"), *(tmp_path / "each").glob("*.ckpt")]
    assert len(paths) >= 15 + 2
    key = "net" if make is template else "output_transformer"
    for path in paths:
        kept = torch.load(path, weights_only=False)["hyper_parameters"]
        assert_unmarked(kept[key], twin)
        loaded = type(module).load_from_checkpoint(path, weights_only=False)
        assert not any(is_hooked(m) or m._forward_hooks for m in loaded.modules())
    last = max((tmp_path / "each").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    loaded = type(module).load_from_checkpoint(last, weights_only=False)
    assert torch.equal(outputs_of(loaded.checked), outputs_of(module.checked))
    record = load_record(tmp_path)
    layers = [name for name in record.of_layers("activation/rms") if ".net." in name]
    assert len(layers) == 5, list(record.of_layers("activation/rms"))
    if callbacks != "Doctor":
        assert all(list(series.steps) == list(range(6)) for series in record.of_layers("activation/rms").values())
    assert not any(map(is_hooked, module.modules()))


# ---------------------------------------------------------------- Hugging Face


def test_a_model_watched_in_a_hugging_face_trainer_is_copied(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    from stabletrain.integrations.huggingface import WatchCallback

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = make_network()

        def forward(self, x, labels):
            outputs = self.network(x)
            return {"loss": (outputs - labels).square().mean(), "logits": outputs}

    model, moments = Model(), []
    twin = copy.deepcopy(model.network)

    class Check(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            moments.append("start")
            check_copies(model.network, twin)

        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            moments.append("step")
            check_copies(model.network, twin)

    class Trainer(transformers.Trainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            moments.append("forward")
            check_copies(model.network, twin)
            return loss

    settings = {"report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "max_steps": 2}
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=100, **settings)
    rows = [{"x": x, "labels": x[:2]} for x in X]
    watch = WatchCallback(statistics_every=1, histograms_every=1, signals=SIGNALS, signals_every=1)
    Trainer(model, arguments, train_dataset=rows, callbacks=[watch, Check()]).train()
    assert set(moments) == {"start", "forward", "step"}
    assert all(list(series.steps) == [0, 1] for series in load_record(tmp_path).of_layers("activation/rms").values())


# ---------------------------------------------------------------- controls


def test_the_table_fails_for_a_hook_that_hangs_on_the_module():
    model = make_network()
    twin = copy.deepcopy(model)
    check_copies(model, twin)

    def look(*_):
        """A local function, as our hooks once were."""

    model[1].register_forward_hook(look)
    with pytest.raises(AttributeError, match=r"Can't (pickle|get) local object"):
        check_copies(model, twin, ["pickle"])
    with pytest.raises(AssertionError):
        check_copies(model, twin, ["deepcopy"])


def test_the_table_fails_for_a_hook_that_measures_while_a_graph_is_recorded():
    model = make_network()
    twin = copy.deepcopy(model)
    check_graphs(model, twin, ["jit.trace"])
    model[1].register_forward_hook(lambda module, inputs, output: output * 1)
    with pytest.raises(AssertionError):
        check_graphs(model, twin, ["jit.trace"])


def test_hooks_end_with_their_owner():
    class Owner:
        def note(self, key, module, inputs, output):
            seen.append(key)

    seen, layer, owner, hooks = [], nn.Linear(3, 2), Owner(), ModuleHooks(after=Owner.note)
    hooks.open(owner, after=[(layer, "a")])
    layer(X)
    del owner
    layer(X)
    assert (seen, hooks.is_open, is_hooked(layer)) == (["a"], False, False)


def test_replicas_of_data_parallelism_are_watched():
    model = nn.Linear(3, 2)
    watch = st.Watch(model, signals=[ACTIVATION])
    replica = model._replicate_for_data_parallel()
    replica.weight, replica.bias = model.weight, model.bias
    replica(X).sum().backward()
    assert watch.step().signals[ACTIVATION][0].size == 1200
