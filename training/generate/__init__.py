"""From a trained run and a prompt to a clip."""
