"""The GPU benchmark runs on a CPU with tiny sizes, section by section."""

import json
import subprocess
import sys

from experiments.benchmarks.gpu.__main__ import SECTIONS, main

# Importing one of these raises ImportError, as on a machine without them.
PROGRAM = """
import sys
sys.modules |= dict.fromkeys(("optuna", "pydantic", "ray"))
from experiments.benchmarks.gpu.__main__ import main
sys.exit(main())
"""


def test_sections_print_their_figures_though_one_before_them_failed(tmp_path):
    options = ["--device", "cpu", "--quick", "--sections", "c,f,g", "--root", str(tmp_path / "nowhere")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *options], capture_output=True, text=True, check=False)
    failed, shared, measured = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert (failed["section"], failed["figures"]) == ("c", {})
    assert "nowhere" in failed["error"]
    assert "error" not in shared.keys() | measured.keys()
    assert all(seconds > 0 for seconds in shared["figures"]["seconds a step"].values())
    assert shared["figures"]["1,000 scores"]["scores"] == 2
    assert {"section", "title", "card", "driver", "torch", "timm", "cuda", "quick", "seconds"} < measured.keys()
    latency = measured["figures"]["batch 1"]
    assert len(latency["measured_ms"]) == len(latency["predicted_ms"]) == 3
    assert all(ms > 0 for ms in latency["measured_ms"] + latency["predicted_ms"])
    assert latency["mape_pct"] > 0


def test_all_sections_fit_into_nine_minutes():
    assert sum(section.budget for section in SECTIONS.values()) <= 9 * 60


def test_an_unknown_section_is_a_mistake(capsys):
    assert main(["--device", "cpu", "--quick", "--sections", "b,z"]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert "section 'z' does not exist" in error
    assert "Traceback" not in error
