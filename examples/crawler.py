#!/usr/bin/env python3
"""Follow the links of one host, and print the status of each page: async_client.py inside a program.

python3 examples/crawler.py http://127.0.0.1:8000/
"""

import asyncio
import pathlib
import re
import signal
import sys
import urllib.parse
import urllib.robotparser

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))  # The scripts are in the parent folder.
from async_client import exchange, explain, printable

LINK = re.compile(r"""<a\s[^<>]*?href\s*=\s*["']?([^\s"'<>]+)""", re.IGNORECASE)
CONCURRENCY, MAX_DEPTH, MAX_PAGES = 4, 5, 500


async def fetch(url: str) -> tuple[str, str]:
    """Return (status, body) of a page. With HTTP/1.0, the server closes the connection after the page."""
    host, path = urllib.parse.urlsplit(url), urllib.parse.quote([*url.split("/", 3), ""][3], safe="/?&=%+:@,;~")
    request = f"GET /{path} HTTP/1.0\r\nHost: {host.netloc}\r\nUser-Agent: crawler\r\n\r\n"
    try:
        reply = await exchange(host.hostname or "", host.port or 80, request.encode(), half_close=False)
    except (OSError, ValueError) as error:
        return explain(error), ""
    text = reply.decode("utf-8", "replace")
    return text[9:12], text.partition("\r\n\r\n")[2]


async def crawl(start: str) -> bool:
    site = "/".join(start.split("/", 3)[:3]) + "/"
    status, rules = await fetch(f"{site}robots.txt")
    robots, slots = urllib.robotparser.RobotFileParser(), asyncio.Semaphore(CONCURRENCY)
    robots.parse(rules.splitlines() if status == "200" else [])

    async def visit(url: str) -> tuple[bool, list[str]]:
        async with slots:
            status, body = await fetch(url)
        print(printable(f"{status} {url}"), flush=True)
        return status[:1] not in ("2", "3"), [urllib.parse.urljoin(url, link) for link in LINK.findall(body)]

    seen, level, failed = {start}, [start], False
    for _ in range(MAX_DEPTH + 1):
        visits = await asyncio.gather(*map(visit, level))
        failed = failed or any(page_failed for page_failed, _ in visits)
        links = dict.fromkeys(urllib.parse.urldefrag(url).url for _, urls in visits for url in urls)
        new = [url for url in links if url.startswith(site) and url not in seen]
        level = [url for url in new if robots.can_fetch("crawler", url)][: MAX_PAGES - len(seen)]
        seen.update(level)
    return failed


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    is_url = "http://" in sys.argv[-1]
    sys.exit(asyncio.run(crawl(sys.argv[-1])) if is_url else "usage: crawler.py http://HOST/")
