"""What a run leaves on disk, and what other trainers left there."""
