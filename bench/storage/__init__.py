"""Benchmarks of the storage engine, each a program of its own."""
