"""Looking at a job's results: the funnel, queries, the report."""
