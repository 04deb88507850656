"""A kind of log that another tool writes, and how that tool can be made to log more."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LogFormat:
    """A kind of log.

    Attributes:
        name: What people call it.
        client: Whose training loop it is: `lightning`, `huggingface` or `loop`.
        advice: The line of code that makes stabletrain record, beside this log, what it lacks.
        rate_advice: What makes this tool log the learning rate.
        norm_advice: What makes it log the norm of the gradient.
        often_advice: What makes it log more often.
    """

    name: str
    client: str = "loop"
    advice: str = "doctor = st.Doctor(model), and doctor.step(loss) after backward()"
    rate_advice: str = "log optimizer.param_groups[0]['lr'] as lr"
    norm_advice: str = "log the value of torch.nn.utils.clip_grad_norm_() as grad_norm"
    often_advice: str = "log the loss of every step"
