"""Six classic cases, from their seed to the verdict."""
