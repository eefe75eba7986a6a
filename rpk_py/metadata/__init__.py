"""Cluster metadata: the state, its store, the controller (supervisor) and its replicas (shards)."""
