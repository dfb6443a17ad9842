"""Motion of camera and subject: by DIS or RAFT."""
