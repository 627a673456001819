"""The documentation site: every public name is in it, and it is whole without a network."""

from __future__ import annotations

import html.parser
import inspect
import re
import warnings
import zlib
from pathlib import Path

import lanceloader as ll
import lanceloader.cache
import lanceloader.compat.lance_torch
import lanceloader.errors
import lanceloader.permutation
import lanceloader.plots
import lanceloader.ray
import lanceloader.streaming
import lanceloader.torch
import lanceloader.transformers
import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
MODULES = [
    ll,
    ll.torch,
    ll.transformers,
    ll.streaming,
    ll.permutation,
    ll.errors,
    ll.plots,
    ll.ray,
    ll.cache,
    ll.compat.lance_torch,
]
NAMES = [
    f"{module.__name__}.{name}"
    for module in MODULES
    for name in module.__all__
    # Names with an underscore are there for programs that use LanceDB's private ones.
    if not name.startswith("_")
]
SYNOPSIS = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def value_of(name):
    module, _, attribute = name.rpartition(".")
    (found,) = (m for m in MODULES if m.__name__ == module)
    return getattr(found, attribute)


def is_ours(value):
    """Whether a public name is not just another library's, there to be replaced."""
    module = value.__name__ if inspect.ismodule(value) else None
    return (module or getattr(value, "__module__", "lanceloader")).startswith(
        "lanceloader"
    )


def described():
    """The names that the pages of the reference describe."""
    texts = [page.read_text() for page in REFERENCE.glob("*.md")]
    names = {name for text in texts for name in SYNOPSIS.findall(text)}
    # A module is described with all of its names.
    for module in (ll.errors, ll.plots, ll.cache):
        assert module.__name__ in names
        names |= {f"{module.__name__}.{name}" for name in module.__all__}
    return names


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_in_the_reference(name):
    names = described()
    value = value_of(name)
    if not is_ours(value) or name.endswith(".logger"):
        _, _, attribute = name.rpartition(".")
        assert f"`{attribute}`" in (REFERENCE / "streaming.md").read_text()
        return
    same = {other for other in NAMES if value_of(other) is value}
    assert name in names or same & names


@pytest.mark.parametrize("name", sorted(described()))
def test_what_is_described_exists_and_has_an_example(name):
    """In its docstring, or on its page."""
    value = ll
    for part in name.removeprefix("lanceloader.").split("."):
        value = getattr(value, part)
    if inspect.ismodule(value) or not callable(value):
        return
    assert inspect.getdoc(value)
    is_error = inspect.isclass(value) and issubclass(value, Exception)
    if is_error or "Example:" in inspect.getdoc(value):
        return
    code = "\n".join(
        block
        for page in REFERENCE.glob("*.md")
        for block in re.findall(
            r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S
        )
    )
    _, _, attribute = name.rpartition(".")
    assert re.search(rf"\b{attribute}\b", code), name


def test_every_page_of_the_guide_is_linked():
    linked = (ROOT / "docs" / "guide.md").read_text()
    for page in (ROOT / "docs" / "how-to").glob("*.md"):
        assert f"(how-to/{page.name})" in linked
    start = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs" / "coming-from").glob("*.md"):
        assert f"(coming-from/{page.name})" in start


class Assets(html.parser.HTMLParser):
    """What a browser loads with a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.addresses.append(attributes.get("src") or "")
        if tag == "link" and attributes.get("rel") != "canonical":
            self.addresses.append(attributes.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: links that lead nowhere fail."""
    pytest.importorskip("mkdocs", reason="needs the extra `docs`")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        # Of mkdocs' plugins and of what they import.
        warnings.simplefilter("ignore")
        config = load_config(
            str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True
        )
        build(config)
    return folder


def methods_of(cls):
    """The public methods and properties of a class that are not for other modules only."""
    internal = re.findall(r'"!\^(\w+)\$"', (ROOT / "mkdocs.yml").read_text())
    for name, value in inspect.getmembers_static(cls):
        if name.startswith("_") or name in internal:
            continue
        function = getattr(value, "__func__", getattr(value, "fget", value))
        module = getattr(function, "__module__", None) or ""
        if module.startswith("lanceloader"):
            yield name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_site_has_every_name_and_method(site):
    head, _, body = (site / "objects.inv").read_bytes().partition(b"zlib.\n")
    assert b"Sphinx inventory" in head
    names = {line.split()[0] for line in zlib.decompress(body).decode().splitlines()}
    # The page of errors is the module.
    assert described() - {"lanceloader.errors"} <= names
    for cls in (
        ll.Permutation,
        ll.Loader,
        ll.Mixture,
        ll.Stats,
        ll.PermutationBuilder,
        ll.torch.DataLoader,
        ll.streaming.StreamingDataset,
        ll.compat.lance_torch.LanceDataset,
    ):
        (public,) = {name for name in NAMES if value_of(name) is cls} & described()
        wanted = {f"{public}.{method}" for method in methods_of(cls)}
        assert wanted
        assert not wanted - names


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_site_loads_nothing_from_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text())
        assert assets.addresses
        for address in assets.addresses:
            assert not re.match(r"(\w+:)?//", address), (page, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text()), style


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_links_out_of_the_folder_lead_to_pages_of_the_site(site):
    text = (site / "performance.html").read_text()
    assert 'href="project/benches.html"' in text
    assert (site / "project" / "results" / "curves.png").exists()
    assert "```" not in (site / "project" / "examples.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_notebooks_are_pages_that_offer_them_for_download(site):
    paths = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
    assert len(paths) == 6
    for path in paths:
        folder = site / "tutorials"
        text = (folder / f"{path.stem}.html").read_text()
        assert (folder / path.name).read_bytes() == path.read_bytes()
        links = re.findall(r'href="([\w-]+\.ipynb)"', text)
        assert links == [path.name]
        pictures = re.findall(r'<img alt="([^"]+)"[^>]* src="([^":]+)"', text)
        assert len(pictures) >= 2
        for alt, name in pictures:
            assert alt
            assert (folder / name).read_bytes().startswith(b"\x89PNG")
    text = (site / "index.html").read_text()
    assert 'href="tutorials/tabular.html"' in text
