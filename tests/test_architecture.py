"""The shape of the package: which module may import which, and how large, pure and documented each is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import testdb_app

ROOT = Path(testdb_app.__file__).parent

# Imports go down: a module imports from the layers below its own, or from its own. The demonstration app is apart.
LAYERS = {
    "values": ("exceptions", "schema", "diff"),
    "reading": ("graph", "selection", "model_tables", "baseline_state"),
    "vendor": ("backends",),
    "policy": ("conf", "guard", "plan", "report"),
    "engine": ("resetter", "baseline", "transactions", "signals", "post_migrate", "checks"),
    "test side": (
        *("creation", "database_setup", "teardown", "testcases", "runner", "sessions", "data"),
        *("shared_set_up", "deep_copies", "side_effects"),
    ),
    "doors": ("pytest_plugin", "plugin", "showdeps", "management", "apps"),
}
# Earlier paths of public names, until the first release: each only imports from the new one.
MOVED = {"states": "baseline_state", "scope": "selection", "details": "schema"}
MOVED_BACKENDS = {"backends.protocols", "backends.data_protocols"}
LEVELS = {unit: level for level, units in enumerate(LAYERS.values()) for unit in units}
LEVELS |= {old: LEVELS[new] for old, new in MOVED.items()}
# Other people's private API, in one file each: any layer may import these, and they import nothing of ours.
PRIVATE = ("_django_private", "plugin._pytest_private", "backends.postgresql._psycopg_private")
LEVELS["_django_private"] = -1
# What the private files use, beside the attributes that are found by reading them.
PRIVATE_NAMES = {"_django_db_helper", "_unittest_setUpClass_fixture_"}
# Documented API, or attributes of our own that have the same name.
NOT_PRIVATE = {"_meta", "_state"}

# Values and algorithms: these work where there is no Django at all.
PURE = (
    "exceptions",
    "schema",
    "diff",
    "graph",
    "selection",
    "baseline_state",
    "backends.base",
    "plan",
    "report",
    "showdeps",
)

# Guidance, printed and not enforced.
GUIDANCE_LINES = 700
GUIDANCE_LINES_OF_A_FUNCTION = 80

# File names that may occur in several folders, but for those of backends, which mirror each other.
SAME_NAME = {
    "baseline": "captured and dropped by the engine, kept by each vendor",
    "snapshots": "the helpers' own, over each vendor's",
    "data": "the helpers' folder, over each vendor's part",
    "options": "what a session, and what a run of pytest, was asked for",
    "showdeps": "the command, over the pictures",
    "resetdb": "the command",
}
PARTICIPLES = {"loading", "reporting", "connection_sharing", "sharing", "migrated"}


def find_modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}
CORE = [name for name in MODULES if name and name.split(".")[0] != "demo"]
DEMO = [name for name in MODULES if name.split(".")[0] == "demo"]


def imported_by(name: str) -> set[str]:
    """Return all that a module imports, for type checkers too, absolute; names of this package without its prefix."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("testdb_app.")
                found.add(f"testdb_app.{inner}" if inner in MODULES else str(node.module))
    return found


def own_imports(name: str) -> set[str]:
    own = {target for target in imported_by(name) if target.split(".")[0] == "testdb_app"}
    return {target.removeprefix("testdb_app").removeprefix(".") for target in own}


def unit_of(name: str) -> str:
    """Return the module or package right below the app's own that *name* is, or is inside of."""
    return name.split(".", maxsplit=1)[0]


def test_every_module_has_its_place_in_the_layers() -> None:
    assert [name for name in CORE if unit_of(name) not in LEVELS] == []
    assert [unit for unit in LEVELS if unit not in MODULES] == []


@pytest.mark.parametrize("name", CORE)
def test_a_module_imports_nothing_from_the_layers_above_its_own(name: str) -> None:
    level = LEVELS[unit_of(name)]
    assert [target for target in sorted(own_imports(name)) if target and LEVELS[unit_of(target)] > level] == []


@pytest.mark.parametrize("name", PRIVATE)
def test_a_file_for_private_api_imports_nothing_of_ours(name: str) -> None:
    assert own_imports(name) == set()


def underscored(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield each name with one leading underscore that is an attribute or a whole text, with its node."""
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.value if isinstance(node, ast.Constant) else None
        if isinstance(name, str) and name.startswith("_") and not name.startswith("__") and name.isidentifier():
            yield name, node


def private_names() -> set[str]:
    """Return the names of other people's private API: those that the private files use."""
    found = set(PRIVATE_NAMES)
    for name in PRIVATE:
        tree = TREES[name]
        own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_own(node)}
        found |= {used for used, _ in underscored(tree)} - own
    return found - NOT_PRIVATE


def is_own(node: ast.AST) -> bool:
    """Whether *node* is an attribute of self, cls or super(), or no attribute."""
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"self", "cls", "super()"}


def own_modules(tree: ast.AST) -> set[str]:
    """Return the names under which a module knows others of this package."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("testdb_app")
        for alias in node.names
    }


def test_private_api_of_others_is_used_in_its_files_only() -> None:
    from testdb_app._django_private import OVERRIDDEN

    private, found = private_names(), []
    assert {"_from_testcase", "_connections", "_pyfuncitem", "_finalizers", "_databases_names"} <= private
    for name in CORE:
        if name in PRIVATE:
            continue
        for used, node in underscored(TREES[name]):
            # Its own attribute of the same name, or a method that is overridden.
            is_allowed = is_own(node) or (name == "testcases" and used in OVERRIDDEN)
            if used in private and not is_allowed:
                found.append(f"{name}:{getattr(node, 'lineno', 0)}: {used}")
    assert found == []


def test_no_underscored_attribute_is_that_of_somebody_else() -> None:
    """An attribute that no class or module of this package defines is private API of others, which has its files."""
    documented = {"_meta", "_state", "_base_manager", "_default_manager", "_getframe"}
    own = set()
    for name in CORE:
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
                own.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
    found = [
        f"{name}:{getattr(node, 'lineno', 0)}: {used}"
        for name in CORE
        if name not in PRIVATE
        for known in [own | documented | own_modules(TREES[name])]
        for used, node in underscored(TREES[name])
        if isinstance(node, ast.Attribute) and used not in known
    ]
    assert found == []


def test_no_module_imports_a_private_module_of_others() -> None:
    for name in CORE:
        foreign = {target for target in imported_by(name) if target.split(".")[0] not in {"testdb_app", "__future__"}}
        assert not any(part.startswith("_") for target in foreign for part in target.split(".")), name


def test_a_file_name_occurs_once() -> None:
    places: dict[str, list[str]] = {}
    for name in CORE:
        *folders, last = name.split(".")
        # Those of the vendors mirror each other.
        places.setdefault(last, []).append("backends" if folders[:1] == ["backends"] else ".".join(folders))
    twice = {last for last, folders in places.items() if len(set(folders)) > 1}
    assert twice <= SAME_NAME.keys(), {last: places[last] for last in twice - SAME_NAME.keys()}


@pytest.mark.parametrize("name", sorted({*MOVED, *MOVED_BACKENDS}))
def test_an_earlier_path_only_imports(name: str) -> None:
    assert len(MODULES[name].read_text("utf-8").splitlines()) < 12
    assert not any(name in own_imports(other) for other in MODULES)


def test_a_module_is_named_by_a_noun() -> None:
    for name in CORE:
        last = name.split(".")[-1]
        assert last in PARTICIPLES or not last.split("_")[-1].endswith(("ing", "ed")), name


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: own_imports(name) - {name} for name in MODULES}
    # A package's own __init__ runs first and imports its modules; they need not import it.
    assert list(TopologicalSorter(graph).static_order())


def test_only_the_registry_of_backends_imports_by_name() -> None:
    dynamic = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.alias)
        and (node.id if isinstance(node, ast.Name) else node.name) in {"import_module", "__import__", "importlib"}
    }
    assert dynamic == {"backends"}


def test_nobody_but_the_registry_knows_a_vendors_folder() -> None:
    vendors = {"backends.postgresql", "backends.sqlite", "backends.generic"}
    for name in CORE:
        known = {vendor for vendor in vendors for target in own_imports(name) if f"{target}.".startswith(f"{vendor}.")}
        assert all(f"{name}.".startswith(f"{vendor}.") for vendor in known), name


def test_the_demo_imports_nothing_of_the_app_and_nothing_of_the_app_imports_it() -> None:
    for name in DEMO:
        assert {target.split(".")[0] for target in own_imports(name)} <= {"demo"}, name
    for name in CORE:
        assert not any(target.split(".")[0] == "demo" for target in own_imports(name)), name


def test_nothing_imports_the_tests_or_the_test_project() -> None:
    for name in MODULES:
        assert {target.split(".")[0] for target in imported_by(name)}.isdisjoint({"tests", "testproject"}), name


def run_python(code: str) -> object:
    """Run code in an interpreter of its own that prints one JSON value."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, json; before = set(sys.modules); import testdb_app; print(json.dumps(sorted(set(sys.modules) - before)))"
    assert run_python(code) == ["testdb_app"]


def test_pure_modules_work_without_django() -> None:
    pure = [name for name in MODULES if any(name == unit or name.startswith(f"{unit}.") for unit in PURE)]
    assert len(pure) > len(PURE)
    code = f"""
import importlib, json, sys
class NoDjango:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("django", "psycopg"):
            raise ImportError(name)
sys.meta_path.insert(0, NoDjango())
for name in {pure!r}:
    importlib.import_module(f"testdb_app.{{name}}")
print(json.dumps([name for name in sys.modules if name.startswith("django")]))
"""
    assert run_python(code) == []


@pytest.mark.parametrize("name", ["catalog", "operations", "sql", "baseline_shape"])
def test_sql_is_written_without_a_connection(name: str) -> None:
    # Their package imports Django, for the modules beside them.
    imported = imported_by(f"backends.postgresql.{name}")
    assert {target.split(".")[0] for target in imported}.isdisjoint({"django", "psycopg"})


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CORE
        if unit_of(name) in {"exceptions", "schema", "diff", "graph", "selection", "baseline_state", "plan", "report"}
    ]
    + ["showdeps.picture", "showdeps.text", "showdeps.export"],
)
def test_values_and_pictures_do_no_input_or_output(name: str) -> None:
    ways_out = {
        "io",
        "os",
        "pathlib",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "logging",
        "time",
        "random",
        "threading",
    }
    assert {target.split(".")[0] for target in imported_by(name)}.isdisjoint(ways_out)
    called = {
        node.func.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called.isdisjoint({"open", "print", "input", "exec", "eval"})


def test_the_app_has_no_models_and_the_demo_names_its_own_label() -> None:
    assert "models" not in MODULES
    assert not (ROOT / "migrations").exists()
    models = [name for name in DEMO if name.startswith("demo.models.")]
    for name in models:
        for node in TREES[name].body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Model") for base in node.bases):
                assert "app_label = 'testdb_demo'" in ast.unparse(node), f"{name}.{node.name}"


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Definition]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            yield f"{prefix}.{node.name}", node
            yield from definitions(node, f"{prefix}.{node.name}")


def test_what_is_longer_than_the_guidance_is_printed() -> None:
    for name, path in MODULES.items():
        lines = len(path.read_text("utf-8").splitlines())
        if lines > GUIDANCE_LINES:
            print(f"{name}: {lines} lines")
        for inner, node in definitions(TREES[name], name):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if not isinstance(node, ast.ClassDef) and length > GUIDANCE_LINES_OF_A_FUNCTION:
                print(f"{inner}: {length} lines")


def public_definitions() -> Iterator[tuple[str, ast.AST]]:
    for name, tree in TREES.items():
        parts = name.split(".")
        if "migrations" in parts or any(part.startswith("_") for part in parts):
            continue
        if MODULES[name].stat().st_size:
            yield name, tree
        for inner, node in definitions(tree, name):
            path = inner.removeprefix(f"{name}.").split(".")
            within_a_function = any(
                isinstance(each, ast.FunctionDef) and inner.startswith(f"{outer}.")
                for outer, each in definitions(tree, name)
            )
            if not within_a_function and path[-1] != "Meta" and not any(part.startswith("_") for part in path):
                yield inner, node


def test_every_public_name_has_a_docstring_that_is_a_sentence() -> None:
    missing = []
    # What a vendor does as the contract says has the contract's docstring.
    contract = {inner.split(".")[-1] for inner, _ in definitions(TREES["backends.base"], "")}
    for name, node in public_definitions():
        if name.startswith("backends.") and isinstance(node, ast.FunctionDef) and node.name in contract:
            continue
        assert isinstance(node, ast.Module | Definition)
        first = (ast.get_docstring(node) or "").split("\n\n")[0]
        if not first.rstrip().endswith((".", ":", "::")):
            missing.append(name)
    assert missing == []


def test_data_is_frozen() -> None:
    for name in CORE:
        for inner, node in definitions(TREES[name], name):
            for decorator in node.decorator_list:
                if ast.unparse(decorator).startswith("dataclass"):
                    assert "frozen=True" in ast.unparse(decorator), inner


def test_no_name_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "misc", "common", "core", "base_manager"}
    for name in MODULES:
        assert empty.isdisjoint(name.split(".")), name
        for inner, node in definitions(TREES[name], name):
            assert node.name.lower() not in empty, inner
            assert not (isinstance(node, ast.ClassDef) and node.name.endswith("Manager")), inner


def test_a_class_named_test_is_not_collected_by_pytest() -> None:
    for name in MODULES:
        for inner, node in definitions(TREES[name], name):
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                assert "__test__ = False" in ast.unparse(node), inner
