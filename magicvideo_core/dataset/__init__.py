"""From finished runs to training data: what is measured of clips, which are chosen, and the layouts they are written in."""
