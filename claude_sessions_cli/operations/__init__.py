"""What the commands do, a verb each: (database, caller, ...) to a result. No argv, no printing."""
