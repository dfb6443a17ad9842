"""The curation job: configuration, presets, the phases, the Ray engine and the command line."""

__part_of__ = "twinreel"
