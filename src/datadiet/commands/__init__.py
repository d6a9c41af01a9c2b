"""What the commands do, without the terminal: options of `finetune`, `predict`, the table of methods."""
