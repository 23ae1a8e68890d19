"""How Sphinx makes the site from docs/, README.md, CHANGELOG.md and benchmarks/README.md.

    sphinx-build -W --keep-going -b html docs build/docs

The pages are Markdown that GitHub shows as well. What only the site needs is added here while it is built:
tables of contents (`CHAPTERS`), and links that lead elsewhere on the site than among the files (`site_link`).
"""

import os
import re
import sys
from pathlib import Path

from tinynet_sklearn import __version__

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

#: By page, the pages below it, as they stand in the navigation. Those that do not exist (yet) are left out.
CHAPTERS = {
    "index": [
        "Start <generated/readme>",
        "Examples <auto_examples/index>",
        "How-to guides <guides>",
        "Explanation <explanation>",
        "Reference <reference>",
        "Benchmarks <generated/benchmarks>",
        "Development <architecture>",
    ],
    "guides": [
        "first-steps",
        "user-guide",
        "data",
        "any-structure",
        "potential",
        "simulations",
        "ldos",
        "featurizers",
        "plots",
        "scale-out",
        "command-line",
    ],
    "explanation": ["embedding", "training", "speed"],
    "reference": ["conventions"],
    "architecture": ["generated/changelog"],
}

#: Files outside of docs/, and the pages that are made from them.
COPIES = {
    ROOT / "README.md": DOCS / "generated" / "readme.md",
    ROOT / "CHANGELOG.md": DOCS / "generated" / "changelog.md",
    ROOT / "benchmarks" / "README.md": DOCS / "generated" / "benchmarks.md",
}

project = "tinynet_sklearn"
author = "the tinynet_sklearn developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates", "examples"]
templates_path = ["_templates"]
myst_heading_anchors = 4
nitpicky = False
default_role = "code"

# Docstrings. Methods of our own base classes belong to a class, those of scikit-learn, ASE and NumPy do not.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
FOREIGN = (
    "BaseEstimator, TransformerMixin, RegressorMixin, MetaEstimatorMixin, Calculator, ndarray, Exception"
)
autodoc_default_options = {"members": True, "inherited-members": FOREIGN}

html_theme = "pydata_sphinx_theme"
html_title = f"tinynet_sklearn {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {page: [] for page in ("index", "generated/readme", "generated/benchmarks")}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "tinynet_sklearn"},
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 7,
}

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "capture_repr": (),
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "image_scrapers": ("matplotlib", "gallery_figures.last_value_scraper"),
    "ignore_repr_types": r"matplotlib\.figure\.Figure",
    "first_notebook_cell": "%matplotlib inline",
    "write_computation_times": False,
    "reset_modules": ("matplotlib", "gallery_figures.strict_warnings"),
    "reset_modules_order": "both",
}

LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
FENCED = re.compile(r"^(```.*?^```)$", flags=re.MULTILINE | re.DOTALL)


def site_link(target, source, page):
    """Return where a link of a file leads on the site, seen from the page that is made from the file."""
    found = (source.parent / target).resolve()
    examples = DOCS / "examples"
    if found == examples:
        found = DOCS / "auto_examples" / "index.rst"
    elif found.parent == examples:
        found = DOCS / "auto_examples" / found.with_suffix(".rst").name
    return Path(os.path.relpath(COPIES.get(found, found), page.parent)).as_posix()


def with_site_links(text, source, page):
    """Return the text with its links (not those in blocks of code) as the site needs them."""

    def moved(link):
        return f"]({site_link(link[1], source, page)}{link[2] or ''})"

    pieces = FENCED.split(text)
    return "".join(piece if k % 2 else LINK.sub(moved, piece) for k, piece in enumerate(pieces))


def copy_pages(app, config):
    """Write the pages that come from files outside of docs/; untouched where they are up to date."""
    for source, page in COPIES.items():
        text = with_site_links(source.read_text(encoding="utf-8"), source, page)
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def table_of_contents(chapter):
    """Return a hidden table of contents with the pages of the chapter that there are."""
    lines = []
    for entry in CHAPTERS[chapter]:
        name = entry.partition("<")[2].rstrip(">") or entry
        if name.startswith("auto_examples/") or (DOCS / f"{name}.md").exists():
            lines.append(entry)
    return "\n\n" + "\n".join(["```{toctree}", ":hidden:", "", *lines, "```"]) + "\n"


def finish_page(app, docname, source):
    """Give a page its links and its table of contents."""
    page = DOCS / f"{docname}.md"
    if not page.exists():
        return
    if page not in COPIES.values():
        source[0] = with_site_links(source[0], page, page)
    if docname in CHAPTERS:
        title, _, rest = source[0].partition("\n")
        source[0] = title + table_of_contents(docname) + rest


def skip_foreign(app, what, name, obj, skip, options):
    """Leave out what scikit-learn adds to every estimator."""
    return skip or bool(re.fullmatch(r"set_\w+_request|get_metadata_routing|set_output", name))


def setup(app):
    app.connect("config-inited", copy_pages)
    app.connect("source-read", finish_page)
    app.connect("autodoc-skip-member", skip_foreign)
