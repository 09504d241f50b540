"""The shell hooks, and their rendering."""
