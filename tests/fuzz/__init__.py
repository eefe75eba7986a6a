"""Fuzzing: targets, two engines, a corpus that is kept; docs/HACKING.md says how to run it."""
