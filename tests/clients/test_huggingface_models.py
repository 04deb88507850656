"""GPT-2, Llama, BERT, T5, Mixtral and Mamba in Hugging Face's trainer, and a LoRA of peft."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from client_runs import FAULTS, Run, break_, check_broken, check_healthy, rate, weights_of

from stabletrain.record.reader import load_record
from stabletrain.vocabulary import metric_names as names

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

VOCABULARY, LENGTH, BATCH, NUM_STEPS = 32, 16, 8, 60


def make_sentences(step: int = 5) -> list[dict[str, torch.Tensor]]:
    """Sentences in which each token follows from the one before it, but for one in five."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, VOCABULARY, (2 * NUM_STEPS * BATCH, LENGTH), generator=generator)
    is_noise = torch.rand(tokens.shape, generator=generator) < 0.2
    for t in range(1, LENGTH):
        tokens[:, t] = torch.where(is_noise[:, t], tokens[:, t], 2 + (step * tokens[:, t - 1] + 3) % (VOCABULARY - 2))
    return [{"input_ids": row, "labels": row.clone()} for row in tokens]


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ONE_HEAD = {"num_key_value_heads": 2, "max_position_embeddings": LENGTH}
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def make_gpt2():
    config = transformers.GPT2Config(n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2, **TOKENS)
    return transformers.GPT2LMHeadModel(config)


def make_llama():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, **ONE_HEAD, **TOKENS))


def make_bert():
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **TOKENS))


def make_t5():
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **TOKENS))


def make_mixtral():
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, **ONE_HEAD, **experts, **TOKENS))


def make_mamba():
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **TOKENS)
    return transformers.MambaForCausalLM(config)


@functools.cache
def pretrained() -> dict[str, torch.Tensor]:
    """Return the weights of a GPT-2 that knows one language; an adapter has another one to learn."""
    torch.manual_seed(0)
    model = make_gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = torch.stack([row["input_ids"] for row in make_sentences(step=7)])
    for i in range(2 * NUM_STEPS):
        batch = rows[i * BATCH : (i + 1) * BATCH]
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
    return model.state_dict()


def make_lora():
    peft = pytest.importorskip("peft")
    weights = pretrained()
    torch.manual_seed(0)
    model = make_gpt2()
    model.load_state_dict(weights)
    config = peft.LoraConfig(r=4, target_modules=["c_attn", "c_fc", "c_proj"], fan_in_fan_out=True)
    return peft.get_peft_model(model, config)


MODELS = {
    "gpt2": (make_gpt2, 3e-3, {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}),
    "llama": (make_llama, 3e-3, {"bf16": True}),
    "bert": (make_bert, 3e-3, {}),
    "t5": (make_t5, 1e-2, {"optim": "adafactor"}),
    "mixtral": (make_mixtral, 3e-3, {}),
    "mamba": (make_mamba, 3e-3, {}),
    "lora": (make_lora, 1e-2, {}),
}


@functools.cache
def make_client(name):
    make, lr, settings = MODELS[name]

    def train(fault, watched, folder) -> Run:
        from stabletrain.integrations.huggingface import WatchCallback

        torch.manual_seed(0)
        model = break_(make(), fault)
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            **{
                "per_device_train_batch_size": BATCH,
                "max_steps": NUM_STEPS,
                "learning_rate": rate(lr, fault),
                "lr_scheduler_type": "constant",
                "logging_steps": 500,
                "report_to": "none",
                "save_strategy": "no",
                "use_cpu": True,
                "disable_tqdm": True,
                **settings,
            },
        )
        callbacks = [WatchCallback()] if watched else []
        noted = _Losses()
        trainer = transformers.Trainer(model, arguments, train_dataset=make_sentences(), callbacks=callbacks)
        inner = trainer.compute_loss
        trainer.compute_loss = lambda *x, **y: noted.keep(inner(*x, **y))
        trainer.train()
        if not watched:
            return Run(weights_of(model), losses=noted.values)
        verdict = json.loads((folder / "summary.json").read_text())["verdict"]
        findings = callbacks[0].folder.read_findings()
        if fault is None:
            assert load_record(folder).scalars[names.TRAIN_LOSS].steps == [*range(NUM_STEPS)]
        return Run(weights_of(model), verdict, findings, noted.values)

    return train


class _Losses:
    def __init__(self):
        self.values = []

    def keep(self, loss):
        self.values.append(float(loss.detach()))
        return loss


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_run_is_left_alone(name, tmp_path):
    check_healthy(make_client(name), tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", MODELS)
def test_what_broke_it_comes_first(name, fault, tmp_path):
    check_broken(make_client(name), fault, tmp_path)


@pytest.mark.parametrize("lr", [1.0, 1e-9])
def test_rare_logging_does_not_hide_a_wrong_rate(lr, tmp_path):
    MODELS[f"gpt2 at {lr}"] = (make_gpt2, lr, {})
    run = make_client(f"gpt2 at {lr}")(None, True, tmp_path)
    assert run.verdict == ("lr_too_high" if lr == 1.0 else "lr_too_low")
