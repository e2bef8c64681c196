"""Source scans: nothing that executes data, nothing that decodes outside the one function, no raw HTML."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What makes text harmless, or is made by us: a count, a number with its format, a fragment built of such parts.
HARMLESS = (
    "plain",
    "escape",
    "counted",
    "icon",
    "len",
    "round",
    "int",
    "join",
    "quote",
    "urlencode",
    "when",
    "ago",
    "number",
)
HARMLESS += ("class_colour",)
# Looked at by a person: what cannot come from a file or a link, in names that the scan cannot follow.
REVIEWED = {
    "dashboard/ensemble_panels.py": ("rows",),  # list items, each text through plain()
    "dashboard/overview_parts.py": ("colour",),  # of our palette
    "dashboard/queue_parts.py": ("place + 1",),  # a position
    "dashboard/run_parts.py": ("tags", "began", "titles[group]"),  # plain(), times, our own titles
    "dashboard/split_designer.py": ("ready.split_hash", "ready.split_hash[:12]"),  # computed here
    "dashboard/tick_list.py": ("key",),  # a widget key of the source
    "dashboard/widgets.py": (
        "''.join(parts)",
        "values",
        "_narrow()",
    ),  # palette colours and plain(); our style sheet
}
IMPORTS = ("pickle", "joblib", "torchvision.io", "marshal", "shelve", "dill", "cloudpickle")
CALLS = ("eval", "exec", "os.system", "os.popen", "cv2.imread", "pd.read_pickle", "yaml.load", "__import__")


@functools.cache
def product() -> dict[str, ast.Module]:
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("engine", "dashboard", "pages")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def trees(*folders: str) -> dict[str, ast.Module]:
    return {path: tree for path, tree in product().items() if path.split("/")[0] in folders}


@functools.cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Import | ast.ImportFrom)]


@functools.cache
def calls(tree: ast.Module) -> list[tuple[str, dict[str | None, str], ast.Call]]:
    """(dotted name, keywords as text, node) of every call."""
    return [
        (ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}, node)
        for node in nodes(tree)
        if isinstance(node, ast.Call)
    ]


@functools.cache
def imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_pickle_and_no_native_decoder_is_imported():
    for path, tree in product().items():
        assert not {name for name in imported(tree) if name.split(".")[0] in IMPORTS or name in IMPORTS}, path
        assert not {name for name in imported(tree) if name.startswith("torchvision.io")}, path


def test_torch_loads_tensors_only_and_numpy_no_objects():
    for path, tree in product().items():
        for name, words, _ in calls(tree):
            if name == "torch.load":
                assert words.get("weights_only") == "True", path
                assert path == "engine/training/checkpoint.py", path
            if name in ("np.load", "numpy.load"):
                assert words.get("allow_pickle", "False") == "False", path


def test_nothing_starts_a_shell_or_evaluates_text():
    for path, tree in product().items():
        for name, words, _ in calls(tree):
            assert words.get("shell", "False") == "False", path
            assert name not in CALLS, f"{path}: {name}"


def test_the_engine_names_no_screen():
    for path, tree in trees("engine").items():
        assert not {name.split(".")[0] for name in imported(tree)} & {"streamlit", "dashboard", "pages"}, path


def test_markdown_never_allows_html_and_components_are_ours():
    for path, tree in product().items():
        for name, words, _ in calls(tree):
            assert "unsafe_allow_html" not in words, path
            assert "unsafe_allow_javascript" not in words or path == "dashboard/synced_view.py", path
            assert not name.endswith(("components.v1.html", "components.html", "st.iframe")), path


def test_html_of_a_page_is_built_from_escaped_parts_only():
    """In every `st.html(f"...")`: a value is escaped, formatted as a number, or a fragment built in the same way."""
    loose = []
    for path, tree in trees("dashboard", "pages").items():
        for name, _, node in calls(tree):
            if name.endswith("st.html") and node.args and isinstance(node.args[0], ast.JoinedStr):
                around = function_around(node, tree)
                for part in node.args[0].values:
                    if isinstance(part, ast.FormattedValue) and not harmless(part.value, part, around):
                        text = ast.unparse(part.value)
                        if text not in REVIEWED.get(path, ()):
                            loose.append(f"{path}:{node.lineno}: {text}")
    assert not loose, "\n".join(loose)


def function_around(node: ast.Call, tree: ast.Module) -> ast.AST:
    """The innermost function that holds this call, else the file: names mean something else elsewhere."""
    holders = [
        item
        for item in ast.walk(tree)
        if isinstance(item, ast.FunctionDef) and item.lineno <= node.lineno <= (item.end_lineno or 0)
    ]
    return max(holders, key=lambda item: item.lineno, default=tree)


def harmless(value: ast.expr, part: ast.FormattedValue | None, tree: ast.AST, depth: int = 0) -> bool:
    if part is not None and part.format_spec is not None and ast.unparse(part.format_spec)[-2] in "fdg%,":
        return True
    if isinstance(value, ast.Constant):
        return True
    if isinstance(value, ast.JoinedStr):
        parts = [item for item in value.values if isinstance(item, ast.FormattedValue)]
        return all(harmless(item.value, item, tree, depth) for item in parts)
    if isinstance(value, ast.IfExp):
        return harmless(value.body, None, tree, depth) and harmless(value.orelse, None, tree, depth)
    if isinstance(value, ast.BoolOp):
        return all(harmless(item, None, tree, depth) for item in value.values)
    if isinstance(value, ast.BinOp):
        return harmless(value.left, None, tree, depth) and harmless(value.right, None, tree, depth)
    if isinstance(value, ast.Call):
        name = ast.unparse(value.func).split(".")[-1]
        if name == "join":
            return all(harmless(item, None, tree, depth) for item in value.args)
        return name in HARMLESS or name.endswith(("_html", "_svg"))
    if isinstance(value, ast.GeneratorExp | ast.ListComp):
        return harmless(value.elt, None, tree, depth)
    if isinstance(value, ast.List | ast.Tuple):
        return all(harmless(item, None, tree, depth) for item in value.elts)
    if isinstance(value, ast.Attribute):
        return False
    if (
        isinstance(value, ast.Name) and value.id.isupper()
    ):  # a constant of the file, never assigned in a function
        return True
    if isinstance(value, ast.Name) and depth < 3:
        return named(value.id, tree, depth + 1)
    return False


def named(name: str, tree: ast.AST, depth: int) -> bool:
    """A constant, or a variable whose every assignment in the function is harmless."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id == name:
                    found.append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                    found += [value for item, value in pairs if getattr(item, "id", "") == name]
    return bool(found) and all(harmless(value, None, tree, depth) for value in found)


def test_the_scan_of_html_sees_what_is_raw():
    tree = ast.parse("st.html(f'<b>{run.name}</b>')\nst.html(f'<b>{plain(run.name)}</b>')")
    raw, safe = (
        node.args[0].values[1] for _, _, node in calls(tree) if isinstance(node.args[0], ast.JoinedStr)
    )
    assert not harmless(raw.value, raw, tree)
    assert harmless(safe.value, safe, tree)


@pytest.mark.slow
def test_bandit_finds_nothing():
    pytest.importorskip("bandit")
    words = ["-m", "bandit", "-q", "-c", "pyproject.toml", "-r", "engine", "dashboard", "pages"]
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]


@pytest.mark.slow
def test_everything_imports_without_a_network():
    """No module fetches anything when it is loaded: every connection and name look-up would raise."""
    code = """
import importlib, pkgutil, socket, sys, logging
logging.disable(logging.CRITICAL)
def refuse(*given, **words):
    raise AssertionError(f"the network was asked for: {given}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.gethostbyname = refuse
import engine, dashboard
for package in (engine, dashboard):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith(("__main__", "dashboard.Home", "executors.ray_entry")):
            importlib.import_module(found.name)
print(len(sys.modules))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
