"""Any golden file against this implementation: `python -m tests.golden FILE...`."""
