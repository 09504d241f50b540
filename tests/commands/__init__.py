"""Each command, through its command line, streams and exit code."""
