"""The pages over HTTP: headers, caching, escaping, and that every file they name is there."""

from __future__ import annotations

import gzip
import http.client
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pages_support import NASTY, Writer

from telemetry.server import pages
from telemetry.server.app import BackgroundServer
from telemetry.server.config import ServerConfig

STATIC = Path(pages.__file__).parent / "web" / "static"
TASK = "1" * 32
IMPORT = re.compile(r"""^import .*?["'](\.\.?/[\w/-]+)\.js["'];$""", re.MULTILINE)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with BackgroundServer(ServerConfig(tmp_path_factory.mktemp("store"), port=0)) as server:
        Writer(server.url, TASK).task(name=NASTY, project=NASTY).flush()
        yield server.url


def get(url: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Fetch a path exactly as it is written (urllib would tidy it up)."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def directives(response: http.client.HTTPResponse) -> dict[str, list[str]]:
    policy = response.headers["Content-Security-Policy"]
    return {words[0]: words[1:] for words in (part.split() for part in policy.split(";"))}


@pytest.mark.parametrize("path", ["/", f"/tasks/{TASK}", "/compare", "/tasks/nonsense"])
def test_every_page_has_a_strict_policy(url: str, path: str) -> None:
    response, body = get(url, path)

    policy = directives(response)
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["connect-src"] == ["'self'"]
    for name in ("base-uri", "frame-ancestors"):
        assert policy[name] == ["'none'"]
    assert policy["form-action"] == ["'self'"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache"
    # No script in the text, no handler in an attribute, nothing from elsewhere.
    assert not re.search(rb"<script(?![^>]* src=\"/static/)", body)
    assert not re.search(rb"\son\w+\s*=", body)
    assert b"://" not in body.replace(b"http://www.w3.org", b"")


def test_only_the_page_with_charts_allows_inline_styles(url: str) -> None:
    table, _ = get(url, "/")
    task, _ = get(url, f"/tasks/{TASK}")

    assert directives(table)["style-src"] == ["'self'"]
    assert directives(task)["style-src"] == ["'self'", "'unsafe-inline'"]


def test_what_cannot_be_a_task_is_not_found_and_escaped(url: str) -> None:
    response, body = get(url, "/tasks/%3Cscript%3Ealert(1)%3C%2Fscript%3E")

    assert response.status == 404
    assert b"&lt;script&gt;alert(1)&lt;/script&gt;" in body
    assert b"<script>alert" not in body


def test_a_tasks_name_is_not_in_the_html(url: str) -> None:
    """It reaches the browser as JSON only, and a browser does not take JSON for a page."""
    for path in ("/", f"/tasks/{TASK}"):
        assert b"alert(1)" not in get(url, path)[1]

    response, body = get(url, f"/api/v1/tasks/{TASK}")
    assert NASTY.encode() in body
    assert response.headers["Content-Type"].startswith("application/json")


def test_linked_files_are_kept_for_a_year_and_others_asked_again(url: str) -> None:
    _, page = get(url, "/")
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.decode())
    assert links

    for link in links:
        response, body = get(url, link)
        assert response.status == 200, link
        assert "immutable" in response.headers["Cache-Control"]
        name = link.split("/", 3)[3]
        assert body == (STATIC / name).read_bytes()
        plain, _ = get(url, f"/static/{name}")
        old, _ = get(url, f"/static/000000000000/{name}")
        assert plain.headers["Cache-Control"] == old.headers["Cache-Control"] == "no-cache"


def test_plotly_comes_from_the_installed_package_and_is_revalidated(url: str) -> None:
    path = "/static/vendor/plotly.min.js"
    response, body = get(url, path, Accept_Encoding="gzip")
    again, nothing = get(url, path, If_None_Match=response.headers["ETag"])
    plain, whole = get(url, path)

    assert response.headers["Content-Type"].startswith("text/javascript")
    assert response.headers["Content-Encoding"] == "gzip"
    assert int(response.headers["Cache-Control"].rpartition("=")[2]) >= 86_400
    assert (again.status, nothing) == (304, b"")
    assert plain.headers["Content-Encoding"] is None
    assert gzip.decompress(body) == whole
    assert b"plotly.js v" in whole[:200]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../pages.py",
        "/static/%2e%2e/pages.py",
        "/static/js/../../pages.py",
        "/static//etc/passwd",
        "/static/js",
    ],
)
def test_nothing_but_the_static_files_is_served(url: str, path: str) -> None:
    response, _ = get(url, path)

    assert response.status == 404


def imports_of(name: str) -> set[str]:
    """Return all modules that a module needs, itself included: "common/dom"."""
    found, waiting = set[str](), [name]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            text = (STATIC / "js" / f"{module}.js").read_text()
            waiting += [posixpath.normpath(f"{posixpath.dirname(module)}/{path}") for path in IMPORT.findall(text)]
            assert text.count("\nimport ") + text.startswith("import ") == len(IMPORT.findall(text)), module
    return found


@pytest.mark.parametrize(
    ("path", "entry"),
    [("/", "tasks/tasks-page"), (f"/tasks/{TASK}", "task/task-page"), ("/compare", "compare/compare-page")],
)
def test_a_page_preloads_exactly_the_modules_it_needs(url: str, path: str, entry: str) -> None:
    """One forgotten would be found only after the others were read: a round trip more for each level."""
    _, page = get(url, path)

    preloaded = set(re.findall(r'rel="modulepreload" href="/static/\w+/js/([\w/-]+)\.js"', page.decode()))

    assert preloaded | {entry} == imports_of(entry)


def test_modules_stay_small_and_write_only_text() -> None:
    for path in (STATIC / "js").rglob("*.js"):
        text = path.read_text()
        assert len(text.splitlines()) < 400, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path.name
        )
