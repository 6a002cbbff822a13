"""The four stages behind one protocol, and the registry that finds their backends."""
