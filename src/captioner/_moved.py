"""Documented paths of modules before there were subpackages: they import, with a DeprecationWarning, until 0.2."""

import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES: dict[str, tuple[str, ...]] = {
    "allocator": ("common.startup",),
    "attention": ("model.attention.bahdanau", "model.attention.dot", "model.attention.uniform", "model.attention"),
    "baselines": ("evaluation.baselines", "evaluation.diversity"),
    "batches": ("training.batches", "features.store"),
    "bootstrap": ("evaluation.bootstrap", "scoring.statistics"),
    "configured": ("common.keras",),
    "datasets.dataset": ("data.dataset",),
    "decoder": ("model.decoder", "training.teacher_forcing", "training.losses"),
    "errors": ("common.errors",),
    "figures": ("reports.attention_figure", "reports.curves"),
    "files": ("common.files",),
    "generation": ("search.generators",),
    "images": ("data.images",),
    "likelihood": ("training.likelihood",),
    "looking": ("evaluation.attention_metrics",),
    "pyfunc": ("serving.pyfunc",),  # in models that were logged to MLflow
    "vocabulary": ("text.vocabulary",),
    "wording": ("reports.wording",),
}
"""By module that is gone, those that its names are in now."""

NAMES: dict[str, dict[str, str]] = {
    "datasets.scenes": {
        "is_true": "datasets.scenes.grammar",
        "load": "datasets.scenes.drawing",
    },
    "encoders": {"build": "encoders.networks"},
    "features": {"Extractor": "features.extract", "Features": "features.store"},
    "model": {"Captioner": "inference.captioner"},
    "training": {"build": "training.fit", "train": "training.fit"},
}
"""By module that is a package now, where each of its names is."""


def spec_of(fullname: str) -> ModuleSpec | None:
    """Return how to load one of `MODULES` by its old path."""
    return ModuleSpec(fullname, _Loader()) if fullname.removeprefix("captioner.") in MODULES else None


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        places = MODULES[module.__name__.removeprefix("captioner.")]

        def get(name: str) -> Any:
            for place in () if name.startswith("__") else places:
                if hasattr(import_module(f"captioner.{place}"), name):
                    return _now_at(place, module.__name__, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = get


def former_names(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that was a module: it has the `NAMES` that the module had."""

    def get(name: str) -> Any:
        place = NAMES[module.removeprefix("captioner.")].get(name)
        if place is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return _now_at(place, module, name)

    return get


def _now_at(place: str, module: str, name: str) -> Any:
    message = f"{module}.{name} is captioner.{place}.{name} now; the old path goes with version 0.2"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return getattr(import_module(f"captioner.{place}"), name)
