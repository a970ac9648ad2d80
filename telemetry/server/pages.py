"""The web pages: HTML shells, our ES modules and style sheets, and Plotly from its installed package.

The pages are shells: everything that a task's author wrote (names, console lines, parameters) reaches
the browser through the JSON API and is written there as text, never as markup.

Static files are read once, when the routes are added. Templates link to them below a prefix that is a
digest of them all, so a browser may keep them for a year and never mixes two releases; relative imports
between the modules stay below the same prefix.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import hdrs, web

__all__ = ["add_routes"]

WEB = Path(__file__).parent / "web"

# Pages and modules may change with the next release: keep them, but ask each time (the answer is a 304).
REVALIDATE = "no-cache"
FOR_A_YEAR = "public, max-age=31536000, immutable"
# Plotly's address does not carry its version, so it is asked for again after a day; with its ETag that
# costs a header, not 5 MB.
FOR_A_DAY = "public, max-age=86400"

# Below this a gzip header and the time to pack are not worth it.
MIN_GZIP_BYTES = 1024

_TASK_ID = re.compile(r"[0-9a-f]{32}")
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'{style}; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CSP.format(style=""),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
# Plotly sets style attributes on the text of its charts, and MapLibre inside it adds a style sheet;
# neither knows nonces. Only the pages with charts allow them, and no page allows inline scripts.
_CHART_HEADERS = {**_SECURITY_HEADERS, "Content-Security-Policy": _CSP.format(style=" 'unsafe-inline'")}

# Registries of types differ between machines, and a module of the wrong type does not run at all.
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent. `packed` is its gzip form, or empty where that is not worth it."""

    body: bytes
    packed: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, name: str, body: bytes, *, level: int = 9) -> StaticFile:
        """Build from a file's name (for its type) and bytes; the ETag is a digest of the bytes."""
        packed = gzip.compress(body, level, mtime=0) if len(body) >= MIN_GZIP_BYTES else b""
        kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        return cls(body, packed, kind, hashlib.sha256(body).hexdigest()[:32])


class Pages:
    """The handlers and what they share: templates, static files, Plotly's bytes after first use."""

    def __init__(self) -> None:
        self._files = _read_static(WEB / "static")
        self._version = _digest(self._files)
        self._vendor: StaticFile | None = None
        self._vendor_lock = asyncio.Lock()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(WEB / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals["static"] = f"/static/{self._version}"

    async def tasks(self, request: web.Request) -> web.Response:
        """`GET /`: the task table. Its query is read by the browser, not here."""
        return self._page("tasks.html", headers=_SECURITY_HEADERS)

    async def task(self, request: web.Request) -> web.Response:
        """`GET /tasks/{id}`: a task's page; 404 for what cannot be a task id."""
        task_id = request.match_info["task_id"]
        if not _TASK_ID.fullmatch(task_id):
            return self._page("missing.html", status=404, headers=_SECURITY_HEADERS, task_id=task_id)
        return self._page("task.html", headers=_CHART_HEADERS, task_id=task_id)

    async def compare(self, request: web.Request) -> web.Response:
        """`GET /compare?tasks=ID,ID`: tasks side by side. Which ones is read by the browser, not here."""
        return self._page("compare.html", headers=_CHART_HEADERS)

    async def static(self, request: web.Request) -> web.Response:
        """`GET /static/{version}/{name}` and `GET /static/{name}`: our own files.

        An open page of the release before asks for its old version: it gets today's file, not to be kept.
        """
        name = request.match_info["name"]
        head, _, tail = name.partition("/")
        if head == self._version and tail in self._files:
            return _send(request, self._files[tail], FOR_A_YEAR)
        file = self._files.get(name) or self._files.get(tail)
        if file is None:
            raise web.HTTPNotFound(text="no such file\n", headers=_SECURITY_HEADERS)
        return _send(request, file, REVALIDATE)

    async def favicon(self, request: web.Request) -> web.Response:
        """`GET /favicon.ico`: what browsers ask for outside our pages, for example beside raw JSON."""
        return _send(request, self._files["favicon.svg"], FOR_A_DAY)

    async def plotly(self, request: web.Request) -> web.Response:
        """`GET /static/vendor/plotly.min.js`: from the installed plotly package.

        Read and packed once, in a thread: no other request should wait for 5 MB.
        """
        async with self._vendor_lock:
            if self._vendor is None:
                self._vendor = await asyncio.to_thread(_read_plotly)
        return _send(request, self._vendor, FOR_A_DAY)

    def _page(self, template: str, *, headers: Mapping[str, str], status: int = 200, **values: Any) -> web.Response:
        html = self._templates.get_template(template).render(values)
        response = web.Response(text=html, status=status, content_type="text/html", headers=headers)
        response.headers[hdrs.CACHE_CONTROL] = REVALIDATE
        response.enable_compression()
        return response


def add_routes(app: web.Application) -> None:
    """Add the pages and static files to `app`: `/`, `/tasks/{id}`, `/compare`, `/static/...`, `/favicon.ico`."""
    pages = Pages()
    app.router.add_get("/", pages.tasks)
    app.router.add_get("/tasks/{task_id}", pages.task)
    app.router.add_get("/compare", pages.compare)
    app.router.add_get("/static/vendor/plotly.min.js", pages.plotly)
    app.router.add_get("/static/{name:.+}", pages.static)
    app.router.add_get("/favicon.ico", pages.favicon)


def _read_static(root: Path) -> dict[str, StaticFile]:
    """Read every file below `root`, by its relative POSIX path; what is not in this table is not served."""
    return {
        path.relative_to(root).as_posix(): StaticFile.of(path.name, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _digest(files: Mapping[str, StaticFile]) -> str:
    """Return 12 hexadecimal digits that change when any file or name changes."""
    names = "".join(f"{name}\0{file.etag}\0" for name, file in files.items())
    return hashlib.sha256(names.encode()).hexdigest()[:12]


def _read_plotly() -> StaticFile:
    # Imported here: the package is only needed for its file, and importing it costs every start.
    from importlib.resources import files

    body = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    # Level 1: twice as fast as 6 and a sixth larger; the first chart of a fresh server waits for it.
    return StaticFile.of("plotly.min.js", body, level=1)


def _send(request: web.Request, file: StaticFile, cache: str) -> web.Response:
    """Answer with the file, packed if the browser takes it, or 304 if it has these bytes already."""
    response = web.Response(headers=_SECURITY_HEADERS)
    response.headers[hdrs.CACHE_CONTROL] = cache
    response.headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
    response.etag = file.etag
    if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
        response.set_status(304)
        return response
    if file.packed and "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
        response.headers[hdrs.CONTENT_ENCODING] = "gzip"
        response.body = file.packed
    else:
        response.body = file.body
    response.content_type = file.content_type
    if file.content_type.startswith("text/"):
        response.charset = "utf-8"
    return response
