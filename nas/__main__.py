"""`python -m nas` is the `nas` command."""

import sys
from pathlib import Path

if not sys.flags.safe_path and sys.path[0] != str(Path(__file__).resolve().parents[1]):
    del sys.path[0]  # the working folder, whose timm.py or types.py would be imported in place of the installed one

from nas.cli.app import main

main()
