"""Starting a run, going on with it, and its folder."""
