"""A kind of log that another tool writes, and how that tool can be made to log more."""

from __future__ import annotations

from dataclasses import dataclass

from stabletrain.vocabulary.clients import LOOP


@dataclass(frozen=True)
class LogFormat:
    """A kind of log.

    Attributes:
        name: What people call it.
        client: Whose training loop writes it, see `vocabulary.clients`.
        recorder: The code that makes stabletrain record, beside this log, all that it lacks.
        often: How this tool is made to log the loss of every step.
    """

    name: str
    client: str = LOOP
    recorder: str = "doctor = st.Doctor(model), and doctor.step(loss) after loss.backward()"
    often: str = "log the loss of every step"
