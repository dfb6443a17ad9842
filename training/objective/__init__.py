"""The training objective: noise, tasks, velocities, losses, and the keys of all that is random."""
