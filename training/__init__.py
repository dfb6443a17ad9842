"""Training on curated shards: reading kept samples (models and the loop follow)."""
