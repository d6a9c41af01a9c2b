"""A grid of runs on one data set, and what can be said of it: which methods save time, and whether that is luck."""
