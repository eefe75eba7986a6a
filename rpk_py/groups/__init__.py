"""Consumer groups: state machines without I/O, and what a coordinator keeps of them."""
