"""`python -m curation`: the command line, for clusters where no script is on the path."""

from curation.cli.main import main

main()
