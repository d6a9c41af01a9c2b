"""What a run leaves on disk: append-only Parquet tables, and JSON files written last; import from the modules."""
