"""Every GPU figure of the project in one run; `__main__.py` is the command."""
