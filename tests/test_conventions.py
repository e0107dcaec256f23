"""What all scripts have in common, so that a reader of one finds the way in the next."""

import ast
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
THIRD_PARTY = {"requests": "requests", "scapy": "scapy"}  # modules that a script may import, and their distributions
PAIRS = list(itertools.combinations(SCRIPTS, 2))

every_script = pytest.mark.parametrize("name", SCRIPTS)


@functools.cache
def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@functools.cache
def tree(name):
    return ast.parse(read(name))


@functools.cache
def definitions(name):
    """The source of each function and class at the top level."""
    lines = read(name).splitlines()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {
        node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in tree(name).body
        if isinstance(node, kinds)
    }


@functools.cache
def constants(name):
    """The literal values of the assignments at the top level, and the source of the others."""
    values = {}
    for node in tree(name).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                values[node.targets[0].id] = ast.unparse(node.value)
    return values


def public(name):
    """The names in __all__."""
    for node in tree(name).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("no __all__")


def imported(name):
    """The top-level modules that a script imports anywhere, and those it imports when it is itself imported."""

    def modules(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module.partition(".")[0]

    return set(modules(ast.walk(tree(name)))), set(modules(tree(name).body))


def script_block(name):
    """The PEP 723 block as a dictionary."""
    lines = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", read(name), re.MULTILINE).group(1).splitlines()
    return tomllib.loads("\n".join(line[2:] for line in lines))


def flags(help_text):
    """Every option in a script's --help."""
    options = help_text.partition("\noptions:")[2].partition("\nexamples:")[0]
    names = re.findall(r"(?m)^  (-[^ \n]*(?:,? [A-Z]+)?(?:, -[^ \n]*)*)", options)
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", " ".join(names))) - {"-h", "--help"}


@every_script
def test_importing_a_script_does_nothing(name, tmp_path):
    """A copy of it, in a folder of its own."""
    shutil.copy(ROOT / name, tmp_path)
    module = name.removesuffix(".py")
    others = set(THIRD_PARTY) | {other.removesuffix(".py") for other in SCRIPTS} - {module}
    code = (
        f"import sys, threading; sys.path.insert(0, {str(tmp_path)!r}); import {module}; "
        f"assert not set(sys.modules) & {others!r}; assert threading.active_count() == 1"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@every_script
def test_a_script_needs_the_standard_library_and_what_it_declares(name):
    anywhere, at_import = imported(name)
    needed = anywhere - set(sys.stdlib_module_names)
    assert needed <= set(THIRD_PARTY)
    assert len(needed) <= 1
    assert not at_import - set(sys.stdlib_module_names)
    block = script_block(name)
    assert block["requires-python"] == ">=3.11"
    requirements = {re.match(r"[\w-]+", line).group(): line for line in read("requirements.txt").splitlines()}
    assert block["dependencies"] == [requirements[THIRD_PARTY[module]] for module in sorted(needed)]


@every_script
def test_a_script_names_copyright_and_license(name):
    lines = read(name).splitlines()
    assert lines[0] == "#!/usr/bin/env python3"
    assert os.access(ROOT / name, os.X_OK)
    assert "# SPDX-FileCopyrightText: 2026 the netscripts authors" in lines[:12]
    assert "# SPDX-License-Identifier: 0BSD" in lines[:12]
    if "scapy" in imported(name)[0]:
        assert any("GPL-2.0-only" in line for line in lines[:16])


def test_the_version_is_the_same_in_all_scripts():
    assert len({constants(name)["__version__"] for name in SCRIPTS}) == 1


@every_script
def test_all_public_names_are_documented(name):
    source = definitions(name)
    for exported in public(name):
        assert ast.get_docstring(ast.parse(source[exported]).body[0]), exported
    assert source["main"].startswith("def main(argv: Sequence[str] | None = None) -> int:")
    assert read(name).endswith('\n\nif __name__ == "__main__":\n    sys.exit(main())\n')


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda name: name.removesuffix(".py"))
def test_functions_that_scripts_share_are_word_for_word_the_same(one, other):
    first, second = definitions(one), definitions(other)
    own = {"main", "parse_args", *public(one), *public(other)}
    for name in (first.keys() & second.keys()) - own:
        assert first[name] == second[name], f"{name} differs between {one} and {other}"
    for name in ("BIDIRECTIONAL", "NONCHARACTERS", "UNPRINTABLE"):
        values = [constants(script)[name] for script in (one, other) if name in constants(script)]
        assert values[1:] in ([], [values[0]])


def test_the_two_sniffers_contain_the_same_region_for_capturing():
    """It begins at the same place: after the imports and the name of the program."""
    regions = []
    for name in ("sniff.py", "http_analyzer.py"):
        before, heading, region = read(name).partition("\n# Capture: ")
        assert heading
        assert before.rstrip().endswith("PROGRAM = os.path.basename(__file__)")
        regions.append(region.partition("\n\n\n# ")[0])
    assert regions[0] == regions[1]
    assert len(regions[0].splitlines()) > 100


@every_script
def test_every_option_is_in_the_page_of_its_script(name, run):
    page = read(f"docs/{name.removesuffix('.py')}.md")
    options = flags(run(name, "--help")[1])
    missing = {flag for flag in options if not re.search(rf"(?<![\w-]){flag}(?![\w-])", page)}
    assert options
    assert not missing


@every_script
def test_the_table_in_the_readme_has_the_lines_of_each_script(name):
    row = next(line for line in read("README.md").splitlines() if line.startswith(f"| [`{name}`]"))
    assert row.endswith(f"| {len(read(name).splitlines())} |")
