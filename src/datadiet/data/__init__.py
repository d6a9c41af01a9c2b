"""Data in and out: files, saved and hub sets as validated, immutable splits; duplicates; rows written again.

`datadiet.data.load.load_data` is the way in. No module here imports torch, pyarrow or `datasets` before it needs them.
"""
