"""The command line: one file per command, each parses, calls and prints. Nothing heavy is imported at module level."""
