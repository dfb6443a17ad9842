"""`python -m curation`: the same as `python -m twinreel`, where no other `curation` is nearer."""

from twinreel.__main__ import main

main()
