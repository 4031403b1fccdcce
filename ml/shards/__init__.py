"""WebDataset shards: writing, reading, drawing training pairs."""
