"""What a stage is, and arithmetic on its time series."""
