"""Remedies in the client's own words: the argument of its trainer that does what a remedy proposes.

Your own loop calls `torch` and `stabletrain` itself. Lightning and the Hugging Face `Trainer` clip and step, so
that a call beside theirs would do it twice: there, what they do is set by their arguments.
"""

from __future__ import annotations

import shlex

from stabletrain.diagnosis.observations import About
from stabletrain.vocabulary.clients import HUGGINGFACE, LIGHTNING

CLIP, MAX_NORM, LR, OPTIMIZER, SCHEDULE = "clip", "clip.max_norm", "optimizer.lr", "optimizer", "schedule"
CALLS = {  # what no client has an argument for
    "activation": 'st.replace_activations_(model, "{}")',
    "init": 'st.initialize_(model, "{}")',
}
GRADIENT_CLIP_VAL, MAX_GRAD_NORM = "gradient_clip_val", "max_grad_norm"  # settings, as the trainers call them
MANUAL = "manual_optimization"  # … whether a LightningModule calls its optimizers itself
USUAL_NORM = 1.0
TENTH = 0.1
WARMUP = 0.1  # of the training budget


def in_words_of(about: About, override: str, in_code: str) -> str:
    """Return how to carry out a remedy in a client; `in_code` for anything that is not up to the client.

    Args:
        about: The run, whose `client` decides, and whose `settings` have the client's present values.
        override: What the remedy changes, as overrides of stabletrain.
        in_code: The remedy for your own training loop; "" if none is proposed there.

    Example:
        >>> in_words_of(About(client=LIGHTNING), "clip=norm", "st.clip_gradients_(…)")
        'pl.Trainer(gradient_clip_val=1)'
    """
    if about.client not in _IN_WORDS:
        return in_code
    words = {key: value for key, _, value in (word.partition("=") for word in shlex.split(override))}
    found = _IN_WORDS[about.client](about, words)
    if found and CLIP in words:
        return ", and ".join([found, *(call.format(words[key]) for key, call in CALLS.items() if key in words)])
    return found or in_code


def _in_lightning(about: About, words: dict[str, str]) -> str:
    if words.get(CLIP) == "norm" or MAX_NORM in words:
        norm = _norm(about, GRADIENT_CLIP_VAL, words)
        if about.settings.get(MANUAL):
            return f"self.clip_gradients(optimizer, {GRADIENT_CLIP_VAL}={norm:.3g}) before each optimizer.step()"
        return f"pl.Trainer({GRADIENT_CLIP_VAL}={norm:.3g})"
    if OPTIMIZER in words:
        return f"torch.optim.Adam(self.parameters(), lr={words.get(LR, '1e-3')}) in configure_optimizers"
    if LR in words:
        return f"{_value('lr', words[LR])} in configure_optimizers"
    return ""


def _in_huggingface(about: About, words: dict[str, str]) -> str:
    if words.get(CLIP) == "norm" or MAX_NORM in words:
        return f"TrainingArguments({MAX_GRAD_NORM}={_norm(about, MAX_GRAD_NORM, words):.3g})"
    if OPTIMIZER in words:
        return f'TrainingArguments(optim="adamw_torch", learning_rate={words.get(LR, "1e-3")})'
    if LR in words:
        value = _value("learning_rate", words[LR])
        return f"TrainingArguments({value})" if "=" in value else f"{value} in TrainingArguments"
    if words.get(SCHEDULE) == "warmup_cosine" and about.num_steps:
        steps = max(1, round(WARMUP * about.num_steps))
        return f'TrainingArguments(lr_scheduler_type="cosine", warmup_steps={steps})'
    return ""


def _norm(about: About, setting: str, words: dict[str, str]) -> float:
    """Return the norm to clip to: a usual one, or a tenth or ten times of that to which the client clips already."""
    present = about.settings.get(setting)
    if not isinstance(present, int | float) or present <= 0:
        return USUAL_NORM
    return float(present) / TENTH if MAX_NORM in words else float(present) * TENTH


def _value(name: str, value: str) -> str:
    """Return a setting with its new value, which may be given in words, such as `to a tenth`."""
    return f"{name}={value}" if value[:1].isdigit() else f"{name} {value}"


_IN_WORDS = {LIGHTNING: _in_lightning, HUGGINGFACE: _in_huggingface}
