"""`python -m nas` is the `nas` command."""

from nas.cli.app import main

main()
