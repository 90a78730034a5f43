"""What DVC is told of a stage's code covers what the stage runs, and imports run one way."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from checkout import ROOT

SOURCE = ROOT / "src"
PACKAGE = SOURCE / "captioner"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
EVERY = pytest.mark.parametrize("stage", STAGES)

NO_DEPENDENCY = {
    "__init__.py": "names of the public API, and the version",
    "_moved.py": "old paths of modules",
    "common": "errors, whole files, threads, the start of a process: no result depends on them",
    "params.py": "its values are tracked, under `params`",
    "tracking": "records results and makes none",
}
"""What a stage runs and DVC is not told, with the reason."""
PACKAGES = (
    *("common", "data", "text", "datasets", "encoders", "features", "model", "search", "scoring", "params"),
    *("training", "reports", "evaluation", "tracking", "comparison", "inference", "serving", "cli"),
)
"""A package imports only from itself and those before it."""


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node but those for type checkers alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from executed(child)


def files_of(module: str) -> set[Path]:
    """The file of a module of this project; none for other projects' modules, or no module.

    Those of the packages around it are left out: they have names at most, which who depends on them imports.
    """
    names = module.split(".")
    if module != "stage" and (script := ROOT / f"stages/{module}.py").exists():
        return {script}  # what stages share
    if names[0] != "captioner":
        return set()
    own = SOURCE.joinpath(*names)
    return {path for path in (own.with_suffix(".py"), own / "__init__.py") if path.exists()}


def imported(path: Path) -> set[Path]:
    found: set[Path] = set()
    for node in executed(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {file for alias in node.names for file in files_of(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: relative imports are not followed"
            modules = [files_of(f"{node.module}.{alias.name}") for alias in node.names]
            found |= set().union(*modules) if all(modules) else set().union(files_of(node.module), *modules)
    # an attention is imported by its name
    if path == PACKAGE / "model/attention/__init__.py":
        found |= set(path.parent.glob("*.py"))
    return found


def is_dependency(path: Path) -> bool:
    return not any(PACKAGE / name in (path, *path.parents) for name in NO_DEPENDENCY)


def closure(script: Path) -> set[Path]:
    """What a script runs, as far as its outputs depend on it."""
    found, waiting = set[Path](), {script}
    while waiting:
        found |= waiting
        waiting = {file for one in waiting for file in imported(one) if is_dependency(file)} - found
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_closure_follows_every_form_of_import() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in closure(ROOT / "stages/features.py")}
    assert found >= {
        "stages/features.py",
        "src/captioner/data/store.py",  # from captioner.data import store
        "src/captioner/features/extract.py",  # from captioner.features.extract import Extractor
        "src/captioner/encoders/torch_file.py",  # through other modules
    }
    assert not found & {"src/captioner/model/decoder.py", "src/captioner/common/files.py", "src/captioner/params.py"}


@EVERY
def test_dependencies_on_code_cover_what_the_script_imports(stage: str) -> None:
    listed = {ROOT / path for path in STAGES[stage]["deps"] if path.startswith(("src/", "stages/"))}
    imports = closure(ROOT / f"stages/{stage}.py")
    missing = {file for file in imports if not listed & {file, *file.parents}}
    superfluous = {path for path in listed if not any(path in (file, *file.parents) for file in imports)}
    assert (sorted(missing), sorted(superfluous)) == ([], []), f"put right the deps of {stage} in dvc.yaml"


@pytest.mark.parametrize("name", PACKAGES)
def test_imports_run_one_way(name: str) -> None:
    before = {*PACKAGES[: PACKAGES.index(name) + 1], "__init__"}
    files = [path for path in PACKAGE.rglob("*.py") if room(path) == name]
    assert files
    back = {(file.relative_to(PACKAGE).as_posix(), room(other)) for file in files for other in imported(file)}
    assert sorted((file, to) for file, to in back if to not in before) == []


def test_every_package_is_listed_and_says_what_it_is_for() -> None:
    assert {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__", "_moved"} == set(PACKAGES)
    for path in PACKAGE.glob("*/__init__.py"):
        said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        assert re.search(r"\n\n(Input: .* Output: |Input and output: )", said, re.DOTALL), path
