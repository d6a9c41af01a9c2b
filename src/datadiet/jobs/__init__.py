"""One module per command: from a config to its result, without a terminal."""
