"""Images in files: listed, split into parts, decoded once."""
