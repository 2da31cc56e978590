"""What a run will take - time, memory, disk - from what a trial or an earlier run took; without torch."""
