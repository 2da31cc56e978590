"""What a run reports, and to whom."""
