"""Learned weights: which there are, where they lie, how they are loaded, how they are got."""
