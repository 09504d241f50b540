"""The program in real terminals and below real processes."""
