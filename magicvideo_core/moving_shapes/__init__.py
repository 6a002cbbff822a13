"""The Moving Shapes world: its words, renderer, captions and oracle; the embedded model family lives in it."""
