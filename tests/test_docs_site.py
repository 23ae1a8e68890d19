"""The documentation site, as far as it can be checked without building it (`.ci/run` builds it)."""

import ast
import io
import re
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest
from docutils.core import publish_doctree

import tinynet_sklearn

PACKAGE = Path(tinynet_sklearn.__file__).parent
DOCS = Path(__file__).parent.parent / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
SECTION = re.compile(r"^# (.+)\n# (-+)$", flags=re.MULTILINE)


@pytest.fixture(scope="module")
def conf():
    """What docs/conf.py defines."""
    path = sys.path[:]
    try:
        return runpy.run_path(str(DOCS / "conf.py"))
    finally:
        sys.path[:] = path


def in_reference():
    """Names in the tables of the reference."""
    blocks = re.findall(
        r"^```\{eval-rst\}\n(.*?)^```$", (DOCS / "reference.md").read_text(), flags=re.M | re.S
    )
    return [
        line.strip() for block in blocks for line in block.splitlines() if re.fullmatch(r" +[\w.]+", line)
    ]


def test_every_page_stands_once_in_the_navigation(conf):
    listed = [
        entry.partition("<")[2].rstrip(">") or entry for pages in conf["CHAPTERS"].values() for entry in pages
    ]
    assert len(listed) == len(set(listed))
    pages = {page.stem for page in DOCS.glob("*.md")}
    assert sorted(pages - {"index"} - set(listed)) == []
    copies = {f"generated/{page.stem}" for page in conf["COPIES"].values()}
    assert copies <= set(listed)
    assert set(conf["CHAPTERS"]) <= pages


def test_files_of_which_pages_are_made_exist(conf):
    assert [str(path) for path in conf["COPIES"] if not path.exists()] == []


def test_tables_of_contents_leave_out_pages_that_do_not_exist(conf):
    conf["CHAPTERS"]["guides"].append("no-such-page")
    try:
        contents = conf["table_of_contents"]("guides")
    finally:
        conf["CHAPTERS"]["guides"].remove("no-such-page")
    assert "\nuser-guide\n" in contents
    assert "no-such-page" not in contents
    assert "<auto_examples/index>" in conf["table_of_contents"]("index")


@pytest.mark.parametrize(
    ("source", "target", "page", "expected"),
    [
        ("docs/index.md", "user-guide.md", "docs/index.md", "user-guide.md"),
        ("docs/index.md", "../benchmarks/README.md", "docs/index.md", "generated/benchmarks.md"),
        ("docs/index.md", "examples", "docs/index.md", "auto_examples/index.rst"),
        ("docs/index.md", "examples/plot_3_ldos.py", "docs/index.md", "auto_examples/plot_3_ldos.rst"),
        ("README.md", "docs/ldos.md", "docs/generated/readme.md", "../ldos.md"),
        ("README.md", "benchmarks/README.md", "docs/generated/readme.md", "benchmarks.md"),
    ],
)
def test_links_on_the_site(conf, source, target, page, expected):
    root = DOCS.resolve().parent
    assert conf["site_link"](target, root / source, root / page) == expected


def test_links_in_code_stay(conf):
    page = DOCS.resolve() / "index.md"
    text = "see [README](../README.md#limits)\n```python\nrows[k](../README.md)\n```\n[web](https://a.b/c)\n"
    moved = text.replace("[README](../README.md#", "[README](generated/readme.md#")
    assert conf["with_site_links"](text, page, page) == moved


def test_every_public_name_is_in_the_reference():
    names = in_reference()
    assert len(names) == len(set(names))
    assert sorted(set(tinynet_sklearn.__all__) - {"__version__"} - set(names)) == []


def test_the_reference_names_what_exists():
    for name in in_reference():
        module, _, attribute = f"tinynet_sklearn.{name}".rpartition(".")
        assert hasattr(import_module(module), attribute), name


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_compile_and_have_titles(path):
    assert re.fullmatch(r"plot_\d_\w+\.py", path.name)
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=path.name)
    lines = (ast.get_docstring(tree) or "").splitlines()
    assert lines[1] == "=" * len(lines[0])
    assert not lines[2]
    assert lines[3]
    assert all(len(title) == len(line) for title, line in SECTION.findall(text))
    assert not re.search(r"\d{4}-\d\d-\d\d|/home/|/work/|/tmp/", text)


def test_examples_are_linked_from_the_pages():
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    assert [path.name for path in EXAMPLES if f"(examples/{path.name})" not in pages] == []


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_docstrings_of_modules_keep_their_structure(path):
    """Tables and indented parts, which re-wrapping destroys."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    quiet = {"report_level": 2, "halt_level": 5, "warning_stream": io.StringIO()}
    tree = publish_doctree(text, settings_overrides=quiet)
    said = [
        node.astext() for node in tree.findall() if node.tagname == "system_message" and node["level"] > 1
    ]
    structural = re.compile(r"table|indentation|Title|Block quote|list ends|definition", re.IGNORECASE)
    assert [message for message in said if structural.search(message)] == []
