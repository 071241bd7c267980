"""The files that the page consists of, and the code that it links to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastapi.responses import Response
from starlette.exceptions import HTTPException

PACKAGE = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "page"
TEXT = "; charset=utf-8"
TYPES = {
    ".html": f"text/html{TEXT}",
    ".css": f"text/css{TEXT}",
    ".js": f"text/javascript{TEXT}",
    ".svg": f"image/svg+xml{TEXT}",
    ".txt": f"text/plain{TEXT}",
    ".woff2": "font/woff2",
}


def page_file(name: str) -> Response:
    """A file of the page. Only names of files in the folder are accepted, so no path leads out of it."""
    path = _page_files().get(name)
    if path is None:
        raise HTTPException(404, "there is no such page")
    return Response(path.read_bytes(), media_type=TYPES[path.suffix])


def code_file(name: str) -> Response:
    """A Python file of this package, as text. Only names of files in the package are accepted."""
    path = _code_files().get(name)
    if path is None:
        raise HTTPException(404, "there is no such file")
    return Response(path.read_bytes(), media_type=TYPES[".txt"])


@cache
def _page_files() -> dict[str, Path]:
    return {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.suffix in TYPES}


@cache
def _code_files() -> dict[str, Path]:
    return {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
