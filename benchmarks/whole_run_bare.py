"""Train a network in a bare PyTorch loop, as one would write it by hand; a run of `whole_run.py`."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from whole_run_timing import now, write_times

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
settings = json.loads((folder / "settings.json").read_text())
network = torch.load(folder / "network.pt", weights_only=False)
splits = {name: TensorDataset(*tensors) for name, tensors in torch.load(folder / "data.pt").items()}
# the order of stabletrain's batches
sampler = DistributedSampler(splits["train"], 1, 0, shuffle=True, seed=settings["seed"], drop_last=True)
train = DataLoader(splits["train"], settings["batch_size"], sampler=sampler, drop_last=True)
optimizer = torch.optim.Adam(network.parameters(), **settings["optimizer"])


@torch.no_grad()
def evaluate(split: str) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    network.eval()
    loss, num_right, count = 0.0, 0, 0
    for x, y in DataLoader(splits[split], 256):
        outputs = network(x)
        loss += nn.functional.cross_entropy(outputs, y, reduction="sum").item()
        num_right += (outputs.argmax(-1) == y).sum().item()
        count += len(y)
    network.train()
    return loss / count, num_right / count


best, val_loss = float("inf"), float("nan")
start = now()
for epoch in range(settings["epochs"]):
    sampler.set_epoch(epoch)
    for x, y in train:
        loss = nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings["max_norm"])
        optimizer.step()
    val_loss, accuracy = evaluate("val")
    print(f"epoch {epoch}: loss {loss.item():.4f}, val loss {val_loss:.4f}, accuracy {accuracy:.4f}")
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
    torch.save(state, out / "last.pt")
    if val_loss < best:
        best, best_weights = val_loss, copy.deepcopy(network.state_dict())
        torch.save(state, out / "best.pt")
write_times(start, now(), val_loss)
network.load_state_dict(best_weights)
print("test: loss {:.4f}, accuracy {:.4f}".format(*evaluate("test")))
