"""What a run leaves on disk: tables of scores and plans, the run folder, score files, and the cache that runs share."""
