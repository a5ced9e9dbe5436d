"""The built site, read as a visitor's browser would: every page there, every link good, nothing from outside."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import shockproof

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The parts of a page that matter here."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        self.classes.update(found.get("class", "").split())
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") not in ("canonical", "next", "prev", "alternate"):
            self.loads.append(found.get("href", ""))
        self.loads += [found[name] for name in ("src", "srcset", "data", "poster") if found.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site outside of the checkout, so that nothing there changes under anybody's feet."""
    folder = tmp_path_factory.mktemp("a site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "src").symlink_to(ROOT / "src")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file.resolve(): Page(file) for file in site.rglob("*.html") if file.name != "404.html"}


def navigation() -> Iterator[str]:
    """Every page that mkdocs.yml names; its nav is plain enough to be read without a YAML parser."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    return (match[0] for match in re.finditer(r"[\w./-]+\.md(?=\s*$)", text, re.MULTILINE))


def test_navigation_and_pages_agree() -> None:
    """Zensical passes over an entry without a page, and over a page that nobody can reach."""
    docs = ROOT / "docs"
    assert sorted(navigation()) == sorted(str(file.relative_to(docs)) for file in docs.rglob("*.md"))


def test_the_first_page_leads_to_every_other() -> None:
    """Whoever comes from the repository has no navigation beside the page."""
    first = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert set(navigation()) - set(re.findall(r"\]\(([\w./-]+\.md)", first)) == {"index.md"}


def test_every_link_inside_the_site_resolves(pages: dict[Path, Page]) -> None:
    """Pages and the places in them that links point to exist."""
    assert pages
    dead = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else set[str]()
            if not target.exists() or (
                parts.fragment and unquote(parts.fragment) not in anchors | {"__skip"}
            ):
                dead.append(f"{file.name} -> {link}")
    assert dead == []


def test_no_page_loads_anything_from_outside(site: Path, pages: dict[Path, Page]) -> None:
    """No fonts, scripts, styles or pictures of somebody else: the site works without a network, and tells nobody."""
    outside = [
        f"{page.file.name}: {url}" for page in pages.values() for url in page.loads if urlsplit(url).netloc
    ]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", sheet.read_text(encoding="utf-8"))
        outside += [f"{sheet.name}: {url}" for url in urls if urlsplit(url).netloc]
    assert outside == []
    # The theme's script fetches these from elsewhere as soon as a page uses them.
    assert not {"mermaid", "pyodide", "glightbox"} & {
        name for page in pages.values() for name in page.classes
    }


def test_every_public_name_has_its_entry(pages: dict[Path, Page]) -> None:
    """What can be imported from shockproof can be looked up."""
    anchors = {anchor for page in pages.values() for anchor in page.anchors}
    assert [name for name in shockproof.__all__ if f"shockproof.{name}" not in anchors] == []
