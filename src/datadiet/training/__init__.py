"""Where the diet meets a training loop: the Hugging Face Trainer and plain PyTorch."""
