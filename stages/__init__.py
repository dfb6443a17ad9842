"""What can be measured about a source or a clip, one file each; media reading and writing."""

__part_of__ = "twinreel"
