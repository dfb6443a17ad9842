"""Model families behind one spec: modules that know nothing of ranks, data or training."""
