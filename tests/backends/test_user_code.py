"""Finding a user's functions, and hashing the code that shapes a model."""

from __future__ import annotations

import ast
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest

from privacy_pipeline.backends.models import code_hash, tabular, user_code
from privacy_pipeline.backends.models.code_hash import framework_sources, hash_of_framework, hash_of_user_code
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.read_once import reading_once


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_tabular_is_the_frameworks() -> None:
    code = user_code.resolve("tabular")
    assert code.build_model is tabular.build_model
    module, _, function = code.preprocessing_fn.rpartition(".")
    assert hasattr(__import__(module, fromlist=[function]), function)


def test_a_module_beside_the_config_brings_what_it_defines(folder: Path) -> None:
    (folder / "only_builds.py").write_text("def build_model(context): return 'model'\n")
    (folder / "only_prepares.py").write_text("def preprocessing_fn(inputs, custom_config): return {}\n")
    builds, prepares = user_code.resolve("only_builds"), user_code.resolve("only_prepares")
    assert builds.build_model(None) == "model"  # type: ignore[arg-type]
    assert builds.preprocessing_fn == user_code.resolve("tabular").preprocessing_fn
    assert prepares.preprocessing_fn == "only_prepares.preprocessing_fn"
    assert prepares.build_model is tabular.build_model


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "no source file of module"),
        ("import no_such_thing_at_all\n", "no_such_thing_at_all"),
        ("x = 1\n", "defines neither"),
        ("def build_model(:\n", "does not parse: .*line 1"),
    ],
)
def test_an_unusable_module_is_bad_input(folder: Path, source: str | None, says: str) -> None:
    name = f"unusable_{abs(hash(source))}"
    if source is not None:
        (folder / f"{name}.py").write_text(source)
    with pytest.raises(BadInputError, match=f"^model: .*{says}"):
        user_code.resolve(name)


@pytest.mark.parametrize("name", ["json", "numpy", "privacy_pipeline", "wave"])
@pytest.mark.parametrize("how", ["named", "imported", "a package"])
def test_a_module_that_would_take_the_place_of_an_installed_one_is_refused(folder: Path, name: str, how: str) -> None:
    file = folder / name / "__init__.py" if how == "a package" else folder / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("def build_model(context): raise AssertionError\n")
    (folder / "my_model.py").write_text(f"import {name}\ndef build_model(context): return 'model'\n")
    with pytest.raises(BadInputError, match=f"has the name of an installed module, '{name}'") as caught:
        user_code.resolve(name if how == "named" else "my_model")
    assert str(file) in caught.value.message


def test_a_folder_of_modules_shadows_nothing_that_is_not_named(folder: Path) -> None:
    """`import_module` with a name that no source shows finds what is installed first."""
    (folder / "wave.py").write_text("raise AssertionError\n")
    (folder / "finds_late.py").write_text(
        "import importlib\ndef build_model(context): return importlib.import_module('wa' + 've')\n"
    )
    sys.modules.pop("wave", None)
    found = user_code.resolve("finds_late").build_model(None)  # type: ignore[arg-type]
    assert not Path(str(found.__file__)).is_relative_to(folder)  # type: ignore[attr-defined]


def test_what_no_source_names_cannot_be_imported_from_the_folder(folder: Path) -> None:
    """Neither by name, as an installed package imports what it can do without, nor where a module has no source."""
    (folder / "optional_text.py").write_text("raise AssertionError('it ran')\n")
    (folder / "bare.py").write_text("x = 1\n")
    py_compile.compile(str(folder / "bare.py"), cfile=str(folder / "bare.pyc"))
    (folder / "bare.py").unlink()
    (folder / "spaces" / "inner").mkdir(parents=True)
    (folder / "spaces" / "inner" / "shapes.py").write_text("def build_model(context): return 'of a folder'\n")
    (folder / "names_them.py").write_text("from spaces.inner.shapes import build_model\n")
    assert user_code.resolve("names_them").build_model(None) == "of a folder"  # type: ignore[arg-type]
    for name in ("optional_text", "bare"):
        with pytest.raises(ModuleNotFoundError):
            __import__(name)
    (folder / "needs_bare.py").write_text("import bare\ndef build_model(context): return bare.x\n")
    with pytest.raises(BadInputError, match="bare"):
        user_code.resolve("needs_bare")


def test_what_was_hashed_is_what_is_imported(folder: Path) -> None:
    """Module and helper are swapped after the hash, and a stale .pyc lies beside them."""
    sources = {
        "swapped_model": "from swapped_parts import NAME\ndef build_model(context): return NAME\n",
        "swapped_parts": "NAME = 'reviewed'\n",
    }
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text)
    with reading_once():
        before = hash_of_user_code("swapped_model", root=folder)
        for name in sources:
            other = folder / f"{name}.py"
            other.write_text(other.read_text().replace("reviewed", "swapped1").replace("return NAME", "return 'bad'"))
            py_compile.compile(str(other))
        assert user_code.resolve("swapped_model").build_model(None) == "reviewed"  # type: ignore[arg-type]
        (folder / "swapped_later.py").write_text("NAME = 'new'\n")
        assert hash_of_user_code("swapped_model", root=folder) == before
    assert hash_of_user_code("swapped_model", root=folder) != before


@pytest.fixture
def package(folder: Path) -> Path:
    (folder / "mine").mkdir()
    (folder / "mine" / "__init__.py").write_text("")
    (folder / "mine" / "model.py").write_text("import numpy\nfrom . import layers\ndef build_model(context): ...\n")
    (folder / "mine" / "layers.py").write_text("def f():\n    from helper import g\n")
    (folder / "helper.py").write_text("import mine.model  # a cycle\ndef g(): ...\n")
    (folder / "stranger.py").write_text("")
    return folder


@pytest.mark.parametrize("changed", ["mine/model.py", "mine/__init__.py", "mine/layers.py", "helper.py"])
def test_every_source_that_is_imported_counts(package: Path, changed: str) -> None:
    before = hash_of_user_code("mine.model", root=package)
    with (package / changed).open("a") as file:
        file.write("# a comment\n")
    assert hash_of_user_code("mine.model", root=package) != before


def test_what_is_not_imported_does_not_count(package: Path) -> None:
    before = hash_of_user_code("mine.model", root=package)
    (package / "stranger.py").write_text("x = 1\n")
    assert hash_of_user_code("mine.model", root=package) == before


def test_the_hash_does_not_depend_on_the_folder(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for path in package.rglob("*.py"):
        target = copy / path.relative_to(package)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    assert hash_of_user_code("mine.model", root=package) == hash_of_user_code("mine.model", root=copy)


def test_modules_on_the_python_path_count(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far_model.py").write_text("import far_helper\n")
    (elsewhere / "far_helper.py").write_text("")
    monkeypatch.syspath_prepend(str(elsewhere))
    before = hash_of_user_code("far_model", root=folder)
    (elsewhere / "far_helper.py").write_text("x = 1\n")
    assert hash_of_user_code("far_model", root=folder) != before


def test_hashing_imports_nothing(folder: Path) -> None:
    (folder / "explosive.py").write_text("raise SystemExit('imported')\n")
    assert len(hash_of_user_code("explosive", root=folder)) == 64


def test_a_missing_or_broken_source_is_bad_input(folder: Path) -> None:
    (folder / "broken.py").write_text("def (\n")
    for name in ("absent", "broken"):
        with pytest.raises(BadInputError, match=f"^model: .*'{name}'"):
            hash_of_user_code(name, root=folder)


def test_the_framework_has_one_hash_a_process() -> None:
    assert len(hash_of_framework()) == 64
    assert hash_of_framework() is hash_of_framework()


def closure(sources: dict[str, bytes], *roots: str) -> set[str]:
    """Files that modules import, directly or not, by `import` statements and by names that stand in strings."""
    waiting, found = list(roots), set()
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        inits = ["/".join([*parts[:end], "__init__.py"]) for end in range(1, len(parts) + 1)]
        for path in {*inits, "/".join(parts) + ".py"} & set(sources) - found:
            found.add(path)
            tree = ast.parse(sources[path])
            strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
            named = [text for text in strings if isinstance(text, str) and text.startswith(("privacy_", "federated."))]
            waiting += [text.partition(":")[0] for text in named]  # module:class, as registries write it
            module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            waiting += code_hash._imports(module, sources[path], is_package=path.endswith("__init__.py"))
    return found


def test_an_edit_of_any_module_that_a_node_imports_changes_the_hash() -> None:
    sources = framework_sources(Path(code_hash.__file__).parents[3])
    components = [path.removesuffix(".py").replace("/", ".") for path in sources if "/components/" in path]
    modules = closure(sources, *components, "privacy_pipeline.pipelines.execution.worker")
    for drawing in ("releases/noise.py", "releases/statistics.py", "spans.py", "dp/rowwise/rules/rules_neural.py"):
        assert f"privacy_pipeline/{drawing}" in modules
    before, seen = code_hash._digest(sources), set()
    assert before == hash_of_framework()
    for path in modules:
        seen.add(code_hash._digest({**sources, path: sources[path] + b"#"}))
    assert before not in seen and len(seen) == len(modules) > 250


ROOT = Path(code_hash.__file__).parents[3]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of both packages, and the paths of all their files: modules, templates, fonts."""
    root = tmp_path / "copied"
    for package in ("privacy_pipeline", "federated"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    found = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return root, sorted(os.path.relpath(path, root) for path in found)


def test_an_edit_of_any_file_of_either_package_is_in_what_is_hashed(files: tuple[Path, list[str]]) -> None:
    root, paths = files
    before = framework_sources(root)
    assert code_hash._digest(before) == hash_of_framework()
    assert len(paths) > 400 and {Path(path).suffix for path in paths} > {".py", ".j2", ".ttf"}
    for path in paths:
        with (root / path).open("ab") as stream:
            stream.write(b"#")
    after = framework_sources(root)
    assert {path for path in paths if after.get(path) != before.get(path)} == set(paths)
    keys = {code_hash._digest({**before, path: after[path]}) for path in paths}  # each edited in turn
    assert hash_of_framework() not in keys and len(keys) == len(paths)


def test_a_file_that_is_added_renamed_or_removed_is_told(files: tuple[Path, list[str]]) -> None:
    root, paths = files
    module = next(path for path in paths if path.endswith("releases/noise.py"))
    before = code_hash._digest(framework_sources(root))
    (root / module).rename(root / "privacy_pipeline/renamed.py")
    renamed = code_hash._digest(framework_sources(root))
    (root / "privacy_pipeline/renamed.py").unlink()
    removed = code_hash._digest(framework_sources(root))
    (root / "privacy_pipeline/new.json").write_text("{}")
    assert len({before, renamed, removed, code_hash._digest(framework_sources(root))}) == 4


def test_the_hash_is_of_the_files_as_they_are(tmp_path: Path) -> None:
    module = tmp_path / "privacy_pipeline" / "releases" / "noise.py"
    module.parent.mkdir(parents=True)
    module.write_text("SCALE = 1\n")
    before = framework_sources(tmp_path)
    module.write_text("SCALE = 2\n")
    (module.parent / "__pycache__").mkdir()
    (module.parent / "__pycache__" / "noise.pyc").write_text("")
    after = framework_sources(tmp_path)
    assert before != after and set(before) == set(after) == {"privacy_pipeline/releases/noise.py"}
