"""The model families: plain modules that know nothing of parallelism, data or training."""
