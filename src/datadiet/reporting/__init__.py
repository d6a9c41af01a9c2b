"""One page, and figures, of a run or a comparison. Reads files, never a model."""
