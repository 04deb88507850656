"""FSDP2 for Lightning: sharded parameters, gradients and optimizer state, unsharded checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.torch_tools.local_shards import any_sharded, is_sharded, shard_like

STEPS = ("training_step", "validation_step", "test_step")  # which Lightning calls instead of `forward`


class ShardedStrategy(ModelParallelStrategy):
    """Shards every parameter, gradient and moment over n processes; each block is gathered when it is used.

    Lightning's `ModelParallelStrategy` requires every LightningModule to shard itself in `configure_model`, bypasses
    the trainer's checkpoint plugin when reading, and numbers the optimizer's state by the model's parameters. This
    strategy shards any module, unless it has sharded itself, and a checkpoint is one file with the same content as that
    of a single process, including names and order. All processes start from the weights of the first.

    Args:
        blocks: Whether to gather every block (child of a `ModuleList` or a `Sequential`) separately rather than all
            parameters at once.

    References:
        Zhao et al. 2023, PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel; `fully_shard` of torch.
    """

    def __init__(self, blocks: bool = True) -> None:
        super().__init__(save_distributed_checkpoint=False)
        self._blocks = blocks

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether the trainer restores the optimizer's state, as it does for other strategies."""
        return True

    def setup_environment(self) -> None:
        """Arrange all processes of all nodes in one data-parallel dimension."""
        # private in pytorch-lightning 2.6.6: the number of processes is not known yet when the constructor takes sizes
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the module, then create its optimizers."""
        module, accelerator = self.lightning_module, self.accelerator
        assert module is not None
        assert accelerator is not None
        accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(module)
        self.model_to_device()
        if not any_sharded(module.parameters()):
            shard_(module, self.device_mesh["data_parallel"], blocks=self._blocks)
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def on_validation_start(self) -> None:
        """Broadcast the buffers of the first process, such as batch norm's running statistics, as DDP does."""
        assert self.model is not None
        _send_from_first(self.model.buffers())

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the unsharded state of the module in the first process, an empty dict in the others."""
        assert self.lightning_module is not None
        return self._keep_in_first(gather(self.lightning_module.state_dict(), self.is_global_zero))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the unsharded state of the optimizer in the first process, an empty dict in the others."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return self._keep_in_first(gather(inner.state_dict(), self.is_global_zero))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the checkpoint in every process."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this process' shard of the weights."""
        module = self.lightning_module
        assert module is not None
        own = module.state_dict()
        parts = {name: match_layout(value, own.get(name)) for name, value in checkpoint["state_dict"].items()}
        module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process' shard of the optimizers' state."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(split_state(state, optimizer))

    def _keep_in_first(self, state: dict[str, Any]) -> dict[str, Any]:
        return state if self.is_global_zero else {}


def shard_(module: nn.Module, mesh: Any, *, blocks: bool = True) -> None:
    """Shard a module in place: its blocks, then the rest. The weights are those of the first process.

    Args:
        module: A LightningModule; of a `TrainingModule`, its network is sharded.
        mesh: One-dimensional device mesh.
        blocks: Whether to gather blocks separately.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    from stabletrain.training.module import TrainingModule

    _send_from_first([*module.parameters(), *module.buffers()])
    root = module.network if isinstance(module, TrainingModule) else module
    for block in find_blocks(root) if blocks else ():
        fully_shard(block, mesh=mesh)
    fully_shard(root, mesh=mesh)
    if root is module:
        for name in STEPS:
            register_fsdp_forward_method(module, name)


def find_blocks(root: nn.Module) -> list[nn.Module]:
    """Return the outermost children of a `ModuleList` or `Sequential` that share no parameter with another module."""
    owners: dict[int, int] = {}
    for module in root.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            parameters = list(child.parameters())
            is_block = isinstance(module, nn.ModuleList | nn.Sequential) and _has_forward(child) and parameters
            if is_block and all(owners[id(p)] == 1 for p in parameters):
                found.append(child)
            else:
                search(child)

    search(root)
    return found


def gather(value: Any, keep: bool = True) -> Any:
    """Return a state with unsharded tensors on the CPU; all processes must call it.

    Args:
        value: Nested dicts and lists of tensors and numbers.
        keep: Whether this process keeps the tensors; the others only take part in the communication.
    """

    def whole(tensor: Tensor) -> Tensor:
        if not is_sharded(tensor):
            return tensor.detach().cpu() if keep else tensor
        full = tensor.full_tensor().detach()  # pyright: ignore[reportAttributeAccessIssue]
        return full.cpu() if keep else full[:0] if full.ndim else full

    return _map_tensors(value, whole)


def split_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return an optimizer's unsharded state with the tensors of sharded parameters sharded alike."""
    saved = [index for group in state["param_groups"] for index in group["params"]]
    own = [p for group in optimizer.param_groups for p in group["params"]]
    by_index = dict(zip(saved, own, strict=True))
    parts = {
        index: {
            key: match_layout(value, by_index[index]) if _has_shape(value, by_index[index]) else value
            for key, value in entries.items()
        }
        for index, entries in state["state"].items()
    }
    return {**state, "state": parts}


def match_layout(value: Any, like: Any) -> Any:
    """Shard a tensor like another one; every process holds all of `value`, so nothing is communicated."""
    if not is_sharded(like) or is_sharded(value):
        return value
    return shard_like(value.to(like.device), like)


def _has_shape(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _has_forward(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict)


def _send_from_first(tensors: Iterator[Tensor] | list[Tensor]) -> None:
    if dist.get_world_size() > 1:
        with torch.no_grad():
            for tensor in tensors:
                if not is_sharded(tensor) and tensor.numel():
                    dist.broadcast(tensor.detach(), 0)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)((k, _map_tensors(v, change)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_map_tensors(v, change) for v in value)
    return value
