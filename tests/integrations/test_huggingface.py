"""The callback in a real Hugging Face `Trainer`: the numbers of a plain loop, and no weight changed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import stabletrain as st
from stabletrain.app.output_dir import open_run
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.reader import load_record
from stabletrain.torch_tools.module_hooks import is_hooked
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import verdict_of

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
# warnings of transformers about itself and about a machine without a GPU
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]

NUM_STEPS, BATCH, LENGTH, VOCABULARY, LR = 6, 4, 8, 40, 0.05


@pytest.fixture(scope="module")
def dataset() -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(VOCABULARY, (NUM_STEPS * BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[:, 0] = -100  # the first token is no target; the trainer and the model then average the loss alike
    return [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]


def make_gpt2(**more):
    torch.manual_seed(0)
    sizes = {
        "n_positions": LENGTH,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    } | more
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **dict.fromkeys(DROPOUTS, 0.0))
    )


def make_bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=VOCABULARY, **sizes))  # with dropout


DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def train(model, dataset, folder, callbacks=(), **settings):
    """Train on the examples in order, with plain SGD by default."""
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": BATCH,
            "max_steps": NUM_STEPS,
            "learning_rate": LR,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "weight_decay": 0.0,
            "max_grad_norm": 0.0,
            "logging_steps": 2,
            "train_sampling_strategy": "sequential",
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        },
    )
    transformers.Trainer(model, arguments, train_dataset=dataset, callbacks=list(callbacks)).train()
    return model


def make_callback(*arguments, **settings):
    from stabletrain.integrations.huggingface import WatchCallback

    return WatchCallback(*arguments, **settings)


def every_step(**settings):
    return make_callback(**{"statistics_every": 1, "histograms_every": 1, **settings})


def plain_loop(model, dataset, *, micro=1, max_norm=0.0, lr=LR) -> list[st.Snapshot]:
    """The same training, written out."""
    model.train()
    watch, optimizer, snapshots = st.Watch(model), torch.optim.SGD(model.parameters(), lr=lr), []
    batches = [dataset[i : i + BATCH] for i in range(0, len(dataset), BATCH)]
    for start in range(0, len(batches), micro):
        for batch in batches[start : start + micro]:
            x, y = (torch.stack([row[key] for row in batch]) for key in ("input_ids", "labels"))
            (model(input_ids=x, labels=y).loss / micro).backward()
        if max_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        snapshots.append(watch.step())
        optimizer.step()
        optimizer.zero_grad()
    return snapshots


def assert_same(record, snapshots, tolerance=1e-6):
    assert record.layers == [x.layer for x in snapshots[0].layers]
    series = record.of_layers(names.GRADIENT_RMS)
    for i, snapshot in enumerate(snapshots):
        for expected in snapshot.layers:
            assert series[expected.layer].steps[i] == i
            assert series[expected.layer].values[i] == pytest.approx(expected.rms, rel=tolerance)
            assert record.histograms[expected.layer][i].size == expected.size


def test_it_records_the_numbers_of_a_plain_loop(dataset, tmp_path, capsys):
    train(make_gpt2(), dataset, tmp_path, [every_step()])
    record, snapshots = load_record(tmp_path), plain_loop(make_gpt2(), dataset)
    assert len(snapshots) == NUM_STEPS
    assert_same(record, snapshots)
    layer = record.layers[3]
    expected = np.asarray(snapshots[2][layer].histogram.counts)
    assert np.abs(record.histograms[layer][2].counts - expected).sum() <= 0.02 * expected.sum()  # rounding moves a few
    assert record.scalars[names.TRAIN_LOSS].steps == [*range(NUM_STEPS)]
    assert record.scalars[names.LR].steps == [0]
    assert record.scalars[names.LR].values == pytest.approx([LR])
    out = capsys.readouterr().out
    assert f"verdict: healthy   after {NUM_STEPS} steps" in out
    assert f"python -m stabletrain report {tmp_path}" in out


def test_micro_batches_count_as_one_step(dataset, tmp_path):
    train(make_gpt2(), dataset, tmp_path, [every_step()], gradient_accumulation_steps=2, max_steps=3)
    assert_same(load_record(tmp_path), plain_loop(make_gpt2(), dataset, micro=2), 1e-5)


def test_the_gradient_is_the_clipped_one_and_the_norm_that_before(dataset, tmp_path):
    max_norm = 0.1
    train(make_gpt2(), dataset, tmp_path, [every_step()], max_grad_norm=max_norm, logging_steps=1)
    record = load_record(tmp_path)
    assert_same(record, plain_loop(make_gpt2(), dataset, max_norm=max_norm), 1e-5)
    before = record.scalars[names.NORM_TOTAL].values
    assert min(before) > 2 * max_norm
    series = record.of_layers(names.GRADIENT_RMS)
    after = sum(s.values[0] ** 2 * record.histograms[layer][0].size for layer, s in series.items()) ** 0.5
    assert after == pytest.approx(max_norm, rel=1e-4)


@pytest.mark.parametrize("make", [make_gpt2, make_bert])
def test_it_changes_no_weight(make, dataset, tmp_path):
    settings = {"optim": "adamw_torch", "max_grad_norm": 1.0}
    signals = ("gradient", "delta", "activation", "weight", "update", "moment", "clip")
    callback = every_step(signals=signals, signals_every=1)
    watched = train(make(), dataset, tmp_path / "watched", [callback], **settings)
    alone = train(make(), dataset, tmp_path / "alone", **settings)
    start, moved = make().state_dict(), 0
    for name, weight in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], weight)
        moved += not torch.equal(start[name], weight)
    assert moved > 20
    assert not any(map(is_hooked, watched.modules()))


def test_the_other_signals_are_there(dataset, tmp_path):
    signals = ("gradient", "delta", "activation", "update", "moment")
    callback = every_step(signals=signals, signals_every=3)
    model = make_gpt2()
    before = copy.deepcopy(model.state_dict())
    train(model, dataset, tmp_path, [callback], optim="adamw_torch", max_steps=1)
    record = load_record(tmp_path)
    for signal in signals:
        assert record.of_layers(names.of_signal(signal, names.RMS)), signal
    series = record.of_layers(names.of_signal("update", names.RMS))
    for layer, found in series.items():
        path = layer.partition(".")[2]
        change = model.state_dict()[path] - before[path]
        assert found.values == [pytest.approx(change.square().mean().sqrt().item(), rel=1e-5)]


def test_the_cadence_is_kept(dataset, tmp_path):
    train(make_gpt2(), dataset, tmp_path, [make_callback(statistics_every=2, histograms_every=5)])
    record = load_record(tmp_path)
    layer = record.layers[0]
    assert record.of_layers(names.GRADIENT_RMS)[layer].steps == [0, 1, 3, 4, 5]
    assert list(record.histograms[layer]) == [0, 4]


def test_the_folder_is_a_run(dataset, tmp_path):
    train(make_gpt2(), dataset, tmp_path / "trainer", [every_step(output_dir=tmp_path / "mine")])
    folder = open_run(str(tmp_path / "mine"))
    summary = folder.read_summary()
    assert (summary["status"], summary["verdict"], summary["steps"]) == ("finished", "healthy", NUM_STEPS)
    assert 0 < summary["watch_overhead"] < 1
    assert json.loads(folder.findings.read_text()) == []
    assert not (tmp_path / "trainer/tensorboard").exists()


def _pass_a_millionth_back(module, inputs, output):
    hidden = output[0] if isinstance(output, tuple) else output
    hidden.register_hook(lambda gradient: gradient * 1e-6)


def test_a_vanishing_gradient_is_named(dataset, tmp_path, capsys):
    model = make_gpt2(tie_word_embeddings=False)
    model.transformer.h[0].register_forward_hook(_pass_a_millionth_back)
    train(model, dataset, tmp_path, [every_step()], learning_rate=1e-9)
    findings = diagnose(observe(load_record(tmp_path)))
    assert verdict_of(findings) == "vanishing"
    assert "\n".join(describe(findings, NUM_STEPS)) in capsys.readouterr().out
    assert json.loads((tmp_path / "findings.json").read_text())[0]["kind"] == "vanishing"


def test_every_loss_and_norm_is_recorded_however_rarely_the_trainer_logs(dataset, tmp_path):
    from accelerate import Accelerator

    methods = Accelerator.backward, Accelerator.clip_grad_norm_
    settings = {"gradient_accumulation_steps": 2, "max_steps": 3, "logging_steps": 500, "max_grad_norm": 0.5}
    train(make_gpt2(), dataset, tmp_path, [make_callback()], **settings)
    record = load_record(tmp_path)
    model, expected = make_gpt2(), []
    for i in range(2):  # the loss of the first step, before any weight changed
        rows = dataset[i * BATCH : (i + 1) * BATCH]
        x, y = (torch.stack([row[key] for row in rows]) for key in ("input_ids", "labels"))
        expected.append(float(model(input_ids=x, labels=y).loss.detach()))
    losses = record.scalars[names.TRAIN_LOSS]
    assert losses.steps == [0, 1, 2]
    assert losses.values[0] == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert record.scalars[names.NORM_TOTAL].steps == [0, 1, 2]
    assert record.scalars[names.NORM_AFTER].values == pytest.approx([0.5] * 3, rel=1e-4)
    assert record.scalars[names.CLIP_FRACTION].values[-1] == 1.0
    assert (Accelerator.backward, Accelerator.clip_grad_norm_) == methods


@pytest.mark.parametrize("micro", [1, 2])
def test_the_loss_at_chance_level_is_inferred_from_the_first_steps(micro, dataset, tmp_path):
    settings = {"gradient_accumulation_steps": micro, "max_steps": NUM_STEPS // micro}
    train(make_gpt2(), dataset, tmp_path, [make_callback()], **settings)
    training = load_record(tmp_path).info["training"]
    assert training["prior_loss"] == pytest.approx(np.log(VOCABULARY), rel=0.06)  # of few tokens
    assert training["prior_is_measured"]


def test_metrics_of_the_evaluation_are_found_under_their_names(dataset, tmp_path):
    from stabletrain.integrations.huggingface import _of_evaluation

    assert [_of_evaluation(name) for name in ("eval_loss", "eval_accuracy", "loss", "eval_runtime")] == [
        names.VAL_LOSS,
        names.VAL_ACCURACY,
        None,
        None,
    ]


def test_a_nan_is_found_though_the_trainer_hides_it_from_its_log(dataset, tmp_path):
    model = make_gpt2()
    calls = []

    def poison(module, inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 4 else output

    model.lm_head.register_forward_hook(poison)
    train(model, dataset, tmp_path, [make_callback()])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["verdict"] == "nonfinite"


def test_a_run_that_raised_is_diagnosed_at_exit(tmp_path):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
import torch, transformers
import importlib.util
spec = importlib.util.spec_from_file_location("cases", {__file__!r})
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
data = [{{"input_ids": torch.full((8,), i % 40), "labels": torch.full((8,), i % 40)}} for i in range(24)]
model = cases.make_gpt2()
def stop(module, inputs, output):
    stop.calls = getattr(stop, "calls", 0) + 1
    loss = output.sum() * float("nan") if stop.calls == 4 else output.sum()
    if not torch.isfinite(loss):
        raise ValueError("the loss is not finite")
model.lm_head.register_forward_hook(stop)
cases.train(model, data, {str(tmp_path)!r}, [cases.make_callback()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "the loss is not finite" in done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["verdict"], summary["steps"]) == ("failed", "nonfinite", 3)
    assert "verdict: nonfinite" in done.stdout


def test_a_wrong_setting_is_refused():
    with pytest.raises(st.RequestError, match="signals has no option 'gradients'") as caught:
        make_callback(signals=["gradients"])
    assert caught.value.closest == "gradient"
    with pytest.raises(st.RequestError, match="statistics_every is out of range"):
        make_callback(statistics_every=-1)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_does_not_import_transformers():
    assert run("import sys, stabletrain, stabletrain.signal.watch; print('transformers' in sys.modules)") == "False\n"


def test_without_the_extra_it_says_what_to_install():
    code = """
import sys
sys.modules["transformers"] = None
try:
    import stabletrain.integrations.huggingface
except ImportError as error:
    print(error)
"""
    assert "pip install 'stabletrain[huggingface]'" in run(code)
