"""Published models: versions, the batches that made them, what each record says."""
