"""stabletrain in other people's loops and clusters: a plain PyTorch loop, Hugging Face, Ray."""
