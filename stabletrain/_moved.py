"""Old names of modules that have moved: imports and saved `_target_` paths that name them keep working."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import cast

MOVED = {
    "app.build": "app.building.build",
    "app.build_data": "app.building.build_data",
    "app.build_model": "app.building.build_model",
    "app.build_trainer": "app.building.build_trainer",
    "app.checks": "app.building.compatibility",
    "app.compose": "app.composition.compose",
    "app.mend": "app.composition.suggestions",
    "app.model_export": "app.building.model_export",
    "app.multirun": "app.sweeps.multirun",
    "app.overrides": "app.composition.overrides",
    "app.paths": "app.composition.paths",
    "app.prepare": "app.building.prepare",
    "app.run_folder": "app.output_dir",
    "app.schema": "app.composition.schema",
    "app.search": "app.sweeps.search",
    "app.search_space": "app.sweeps.search_space",
    "app.sweep": "app.sweeps.sweep",
    "app.sweep_child": "app.sweeps.sweep_child",
    "app.targets": "app.composition.targets",
    "app.verdict": "app.findings_table",
    "callbacks": "training.callbacks",
    "data.chance": "torch_tools.isolation",
    "data.checks": "data.validation",
    "data.encoding": "data.tables.columns",
    "data.images": "data.mnist_small",
    "data.openml": "data.tables.openml",
    "data.table": "data.tables.table",
    "data.table_file": "data.tables.table_file",
    "data.tabular": "data.tables.tabular",
    "diagnosis.finding": "vocabulary.finding",
    "diagnosis.layers": "diagnosis.weight_tables",
    "diagnosis.text": "diagnosis.findings_text",
    "doctor": "integrations.plain_loop",
    "gradient.parts": "torch_tools.local_shards",
    "huggingface": "integrations.huggingface",
    "network.anatomy": "network.introspection.structure",
    "network.blocks": "network.introspection.weights",
    "network.branch_scaling": "network.initialization.branch_scaling",
    "network.chrono": "network.initialization.chrono",
    "network.cnn": "network.models.cnn",
    "network.convolution": "network.models.convolution",
    "network.counts": "errors",
    "network.critical": "network.initialization.critical",
    "network.densenet": "network.models.densenet",
    "network.edge_of_chaos": "network.meanfield.edge_of_chaos",
    "network.fill": "network.initialization.fill",
    "network.foreign": "network.introspection.branches",
    "network.init_base": "network.initialization.base",
    "network.lsuv": "network.initialization.lsuv",
    "network.mlp": "network.models.mlp",
    "network.moments": "network.initialization.variance_scaling",
    "network.parametrized": "network.introspection.parametrized",
    "network.parts": "network.models.model_parts",
    "network.recurrent": "network.models.recurrent",
    "network.reparametrization": "network.surgery.reparametrization",
    "network.replaceable": "network.surgery.recognition",
    "network.replacement": "network.surgery.replacement",
    "network.resnet": "network.models.resnet",
    "network.step_norm": "network.normalization.step_norm",
    "network.stochastic_depth": "network.residual.stochastic_depth",
    "network.structure": "network.initialization.orthogonal",
    "network.transformer": "network.models.transformer",
    "network.unrolled": "network.models.unrolled",
    "ray": "integrations.ray",
    "record.folder": "record.run_folder",
    "record.observe": "diagnosis.recorded_run",
    "record.names": "vocabulary.metric_names",
    "record.sweep": "record.sweep_folder",
    "report.cells": "report.pictures.cells",
    "report.clipping": "report.pictures.clip_norms",
    "report.commands": "report.rerun_commands",
    "report.curves": "report.pictures.curves",
    "report.drawing": "report.pictures.drawing",
    "report.heatmap": "report.pictures.heatmap",
    "report.judged": "report.run_verdict",
    "report.ridges": "report.pictures.ridges",
    "report.stills": "report.static_images",
    "report.time_surface": "report.pictures.time_surface",
    "report.update_ratios": "report.pictures.update_ratios",
    "report.words": "report.explanations",
    "signal.aside": "torch_tools.isolation",
    "signal.counting": "signal.kernels.numba_kernel",
    "signal.device": "signal.kernels.device",
    "signal.exponents": "signal.kernels.exponents",
    "signal.layers": "signal.layer_names",
    "signal.measure": "signal.kernels.reduce",
    "signal.measures": "signal.layer_statistics",
    "signal.replay": "signal.unfused_rnn",
    "signal.shards": "signal.kernels.shards",
    "signal.taps": "signal.sources.output_statistics",
    "signal.team": "signal.kernels.openmp",
    "signal.triton_kernel": "signal.kernels.triton_kernel",
    "signal.units": "signal.sources.unit_activity",
    "tracking.about": "tracking.contents.params_and_tags",
    "tracking.artifacts": "tracking.contents.artifacts",
    "tracking.description": "tracking.contents.description",
    "tracking.images": "tracking.contents.images",
    "tracking.model": "tracking.best_model",
    "tracking.parent": "tracking.sweep_parent",
    "tracking.plan": "tracking.contents.picture_plan",
    "tracking.points": "tracking.metrics",
    "tracking.process": "tracking.shipper_process",
    "tracking.thinned": "tracking.contents.downsample",
    "tracking.ui": "tracking.page_servers",
    "tracking.worst": "tracking.contents.layer_table",
    "training.clipping": "training.optimization.gradient_clipping",
    "training.doctor": "training.callbacks.doctor_callback",
    "training.foreign": "training.datamodule_shapes",
    "training.lr_finder": "training.optimization.lr_finder",
    "training.offender": "training.callbacks.offender_bundle",
    "training.optimizers": "training.optimization.optimizers",
    "training.parameter_groups": "training.optimization.parameter_groups",
    "training.planned": "training.run_plan",
    "training.pruning": "training.callbacks.pruning",
    "training.requeue": "training.callbacks.requeue",
    "training.schedule": "training.optimization.schedule",
    "training.stability": "training.optimization.stability",
    "training.system": "training.callbacks.system_metrics",
    "training.watch": "training.callbacks.gradient_watch",
}


class _Alias(importlib.abc.InspectLoader):
    """Loads a moved module under its old name: the same module object, not a second copy."""

    def __init__(self, new_name: str) -> None:
        self.new_name = new_name
        self._spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved to {self.new_name}.", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self.new_name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; its code ran when it was imported under its new name."""
        module.__spec__ = self._spec

    def get_source(self, fullname: str) -> str | None:
        return self._loader().get_source(self.new_name)

    def get_code(self, fullname: str) -> CodeType | None:  # for `python -m`
        return self._loader().get_code(self.new_name)

    def _loader(self) -> importlib.abc.InspectLoader:
        spec = importlib.util.find_spec(self.new_name)
        assert spec is not None
        return cast(importlib.abc.InspectLoader, spec.loader)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        room, _, name = fullname.partition(".")
        if room != "stabletrain" or name not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, _Alias(f"stabletrain.{MOVED[name]}"))


def install() -> None:
    """Let old names be imported; called once, when the package is imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
