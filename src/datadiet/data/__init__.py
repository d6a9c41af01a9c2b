"""From the user's files, or a data set of the hub, to checked splits; import from the modules."""
