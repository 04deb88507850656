"""The doctor for any PyTorch training loop."""

from stabletrain.integrations.plain_loop.doctor import Doctor as Doctor
