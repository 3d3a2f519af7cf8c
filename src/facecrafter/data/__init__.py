"""Photos become shards, and shards become batches."""
