"""From a folder of recordings to batches: read rows, judge them, cache features, load them in order."""
