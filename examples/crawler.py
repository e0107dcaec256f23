#!/usr/bin/env python3
"""Follow the links of one host, and print the status of each page: async_client.py inside a program.

python3 examples/crawler.py http://127.0.0.1:8000/
"""

import asyncio
import contextlib
import pathlib
import re
import signal
import sys
from urllib import parse, robotparser

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from async_client import exchange, explain, output_errors, printable

# A link, or the target of a redirect (RFC 9110 section 15.4)
LINK = re.compile(r"""(?:\nLocation:\s*|<a\s[^<>]*?href\s*=\s*["']?)([^\s"'<>]+)""", re.IGNORECASE)
CONCURRENCY, MAX_DEPTH, MAX_PAGES = 4, 5, 500


async def fetch(url: str) -> tuple[str, str]:
    """Return (status, whole response) of a page. With HTTP/1.0, the server closes the connection after the page."""
    try:
        host, path = parse.urlsplit(url), parse.quote([*url.split("/", 3), ""][3], safe="/?&=%+:@,;~")
        request = f"GET /{path} HTTP/1.0\r\nHost: {host.netloc}\r\nUser-Agent: crawler\r\n\r\n"
        reply = await exchange(host.hostname or "", host.port or 80, request.encode(), half_close=False)
    except (OSError, ValueError) as error:
        return explain(error), ""
    return reply[9:12].decode("utf-8", "replace"), reply.decode("utf-8", "replace")


async def crawl(start: str) -> bool:
    """Visit the pages, level by level. Return whether one of them failed."""
    site = "/".join(start.split("/", 3)[:3]) + "/"
    status, rules = await fetch(f"{site}robots.txt")
    robots, slots = robotparser.RobotFileParser(), asyncio.Semaphore(CONCURRENCY)
    robots.parse(rules.partition("\r\n\r\n")[2].splitlines() if status == "200" else [])
    visited, links = dict[str, str](), dict[str, None]()  # the status of each URL, and all URLs

    async def visit(url: str) -> None:
        async with slots:
            visited[url], page = await fetch(url)
        with output_errors():
            print(printable(f"{visited[url]} {url}"), flush=True)
        for link in LINK.findall(page):
            with contextlib.suppress(ValueError):  # An invalid link does not end the crawl.
                links[parse.urldefrag(parse.urljoin(url, link)).url] = None

    await visit(start)
    for _ in range(MAX_DEPTH):
        new = [url for url in links if url.startswith(site) and url not in visited and robots.can_fetch("crawler", url)]
        await asyncio.gather(*map(visit, new[: MAX_PAGES - len(visited)]))
    return any(status[:1] not in ("2", "3") for status in visited.values())


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(asyncio.run(crawl(sys.argv[-1])) if "http://" in sys.argv[-1] else "usage: crawler.py http://HOST/")
