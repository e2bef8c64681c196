"""The house rules as tests: who may import what, no cycles, every fixed package really used."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "torchvision", "timm", "pytorch_grad_cam"}
TORCH_HOMES = ("engine/training/", "engine/explain/")
USED_IN = {
    "streamlit": "dashboard",
    "torch": "engine/training",
    "torchvision": "engine/training",
    "timm": "engine/training",
    "albumentations": "engine/data",
    "plotly": "engine/report",
    "pandas": "engine",
    "sklearn": "engine",
    "pytorch_grad_cam": "engine/explain",
}


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path, *, module_level: bool = False) -> frozenset[str]:
    """Dotted names a file imports; at module level: not inside functions or TYPE_CHECKING blocks."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if module_level and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                found.update(f"{child.module}.{alias.name}" for alias in child.names)
                found.add(child.module)
            visit(child)

    visit(tree(path))
    return frozenset(found)


def tops(names: set[str] | frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module-level imports among the engine's modules."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources("engine")}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    return {
        name: {target for target in imports(path, module_level=True) if target in modules} - {name}
        for name, path in modules.items()
    }


@functools.cache
def defined(module: str) -> frozenset[str] | None:
    """The names that an engine module defines itself; None where there is no such module."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return None
    found: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            found.update(
                name.id
                for name in ast.walk(node)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            )
    return frozenset(found)


FROM_ENGINE = re.compile(r"^ *from (engine[\w.]*) import (\([^)]*\)|[^\n#]*)", re.MULTILINE)


def test_every_name_is_imported_from_the_module_that_defines_it():
    """One way to each name: what moves breaks here, not on the page that needed it."""
    for path in sources("engine", "dashboard", "pages", "tests"):
        for module, names in FROM_ENGINE.findall(path.read_text(encoding="utf-8")):
            for name in re.findall(r"(\w+)(?: as \w+)?", names):
                known = name in (defined(module) or ()) or defined(f"{module}.{name}") is not None
                assert known, f"{path.relative_to(ROOT)}: {module} does not define {name}"


def test_nobody_reaches_for_the_private_names_of_another_module():
    for path in sources("engine", "dashboard", "pages"):
        named = {dotted.rpartition(".")[2] for dotted in imports(path) if defined(dotted) is not None}
        for node in ast.walk(tree(path)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in named
            ):
                private = node.attr.startswith("_") and not node.attr.startswith("__")
                assert not private, f"{path.relative_to(ROOT)}:{node.lineno} {node.value.id}.{node.attr}"
            if isinstance(node, ast.ImportFrom) and tops({node.module or ""}) & {"engine", "dashboard"}:
                taken = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not taken, f"{path.relative_to(ROOT)}:{node.lineno} {taken}"


def test_the_engine_knows_no_screen():
    for path in sources("engine"):
        assert not tops(imports(path)) & {"streamlit", "dashboard", "pages"}, path


def test_plotly_is_drawn_with_in_the_report_only():
    for path in sources("engine"):
        if "plotly" in tops(imports(path)):
            assert path.is_relative_to(ROOT / "engine/report") or path.name == "overlay.py", path


def test_torch_lives_in_training_and_explain_only():
    for path in sources("engine"):
        where = path.relative_to(ROOT).as_posix()
        if not where.startswith((*TORCH_HOMES, "engine/bench/")):
            assert not tops(imports(path)) & HEAVY, where


def test_no_page_loads_torch_before_it_is_needed():
    for path in sources("pages", "dashboard"):
        named = imports(path, module_level=True)
        assert not tops(named) & (HEAVY | {"albumentations", "sklearn"}), path
        assert not {name for name in named if name.startswith(("engine.training.", "engine.data.augment"))}, (
            path
        )


def test_engine_imports_have_no_cycle_and_stay_short():
    edges = graph()
    depths: dict[str, int] = {}

    def depth(name: str, path: tuple[str, ...]) -> int:
        assert name not in path, " -> ".join([*path, name])
        if name not in depths:
            depths[name] = 1 + max((depth(target, (*path, name)) for target in edges[name]), default=0)
        return depths[name]

    deepest = max(edges, key=lambda name: depth(name, ()))
    assert depths[deepest] <= 10, f"{deepest} stands on a chain of {depths[deepest]} modules"


@pytest.mark.parametrize("package", sorted(USED_IN))
def test_every_fixed_package_is_used_by_the_product(package):
    users = [path for path in sources(USED_IN[package]) if package in tops(imports(path))]
    assert users, f"{package} is imported nowhere under {USED_IN[package]}"


LIGHT = (
    "engine.cli",
    "engine.runs.folder",
    "engine.runs.launch",
    "engine.runs.supervisor",
    "engine.analysis.comparison",
    "engine.data.splits",
    "engine.data.audit",
)


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_stay_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert not tops(set(loaded.split())) & {
        "torch",
        "timm",
        "albumentations",
        "sklearn",
        "streamlit",
        "pytorch_grad_cam",
        "matplotlib",
    }


def test_the_supervisor_needs_no_tables():
    code = "import sys, engine.runs.supervisor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert not tops(set(loaded.split())) & {"pandas", "numpy"}


def test_nothing_names_a_machine():
    """What is committed runs anywhere: no absolute path of a developer's machine."""
    for path in [*sources("engine", "dashboard", "pages", "tests"), ROOT / "README.md"]:
        if path != Path(__file__) and path.exists():
            assert "/work/" not in path.read_text(encoding="utf-8"), path


def test_no_two_test_files_share_a_name():
    """pytest imports them by their name alone: the second would be reported as an error, not as a test."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
