"""A mixed load of consumer groups and the proof that they were served right."""
