"""The engine: Ray's actors and their killable children. No other folder knows Ray."""
