"""The command line, checked before anything heavy is imported."""
