"""Advice in the words of Lightning and of the Hugging Face trainer."""

from __future__ import annotations

import pytest

from stabletrain.diagnosis.client_words import in_words_of
from stabletrain.diagnosis.observations import About
from stabletrain.diagnosis.remedies import remedies_for
from stabletrain.vocabulary.clients import HUGGINGFACE, LIGHTNING, LOOP
from stabletrain.vocabulary.finding import Finding

CALL = "st.clip_gradients_(…)"
CASES = [
    (LIGHTNING, "clip=norm", {}, "pl.Trainer(gradient_clip_val=1)"),
    (LIGHTNING, "clip=norm", {"gradient_clip_val": 2.0}, "pl.Trainer(gradient_clip_val=0.2)"),
    (
        LIGHTNING,
        "clip=norm init=orthogonal",
        {"manual_optimization": True},
        "self.clip_gradients(optimizer, gradient_clip_val=1) before each optimizer.step(), "
        'and st.initialize_(model, "orthogonal")',
    ),
    (
        HUGGINGFACE,
        "activation=leaky_relu init=he clip=norm",
        {},
        'TrainingArguments(max_grad_norm=1), and st.replace_activations_(model, "leaky_relu"), '
        'and st.initialize_(model, "he")',
    ),
    (LIGHTNING, "optimizer.lr=0.002", {}, "lr=0.002 in configure_optimizers"),
    (LIGHTNING, "optimizer.lr='to a tenth'", {}, "lr to a tenth in configure_optimizers"),
    (
        LIGHTNING,
        "optimizer=adam optimizer.lr=0.001",
        {},
        "torch.optim.Adam(self.parameters(), lr=0.001) in configure_optimizers",
    ),
    (HUGGINGFACE, "clip=norm", {"max_grad_norm": 1.0}, "TrainingArguments(max_grad_norm=0.1)"),
    (HUGGINGFACE, "clip=norm", {"max_grad_norm": 0.0}, "TrainingArguments(max_grad_norm=1)"),
    (HUGGINGFACE, "clip.max_norm=tenfold", {"max_grad_norm": 1.0}, "TrainingArguments(max_grad_norm=10)"),
    (HUGGINGFACE, "optimizer.lr=5e-05", {}, "TrainingArguments(learning_rate=5e-05)"),
    (HUGGINGFACE, "optimizer.lr='ten times higher'", {}, "learning_rate ten times higher in TrainingArguments"),
    (
        HUGGINGFACE,
        "schedule=warmup_cosine",
        {},
        'TrainingArguments(lr_scheduler_type="cosine", warmup_steps=20)',
    ),
    (LOOP, "clip=norm", {}, CALL),
    (None, "clip=norm", {}, CALL),
    (HUGGINGFACE, "norm=layer", {}, CALL),
    (LIGHTNING, "", {}, CALL),
]


@pytest.mark.parametrize(("client", "override", "settings", "expected"), CASES)
def test_a_remedy_is_an_argument_of_the_client(client, override, settings, expected):
    assert in_words_of(About(client=client, settings=settings, num_steps=200), override, CALL) == expected


@pytest.mark.parametrize(
    ("client", "expected"),
    [(LIGHTNING, "pl.Trainer("), (HUGGINGFACE, "TrainingArguments("), (LOOP, "st.clip_gradients_(")],
)
def test_the_advice_on_a_finding_speaks_to_its_client(client, expected):
    finding = Finding("loss_spike", "critical", None, 30, 60, {})
    calls = [remedy.in_code for remedy in remedies_for(finding, About(client=client))]
    assert any(call.startswith(expected) for call in calls), calls
