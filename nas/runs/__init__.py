"""A run as a value, a folder, a DataFrame and a page. Needs neither torch nor Ray."""
