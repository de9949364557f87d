"""Runs each statement that it is given, and prints after each the heavy packages that are loaded by then."""

import sys

HEAVY = ("torch", "timm", "torchvision", "ray", "optuna", "pandas", "sklearn", "tyro")

for statement in sys.argv[1:]:
    exec(statement)
    sys.stdout.write(" ".join(name for name in HEAVY if name in sys.modules) + "\n")
