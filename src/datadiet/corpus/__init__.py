"""A corpus that outgrows one file or one machine: folders of many files, engines over partitions, streamed choice."""
