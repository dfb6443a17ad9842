"""The tables on disk: record schemas, atomic commits, the lease, the view `dataset`."""
