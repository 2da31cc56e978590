"""Short runs that measure and leave nothing behind: what a run will take, and the settings that suit this machine."""
