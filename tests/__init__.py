"""The tests: unit tests by package, then real clients against a real broker process."""
