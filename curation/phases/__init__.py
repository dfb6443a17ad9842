"""The phases of a job, each resumable on its own: what is there is not done again."""
