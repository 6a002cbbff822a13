"""The Ray side: stage actors, the pools that dispatch to them, and what their failures mean."""
