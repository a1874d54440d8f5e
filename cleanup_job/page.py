"""The report as one self-contained HTML file.

Invariants:
- Nothing is loaded and nothing runs: there is no script, no link to elsewhere, no image, and the
  page's own policy (CSP) forbids them all. Style is the one that stands in the file.
- What others have named is text, see `markup`.
- Its size has a limit, however large the run: tables and drawings show so much, and say how much
  more there is.

Not promised: that an old report has everything. Sections that it has nothing for are left out.
"""

from __future__ import annotations

import re
from importlib.resources import files as package_files

from cleanup_job import __version__, figures, sections
from cleanup_job.headline import badges, what_happened, what_next
from cleanup_job.markup import Html, element, foreign, listed, text, together
from cleanup_job.report import Report

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_MOST_ADDRESSES = 4

_PRODUCTS = {"valkey": "Valkey", "redis": "Redis"}


def to_html(report: Report) -> bytes:
    """The page, in UTF-8."""
    found = [
        sections.problems(report),
        sections.coordinators(report),
        sections.keys_by_family(report),
        sections.samples(report),
        sections.over_time(report),
        sections.costs(report),
        sections.servers(report),
        sections.files(report),
        sections.settings(report),
    ]
    body = element(
        "body",
        _patterns(),
        element("header", *_header(report)),
        element("main", _tiles(report), *found),
        element("footer", *_footer(report)),
    )
    page = element("html", _head(report), body, lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def _head(report: Report) -> Html:
    style = package_files("cleanup_job").joinpath("page.css").read_text("utf-8")
    title = f"{report.status}: cleanup-job {'dry run' if report.dry_run else 'run'} {report.run_id}"
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("meta", name_="referrer", content="no-referrer"),
        element("title", title),
        element("style", Html(style)),
    )


def _patterns() -> Html:
    """Hatchings, which tell apart what colours alone should not."""
    return element(
        "svg",
        *(
            element(
                "pattern",
                element("rect", width=6, height=6, class_="ground"),
                element("rect", width=2.5, height=6, class_="stripe"),
                id=f"hatch-{name}",
                class_=f"hatch {name}",
                width=6,
                height=6,
                patternUnits="userSpaceOnUse",
                patternTransform="rotate(45)",
            )
            for name in ("spared", "unknown", "due", "paused")
        ),
        class_="patterns",
        width=0,
        height=0,
        aria_hidden="true",
    )


def _header(report: Report) -> list[Html]:
    return [
        element(
            "p",
            *(
                element("span", badge.words, class_=f"badge {badge.tone}")
                for badge in badges(report)
            ),
            class_="badges",
        ),
        element("h1", what_happened(report)),
        element("p", what_next(report), class_="next"),
        element("dl", *(_fact(name, value) for name, value in _facts(report)), class_="facts"),
    ]


def _fact(name: str, value: Html) -> Html:
    return element("div", element("dt", name), element("dd", value))


def _facts(report: Report) -> list[tuple[str, Html]]:
    target = report.target
    product = _PRODUCTS.get(target.product)
    more = len(target.nodes) - _MOST_ADDRESSES
    where = [foreign(node) for node in target.nodes[:_MOST_ADDRESSES]]
    if more > 0:
        where.append(together("and ", figures.count(more), " more"))
    return [
        (
            "target",
            together(
                text(product) if product else foreign(target.product),
                " ",
                foreign(target.version),
                ", ",
                foreign(target.mode),
                f", database {target.db}",
            ),
        ),
        ("at", listed(where)),
        ("started", foreign(_moment(report.started_at))),
        ("took", figures.seconds(report.duration_s)),
        ("run", foreign(report.run_id)),
    ]


def _moment(started_at: str) -> str:
    """A time in UTC as people write it; anything else as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z", started_at, re.ASCII)
    return f"{found[1]} {found[2]} UTC" if found else started_at


def _tiles(report: Report) -> Html:
    """The numbers that most readers came for."""
    found, keys = report.coordinators, report.keys
    unclear = found.unreadable + found.future
    gone = found.purged + found.orphans_purged
    speed = figures.rate(gone, report.duration_s, "coordinators") if gone else None
    if report.dry_run or report.status == "refused":
        last = ("keys would go", figures.count(keys.planned), text("nothing was deleted"))
    else:
        last = ("keys deleted", figures.count(keys.deleted), _outcomes(report))
    tiles = [
        ("live", figures.count(found.live), text("lost nothing" if found.live else "none")),
        ("stale", figures.count(found.stale), _became(report)),
        ("orphaned", figures.count(found.orphaned), _orphans(report)),
        (
            "not judged",
            figures.count(unclear),
            text("unreadable or in the future; kept" if unclear else "none"),
        ),
        last,
        ("took", figures.seconds(report.duration_s), speed),
    ]
    return element(
        "section",
        element("h2", "In numbers", id="numbers", class_="hidden"),
        element("dl", *(_tile(*tile) for tile in tiles), class_="tiles"),
        aria_labelledby="numbers",
    )


def _tile(name: str, number: Html, note: Html | None) -> Html:
    return element(
        "div",
        element("dt", name),
        element("dd", number, class_="number"),
        element("dd", note, class_="quiet") if note else None,
    )


def _became(report: Report) -> Html:
    found = report.coordinators
    if report.dry_run or report.status == "refused":
        return text("all kept")
    if not found.stale:
        return text("none")
    parts = [together(figures.count(found.purged), " purged")]
    if found.revived:
        parts.append(together(figures.count(found.revived), " came back and were kept"))
    return listed(parts)


def _orphans(report: Report) -> Html:
    purged = report.coordinators.orphans_purged
    if purged:
        return together(figures.count(purged), " purged")
    return text("only reported" if report.coordinators.orphaned else "none")


def _outcomes(report: Report) -> Html:
    keys = report.keys
    parts = [together("of ", figures.count(keys.planned), " planned")]
    for name in ("gone", "spared", "failed", "unknown"):
        number = getattr(keys, name)
        if number:
            parts.append(together(figures.count(number), f" {name}"))
    return listed(parts)


def _footer(report: Report) -> list[Html]:
    return [
        element(
            "p",
            "cleanup-job ",
            __version__,
            f", report format {report.schema_version}. Run ",
            foreign(report.run_id),
            ".",
        ),
    ]
