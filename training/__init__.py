"""Training on curated shards: reading kept samples (models and the loop follow)."""

__part_of__ = "twinreel"
