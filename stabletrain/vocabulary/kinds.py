"""The kinds of findings: one object per kind, with everything that belongs to it. Rules run in the order of `KINDS`.

Mistakes in the code come first: what they do to training looks like a bad choice of its settings, and is explained by
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

Rule = TypeVar("Rule", bound=Callable[[Any], list[Any]])
Remedies = TypeVar("Remedies", bound=Callable[[Any, Any], list[Any]])
DOCUMENTATION = "docs/doctor.md"


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of finding. The package `diagnosis` adds its rules and remedies with the decorators below.

    Attributes:
        name: As in `findings.json`.
        heading: Title for people.
        meaning: What it means, in one sentence for someone who meets it for the first time.
        advice: What to do about it, in one sentence.
        in_code: The same in Python, for a model that stabletrain did not compose.
        explains: Names of the kinds that follow from it.
        yields_to: Kinds that explain it and that it explains, and that are the cause if both begin on one step.
        is_sign: Whether it raises an alarm together with another sign where each alone would not.
        rules: Functions from observations to findings.
        remedies: Functions from a finding and what is known of the run to remedies; one per kind.
    """

    name: str
    heading: str
    meaning: str
    advice: str
    in_code: str
    explains: tuple[str, ...] = ()
    yields_to: tuple[str, ...] = ()
    is_sign: bool = False
    rules: list[Callable[[Any], list[Any]]] = field(default_factory=list, repr=False)
    remedies: list[Callable[[Any, Any], list[Any]]] = field(default_factory=list, repr=False)

    def rule(self, function: Rule) -> Rule:
        """Register a rule that finds this kind (decorator)."""
        self.rules.append(function)
        return function

    def remedy(self, function: Remedies) -> Remedies:
        """Register the function that proposes remedies (decorator)."""
        self.remedies.append(function)
        return function

    @property
    def anchor(self) -> str:
        """Where the documentation explains it."""
        return f"{DOCUMENTATION}#{self.name}"


_CLIP = 'st.clip_gradients_(model.parameters(), "norm", max_norm=1.0) before each step'
_INIT = 'st.initialize_(model, "he"), or "xavier" for tanh and sigmoid'
_NORM = "add torch.nn.LayerNorm after the layers"
_LOWER_LR = "set the optimizer's lr to a tenth"

# What a mistake in the code may look like. A non-finite value has origins of its own and is explained by few of them.
SYMPTOMS = (
    *("bad_init", "lr_too_high", "lr_too_low", "dead_units", "saturation", "vanishing", "exploding", "time_vanishing"),
    *("time_exploding", "loss_spike", "oscillation", "clip_ineffective", "clip_always", "no_progress"),
)

GRADIENTS_ACCUMULATE = Kind(
    name="gradients_accumulate",
    heading="Gradients of earlier steps are added",
    meaning="The gradients are not reset between steps, so that each step uses the sum of all gradients so far.",
    advice="The gradients of earlier steps are still there when the next ones are added: reset them on each step.",
    in_code="call optimizer.zero_grad() before loss.backward()",
    explains=(*SYMPTOMS, "nonfinite"),
)
NOT_OPTIMIZED = Kind(
    name="not_optimized",
    heading="Parameters that no optimizer updates",
    meaning="Parameters receive gradients, but no optimizer step changes them.",
    advice="Some parameters receive gradients that no optimizer step uses: give the optimizer the parameters of this "
    "model, and call its step after the backward pass.",
    in_code="optimizer = torch.optim.Adam(model.parameters(), lr=1e-3), after the model is complete",
    explains=(*SYMPTOMS, "gradients_accumulate"),
)
NO_GRADIENT = Kind(
    name="no_gradient",
    heading="Parameters without a gradient",
    meaning="Parameters never receive a gradient, because the loss does not depend on them.",
    advice="The loss does not reach some parameters: remove what separates them from it, such as detach(), .data, "
    "torch.no_grad() or requires_grad=False.",
    in_code="for each parameter that should learn, p.grad is not None after loss.backward()",
    explains=SYMPTOMS,
)
OUTPUT_ACTIVATION = Kind(
    name="output_activation",
    heading="Activation at the output that does not fit the loss",
    meaning="The model ends with an activation function that the loss already contains, or that cannot produce what "
    "the loss asks for.",
    advice="The last activation does not fit the loss: return the logits themselves, or use the loss that fits.",
    in_code="remove the activation after the last layer; torch.nn.functional.cross_entropy takes logits",
    explains=SYMPTOMS,
)
SHAPE_MISMATCH = Kind(
    name="shape_mismatch",
    heading="Targets broadcast against the outputs",
    meaning="Outputs and targets have different shapes and are broadcast, so that each output is compared with the "
    "targets of all examples.",
    advice="Outputs and targets differ in shape and are broadcast against each other: give them the same shape.",
    in_code="loss_fn(model(x).squeeze(-1), y), or loss_fn(model(x), y.unsqueeze(-1))",
    explains=SYMPTOMS,
)
WRONG_MODE = Kind(
    name="wrong_mode",
    heading="Normalization in the wrong mode",
    meaning="The model is trained in evaluation mode, or its batch norm sees a single example at a time.",
    advice="Batch norm does not normalize with the statistics of a batch: train in training mode, with several "
    "examples in a batch.",
    in_code="model.train() before the training steps; torch.nn.GroupNorm if a batch has one example",
    explains=SYMPTOMS,
)
INPUT_SCALE = Kind(
    name="input_scale",
    heading="Inputs off scale",
    meaning="The inputs are far from mean 0 and standard deviation 1, for which networks and learning rates are made.",
    advice="The inputs are far from mean 0 and standard deviation 1: standardize them.",
    in_code="x = (x - x_train.mean(0)) / x_train.std(0).clamp(min=1e-8)",
    explains=SYMPTOMS,
)
TARGET_SCALE = Kind(
    name="target_scale",
    heading="Targets off scale",
    meaning="The targets of a regression are far larger than what a network returns at its initialization.",
    advice="The targets are far from mean 0 and standard deviation 1: standardize them, and undo it in predictions.",
    in_code="y = (y - y_train.mean(0)) / y_train.std(0).clamp(min=1e-8)",
    explains=SYMPTOMS,
)
NONFINITE = Kind(
    name="nonfinite",
    heading="Non-finite values (Inf or NaN)",
    meaning="Some gradients were Inf or NaN; a step with them would have destroyed the weights.",
    advice="A number overflowed: clip the gradient by its norm.",
    in_code=f"{_CLIP}; {_LOWER_LR}",
    explains=("no_progress", "loss_spike"),
    yields_to=("loss_spike",),
)
BAD_INIT = Kind(
    name="bad_init",
    heading="Unsuitable initialization",
    meaning="From the first steps on, the layers differ widely in scale: the initialization does not suit the network.",
    advice="The initialization does not fit the network: use the one made for its activation, or normalize.",
    in_code=f"{_INIT}; {_NORM}",
    explains=(
        *("saturation", "dead_units", "vanishing", "exploding", "time_vanishing", "time_exploding", "lr_too_high"),
        *("lr_too_low", "clip_ineffective", "nonfinite", "oscillation", "no_progress", "clip_always"),
    ),
    is_sign=True,
)
LR_TOO_HIGH = Kind(
    name="lr_too_high",
    heading="Learning rate too high",
    meaning="The updates are too large relative to the weights.",
    advice="The steps are too large for the weights: lower the learning rate, or begin with a warm-up.",
    in_code=f"{_LOWER_LR}; {_CLIP}",
    explains=(
        *("dead_units", "saturation", "vanishing", "time_vanishing", "exploding", "time_exploding", "nonfinite"),
        *("loss_spike", "oscillation", "no_progress", "clip_always", "lr_too_low"),
    ),
    yields_to=("time_exploding",),
    is_sign=True,
)
DEAD_UNITS = Kind(
    name="dead_units",
    heading="Dead units",
    meaning="Many units output zero for every input, so that no gradient passes through them.",
    advice="Units that no input activates do not learn: use an activation with a slope below zero and a suitable "
    "initialization.",
    in_code=f'st.replace_activations_(model, "leaky_relu"); {_INIT}; {_LOWER_LR}',
    explains=("vanishing", "time_vanishing", "lr_too_low", "oscillation", "no_progress"),
    is_sign=True,
)
SATURATION = Kind(
    name="saturation",
    heading="Saturated units",
    meaning="Many units are in the flat regions of their activation function, where its gradient is close to zero.",
    advice="Units operate on the flat ends of their activation: use a suitable initialization, normalize, or use an "
    "activation that does not saturate.",
    in_code=f'{_INIT}; {_NORM}; st.replace_activations_(model, "relu")',
    explains=("vanishing", "time_vanishing", "exploding", "lr_too_low", "oscillation", "no_progress"),
    is_sign=True,
)
TIME_EXPLODING = Kind(
    name="time_exploding",
    heading="Gradients explode through time",
    meaning="Gradients grow from time step to time step, so that long sequences make training unstable.",
    advice="The gradient grows from time step to time step: clip it by its norm, and initialize the recurrent weights "
    "so that they preserve norms.",
    in_code=f'{_CLIP}; st.initialize_(model, "orthogonal")',
    explains=(
        *("exploding", "lr_too_high", "saturation", "clip_ineffective", "nonfinite", "loss_spike"),
        *("oscillation", "no_progress", "clip_always"),
    ),
    is_sign=True,
)
TIME_VANISHING = Kind(
    name="time_vanishing",
    heading="Gradients vanish through time",
    meaning="Gradients shrink from time step to time step, so that the network forgets the beginning of a sequence.",
    advice="The beginning of a sequence is forgotten: use a gated cell, or recurrent weights that preserve norms.",
    in_code='use torch.nn.LSTM in place of RNN; st.initialize_(model, "orthogonal")',
    explains=("vanishing", "lr_too_low", "no_progress"),
    is_sign=True,
)
EXPLODING = Kind(
    name="exploding",
    heading="Exploding gradients",
    meaning="Gradients grow on the way back from the output, so that a single step can ruin the weights.",
    advice="The gradient grows on its way back: clip it by its norm, use smaller initial weights, or normalize.",
    in_code=f"{_CLIP}; {_INIT}; {_NORM}",
    explains=(
        *("saturation", "dead_units", "nonfinite", "clip_ineffective", "loss_spike", "oscillation", "no_progress"),
        "clip_always",
    ),
    yields_to=("saturation",),
    is_sign=True,
)
VANISHING = Kind(
    name="vanishing",
    heading="Vanishing gradients",
    meaning="Gradients shrink on the way back from the output, so that the layers near the input hardly learn.",
    advice="The first layers hardly learn: use an activation that does not saturate with the matching initialization, "
    "normalize, or add residual connections.",
    in_code=f'st.replace_activations_(model, "relu"); {_INIT}; {_NORM}',
    explains=("lr_too_low", "time_vanishing", "no_progress"),
    yields_to=("time_vanishing",),
    is_sign=True,
)
LOSS_SPIKE = Kind(
    name="loss_spike",
    heading="Loss spikes",
    meaning="The loss jumped far above its recent level for several steps in a row.",
    advice="The loss jumped and did not recover: clip unusual gradients.",
    in_code=f'{_CLIP}, or "zscore"; {_LOWER_LR}',
    explains=("nonfinite", "oscillation", "no_progress"),
    is_sign=True,
)
OSCILLATION = Kind(
    name="oscillation",
    heading="Oscillation",
    meaning="The loss goes up and down instead of converging.",
    advice="The training swings instead of settling: lower the learning rate.",
    in_code=f"{_LOWER_LR}, or use torch.optim.Adam",
    explains=("no_progress",),
    is_sign=True,
)
LR_TOO_LOW = Kind(
    name="lr_too_low",
    heading="Learning rate too low",
    meaning="The updates are so small that the weights hardly change.",
    advice="At this learning rate the weights hardly move: raise it.",
    in_code="set the optimizer's lr ten times higher",
    explains=("no_progress",),
)
CLIP_INEFFECTIVE = Kind(
    name="clip_ineffective",
    heading="Clipping without effect",
    meaning="The clipping in use does not limit the gradient.",
    advice="The clipping never acts: lower its threshold, and clip between backward and the optimizer step.",
    in_code=f"{_CLIP}, after backward()",
)
CLIP_ALWAYS = Kind(
    name="clip_always",
    heading="Clipping on every step",
    meaning="Nearly every step is clipped, so that the threshold rather than the gradient sets the size of the steps.",
    advice="Every step is clipped to the same norm, so that the threshold acts as a learning rate: raise it.",
    in_code="raise max_norm tenfold",
    explains=("lr_too_low", "no_progress"),
)
NO_PROGRESS = Kind(
    name="no_progress",
    heading="No progress",
    meaning="The loss has not fallen below chance level.",
    advice="The loss is at chance level: search for a learning rate that lowers it.",
    in_code=f"try lr ten times higher and lower; {_INIT}",
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(GRADIENTS_ACCUMULATE, NOT_OPTIMIZED, NO_GRADIENT, OUTPUT_ACTIVATION, SHAPE_MISMATCH, WRONG_MODE),
        *(INPUT_SCALE, TARGET_SCALE),
        *(NONFINITE, BAD_INIT, LR_TOO_HIGH, DEAD_UNITS, SATURATION, TIME_EXPLODING, TIME_VANISHING, EXPLODING),
        *(VANISHING, LOSS_SPIKE, OSCILLATION, LR_TOO_LOW, CLIP_INEFFECTIVE, CLIP_ALWAYS, NO_PROGRESS),
    )
}
