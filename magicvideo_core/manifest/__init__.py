"""What a run looks like in storage: keys, plan, journal records, manifests and the run record."""
