"""Each operation, called inside the process of the test."""
