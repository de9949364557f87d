"""Search spaces: each file exports SPACE, and its name is the name of the space."""
