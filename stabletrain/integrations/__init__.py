"""stabletrain outside of its own command: in a plain PyTorch loop, a Hugging Face `Trainer` or on a Ray cluster."""
