"""Search spaces: each file exports SPACE; the file's name is the space's name."""
