"""The brokers that are compared: one small file each."""
