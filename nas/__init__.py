"""Neural architecture search for mobile networks: from a search space to the Pareto front, and to networks that run elsewhere.

The public names load on first use: reading results imports neither torch nor Ray, training imports no Ray.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.architecture import Architecture, Block, Head, Stem
    from nas.comparison import compare
    from nas.costs import Cost, cost
    from nas.datasets import ImageData, dataset
    from nas.driver import resume, search
    from nas.errors import NasError
    from nas.experiment import Experiment
    from nas.exports import export, export_front, load
    from nas.family import ScalingRule, scale_family, scale_to_macs, write_family
    from nas.modules import build
    from nas.objectives import Candidate, Limit, Objective, objective
    from nas.objectives.mnasnet_reward import mnasnet_reward
    from nas.published import reference, references
    from nas.recipe import TrainSettings
    from nas.report import write_report
    from nas.samplers import FrontierSampler
    from nas.scaling import scale
    from nas.scaling_search import fit_scaling, read_fit
    from nas.spaces import SearchSpace, space
    from nas.table import best, front, history, results
    from nas.trainer import Training, train_network
    from nas.verification import verify

# Public name → the module it lives in.
_HOMES = {
    "Architecture": "architecture",
    "Block": "architecture",
    "Candidate": "objectives",
    "Cost": "costs",
    "Experiment": "experiment",
    "FrontierSampler": "samplers",
    "Head": "architecture",
    "ImageData": "datasets",
    "Limit": "objectives",
    "NasError": "errors",
    "Objective": "objectives",
    "ScalingRule": "family",
    "SearchSpace": "spaces",
    "Stem": "architecture",
    "TrainSettings": "recipe",
    "Training": "trainer",
    "best": "table",
    "build": "modules",
    "compare": "comparison",
    "cost": "costs",
    "dataset": "datasets",
    "export": "exports",
    "export_front": "exports",
    "fit_scaling": "scaling_search",
    "front": "table",
    "history": "table",
    "load": "exports",
    "mnasnet_reward": "objectives.mnasnet_reward",
    "objective": "objectives",
    "read_fit": "scaling_search",
    "reference": "published",
    "references": "published",
    "results": "table",
    "resume": "driver",
    "scale": "scaling",
    "scale_family": "family",
    "scale_to_macs": "family",
    "search": "driver",
    "space": "spaces",
    "train_network": "trainer",
    "verify": "verification",
    "write_family": "family",
    "write_report": "report",
}

__all__ = [
    "Architecture",
    "Block",
    "Candidate",
    "Cost",
    "Experiment",
    "FrontierSampler",
    "Head",
    "ImageData",
    "Limit",
    "NasError",
    "Objective",
    "ScalingRule",
    "SearchSpace",
    "Stem",
    "TrainSettings",
    "Training",
    "best",
    "build",
    "compare",
    "cost",
    "dataset",
    "export",
    "export_front",
    "fit_scaling",
    "front",
    "history",
    "load",
    "mnasnet_reward",
    "objective",
    "read_fit",
    "reference",
    "references",
    "results",
    "resume",
    "scale",
    "scale_family",
    "scale_to_macs",
    "search",
    "space",
    "train_network",
    "verify",
    "write_family",
    "write_report",
]


class _WithTimm:
    """Tells timm of our networks once it is imported, so that timm.create_model takes exported folders; without it, nothing."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "timm":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_tell(module: Any) -> None:
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                importlib.import_module("nas.timm_model")

            spec.loader.exec_module = load_and_tell  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    importlib.import_module("nas.timm_model")
else:
    sys.meta_path.insert(0, _WithTimm())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(importlib.import_module(f"nas.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
