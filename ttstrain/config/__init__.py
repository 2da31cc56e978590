"""Recipe (what the user wrote), Plan (what will be run) and the way from one to the other. Imports no torch."""
