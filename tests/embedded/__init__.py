"""The private server: its processes, signals and directories."""
