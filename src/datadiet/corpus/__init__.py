"""A corpus that outgrows one file or one machine: folders of many files, engines over partitions, streamed choice.

A corpus is read in *partitions* (`partitions`): a file, a range of the lines of a large text file, row groups of a
large Parquet file, or a range of rows of a saved `datasets` folder. The cut depends on the files alone. A partition is
the unit of work, of retry and of resuming; inside it rows are streamed in batches.

Scoring has two phases over the partitions, and an *engine* (`engines`) runs each of them: processes here, or Ray.

1. `begin`: what must be known of all rows before any has a value: counts of scores with global state
   (`datadiet.types.Phases`), and sorted hashes of ids and texts, from which `exchange` finds ids that repeat, and
   duplicates, a range of hashes at a time. Left out where nothing asks for it.
2. `values`: a Parquet file per partition with ids, scores and reasons, which appears whole or not at all and says what
   it was made from. One that fits the job is never made again (`score_folder`).

Selection (`streamed`) reads one column of these files a few times: a histogram over the sortable bits of the keys
narrows the cut down digit by digit, then the boundary is exact, with the same ties as in memory.
"""
