"""What a process is: ranks, signals, the console."""
