"""README, docs and .ci/run: what they say is what is there, and their code runs."""

import re
import shutil
import sys
from configparser import ConfigParser
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from test_architecture import FLOORS, MODULES, PACKAGE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def table_under(page, header):
    """Rows of the table with this header line, as lists of cells."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = lines[lines.index(header) + 2 :]
    end = next((k for k, line in enumerate(rows) if not line.startswith("|")), len(rows))
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[:end]]


#: Pages whose code needs what cannot be had everywhere: tblite has wheels for some machines, and needs
#: libgomp.
NEEDED = {"any-structure.md": "tblite.ase", "featurizers.md": "dscribe.descriptors"}

#: Extras whose packages the package itself imports.
USED_EXTRAS = ("dscribe", "siesta", "tables")

PAGES_WITH_CODE = [page for page in PAGES if code_blocks(page, "python")]


@pytest.mark.parametrize("page", PAGES_WITH_CODE, ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page, one after the other, where there is a file frames.extxyz."""
    if page.name in NEEDED:
        try:
            import_module(NEEDED[page.name])
        except (ImportError, OSError) as error:
            pytest.skip(f"needs {NEEDED[page.name]}: {error}")
    with as_file(files("tinynet_sklearn") / "data" / "moo3_gpaw.extxyz") as data:
        shutil.copy(data, tmp_path / "frames.extxyz")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for k, block in enumerate(code_blocks(page, "python")):
        exec(compile(block, f"{page.name}, block {k}", "exec"), namespace)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_two_commands_of_the_readme_stand_on_their_own():
    commands = [block.strip() for block in code_blocks(ROOT / "README.md", "bash")][:2]
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert "\n" not in command
    assert commands[0].endswith(".venv/bin/tinynet quickstart")
    assert commands[1].endswith(".venv/bin/pytest")


def test_ci_runs_the_test_command_of_the_readme():
    command = code_blocks(ROOT / "README.md", "bash")[1].strip()
    script = ROOT / ".ci" / "run"
    assert command in script.read_text(encoding="utf-8").splitlines()
    assert script.stat().st_mode & 0o111, ".ci/run must be executable"


def test_the_house_in_the_docs_is_the_house():
    page = ROOT / "docs" / "architecture.md"
    floors = {
        int(floor): re.findall(r"`(\w+)`", modules)
        for floor, modules in table_under(page, "| floor | modules |")
    }
    assert floors == dict(enumerate(FLOORS))
    described = [
        name
        for names, _ in table_under(page, "| module | lives here |")
        for name in re.findall(r"`(\w+)`", names)
    ]
    assert sorted(described) == sorted(set(MODULES) - {"_version"})


def test_messages_in_the_user_guide_are_those_of_the_code():
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py")))
    rows = table_under(ROOT / "docs" / "user-guide.md", "| message starts with | cause |")
    assert len(rows) >= 5
    for message, _ in rows:
        for piece in message.strip("`").removeprefix("X ").split("..."):
            assert piece.strip(" ,=") in source, message


def test_own_data_ignore_constraints():
    for page in PAGES:
        assert "get_forces()" not in "".join(code_blocks(page, "python")), page.name


def test_every_requirement_is_imported_and_every_import_required():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = " ".join([config["options"]["install_requires"], *(extras[name] for name in USED_EXTRAS)]).split()
    required = {re.match("[a-z-]+", line).group().replace("scikit-learn", "sklearn") for line in lines}
    source = "".join(path.read_text(encoding="utf-8") for path in sorted(PACKAGE.glob("*.py")))
    imported = set(
        re.findall(r"^ *(?:import|from) ([a-z]\w*)[\w.]*(?: import .*| as .*)?$", source, flags=re.MULTILINE)
    )
    assert imported - sys.stdlib_module_names - {"tinynet_sklearn"} == required


def test_the_changelog_knows_the_version():
    from tinynet_sklearn import __version__

    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
