"""The shell integration in real terminals."""
