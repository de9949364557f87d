"""Search spaces, one file each, exporting SPACE; a file put here is found by its name."""
