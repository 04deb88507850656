"""A subject: one of the 52 programs, broken and mended, and what would be the right diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.doctor.public.program import Program

KNOWN, INFERRED = "known", "inferred"

# DeepFD's fault types, and the kinds of findings that name them. A type without a kind is one that no rule can name.
KINDS_OF_FAULT: dict[str, tuple[str, ...]] = {
    "act": ("output_activation", "saturation", "vanishing", "dead_units"),
    "loss": ("output_activation", "shape_mismatch", "no_progress"),
    "lr": ("lr_too_high", "lr_too_low"),
    "opt": ("lr_too_high", "lr_too_low", "oscillation"),
    "epoch": ("lr_too_low", "no_progress"),
    "batch_size": ("lr_too_low", "oscillation"),
    "init": ("bad_init",),
    "missing_prep": ("input_scale", "target_scale"),
    "wrong_prep": ("input_scale", "target_scale"),
    "layer_properties": (),
    "layer_roperties": (),  # as the published table spells it
    "missing/redundant/wrong_layers": (),
    "model_type&properties": (),
    "training_data_quality": (),
    "origin": (),
}


@dataclass(frozen=True)
class Subject:
    """One program.

    Attributes:
        number: As in DeepFD's table.
        broken: As its author had it.
        mended: As the published patch has it, or further where `note` says so.
        causes: Kinds that name a fault of the published label.
        beyond: Kinds that are true of the rebuilt program too, although the label has no such fault type.
        facts: `KNOWN` where architecture, data and hyper-parameters are published, else `INFERRED`.
        note: What was replaced, reduced or added.
        learns: Whether the mended program learns anything; an alarm on one that does not is not false.
    """

    number: int
    broken: Program
    mended: Program
    causes: tuple[str, ...]
    beyond: tuple[str, ...] = ()
    facts: str = KNOWN
    note: str = ""
    learns: bool = True
