"""The tables: record schemas, the atomic store, the view `dataset`, queries and the report."""

__part_of__ = "twinreel"
