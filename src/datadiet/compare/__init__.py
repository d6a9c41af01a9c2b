"""Comparisons: a grid of runs on one data set, and statistics that show which differences are not luck."""
