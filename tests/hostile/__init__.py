"""Hostile input: a table of what may arrive on the Kafka port, and what has to come of it.

The same table runs against a broker process of ours (`pytest tests/hostile`) and against any
other Kafka (`python -m tests.hostile --brokers HOST:PORT`); README.md says how.
"""
