"""The doctor's advice in words: one sentence for each kind, and calls that do the same for a model of one's own."""

from __future__ import annotations

ADVICE = {
    "vanishing": "The first layers hardly learn: use an activation that does not saturate with the matching "
    "initialization, normalize, or add residual connections.",
    "exploding": "The gradient grows on its way back: clip it by its norm, start from smaller weights, or normalize.",
    "time_vanishing": "What came early in a sequence is forgotten: use a gated cell, or recurrent weights that keep "
    "lengths.",
    "time_exploding": "The gradient grows from time step to time step: clip it by its norm, and start from recurrent "
    "weights that keep lengths.",
    "nonfinite": "A number overflowed: clip by norm and lower the learning rate.",
    "dead_units": "Units that no input switches on learn nothing: use an activation with a slope below zero, a start "
    "that fits, or smaller steps.",
    "saturation": "Units sit on the flat ends of their activation: start from weights that fit, normalize, or use an "
    "activation without ends.",
    "bad_init": "The start does not fit the network: take the initialization of its activation, or normalize.",
    "loss_spike": "The loss jumped and did not come back: clip what is unusual, or take smaller steps.",
    "oscillation": "The training swings instead of settling: take smaller steps.",
    "no_progress": "The loss is where guessing would be: look for a learning rate that moves it.",
    "lr_too_high": "The steps tear the weights apart: lower the learning rate, or begin with a warm-up.",
    "lr_too_low": "At this rate the weights stay where they began: raise the learning rate.",
    "clip_ineffective": "The clipping never acts: lower its limit, and clip between backward and the step.",
    "clip_always": "Each step is clipped to the same length: raise the limit, or lower the learning rate.",
}

_CLIP = 'st.clip_gradients_(model.parameters(), "norm", max_norm=1.0) before each step'
_START = 'st.initialize_(model, "he"), "xavier" for tanh and sigmoid'
_NORM = "put torch.nn.LayerNorm behind the layers"
_LOWER = "set the optimizer's lr to a tenth"

CALLS = {
    "vanishing": f'In code: st.replace_activations_(model, "relu"); {_START}; {_NORM}.',
    "exploding": f"In code: {_CLIP}; {_START}; {_NORM}.",
    "time_vanishing": 'In code: torch.nn.LSTM in place of RNN; st.initialize_(model, "orthogonal").',
    "time_exploding": f'In code: {_CLIP}; st.initialize_(model, "orthogonal").',
    "nonfinite": f"In code: {_CLIP}; {_LOWER}.",
    "dead_units": f'In code: st.replace_activations_(model, "leaky_relu"); {_START}; {_LOWER}.',
    "saturation": f'In code: {_START}; {_NORM}; st.replace_activations_(model, "relu").',
    "bad_init": f"In code: {_START}; {_NORM}.",
    "loss_spike": f'In code: {_CLIP}, or "zscore"; {_LOWER}.',
    "oscillation": f"In code: {_LOWER}; torch.optim.Adam.",
    "no_progress": f"In code: try lr ten times higher and lower; {_START}.",
    "lr_too_high": f"In code: {_LOWER}; {_CLIP}.",
    "lr_too_low": "In code: set the optimizer's lr ten times higher.",
    "clip_ineffective": f"In code: {_CLIP}, after backward().",
    "clip_always": "In code: raise max_norm tenfold.",
}
