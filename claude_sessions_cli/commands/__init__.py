"""The commands, one module each: argv in, one operation, result to render."""
