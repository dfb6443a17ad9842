"""The command `twinreel`: one file a group of commands."""
