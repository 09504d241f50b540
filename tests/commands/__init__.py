"""The commands as whole processes."""
