"""The `nas` command: parse, call one function, print."""
