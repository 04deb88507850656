"""`check`: run every check that `train` runs before training; train and write nothing."""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.app.composition.compose import Composition
from stabletrain.app.console import Console
from stabletrain.app.lean_start.lean_imports import without_collection
from stabletrain.app.output_dir import choose_folder
from stabletrain.vocabulary.statuses import DONE_CODE


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Build and check the composition, and print what would be trained.

    Raises:
        RequestError: `train` would refuse the composition.
    """
    folder, checkpoint = choose_folder(composition.config)
    with without_collection():
        from stabletrain.app.building.prepare import prepare
        from stabletrain.training.run import check_resumable

    console = Console()
    prepared = prepare(composition.in_folder(folder.path), folder, console)
    if checkpoint is not None:
        check_resumable(checkpoint, prepared.built.module, prepared.composition.config["trainer"])
    num_parameters = sum(p.numel() for p in prepared.built.network.parameters())
    console.describe(prepared.composition, prepared.built.data.describe(), num_parameters)
    console.advise(prepared.notes, prepared.found)
    console.print("[green]ready to train[/]")
    return DONE_CODE
