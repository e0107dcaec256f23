#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["requests>=2.31"]
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Show the weather of any city, now and with --forecast on the next days: from Open-Meteo, which needs no key, or from
OpenWeatherMap when there is one. It does not guess where you are, and takes no other place for the one you name.

examples:
  python weather.py London                     the weather now, without a key
  python weather.py 'Paris, FR' Tokyo Lima     several cities at once
  python weather.py Oslo --forecast 7          a week, with a curve
  OPENWEATHER_API_KEY=... python weather.py Prague --lang cs --json
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import logging
import os
import re
import shutil
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

__all__ = [
    "BadKey", "CityNotFound", "Forecast", "NoNetwork", "OpenMeteo", "OpenWeatherMap", "Place", "Provider",
    "ProviderFailed", "RateLimited", "TooSlow", "Weather", "WeatherError", "get_weather",
]  # fmt: skip
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
KEY_VARIABLES = ("OPENWEATHER_API_KEY", "OPENWEATHERMAP_API_KEY", "OWM_API_KEY")
CACHE_S = 600  # neither provider has anything new earlier, and both ask not to be asked
CONNECT_S = 5.0
INFINITE_S = float("inf")
BACKOFF_S = (0.3, 0.6, INFINITE_S)  # before the first retry and the second, which is the last
PATIENCE_S = 5.0  # the longest Retry-After that is waited for
READ_BYTES, MAX_READS = 65_536, 16  # of an answer: 16 days by the hour are 20,000 bytes
AT_ONCE = 16  # cities: enough to hide the waiting, few enough for the providers' limits
DAY_S = 86_400.0
LIMITS_S = {"minut": 60.0, "hour": 3600.0, "daily": DAY_S}  # words in Open-Meteo's reasons, and when they are over
KELVIN = 273.15
COMPASS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")
NEAR_NAMES = 4
BLOCKS, CURVE_ROWS, CURVE_COLUMNS = " ▁▂▃▄▅▆▇█", 4, 96
UNITS = {
    "metric": {"temperature": "°C", "wind_speed": "m/s"},
    "imperial": {"temperature": "°F", "wind_speed": "mph"},
    "standard": {"temperature": "K", "wind_speed": "m/s"},
}
# Our names for what they send, and where it is in Open-Meteo's answers and OpenWeatherMap's
OPEN_METEO_NOW = {
    "description": "weather_code", "temperature": "temperature_2m", "feels_like": "apparent_temperature",
    "humidity_percent": "relative_humidity_2m", "wind_speed": "wind_speed_10m", "wind_gust": "wind_gusts_10m",
    "wind_from_deg": "wind_direction_10m", "pressure_hpa": "pressure_msl",
}  # fmt: skip
OPEN_METEO_DAY = {
    "description": "weather_code", "low": "temperature_2m_min", "high": "temperature_2m_max",
    "rain_chance_percent": "precipitation_probability_max", "precipitation_mm": "precipitation_sum",
}  # fmt: skip
OPENWEATHERMAP_NOW = {
    "description": "weather", "temperature": "main.temp", "feels_like": "main.feels_like", "observed_at": "dt",
    "humidity_percent": "main.humidity", "wind_speed": "wind.speed", "wind_gust": "wind.gust", "sunset": "sys.sunset",
    "wind_from_deg": "wind.deg", "pressure_hpa": "main.pressure", "sunrise": "sys.sunrise",
}  # fmt: skip
OPENWEATHERMAP_STEP = {
    "date": "dt", "observed_at": "dt", "description": "weather", "temperature": "main.temp", "low": "main.temp_min",
    "high": "main.temp_max", "chance": "pop", "rain": "rain.3h", "snow": "snow.3h",
}  # fmt: skip
# WMO table 4677, as far as Open-Meteo uses it, in its words
WMO = {
    0: "clear sky", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog", 48: "depositing rime fog",
    51: "light drizzle", 53: "moderate drizzle", 55: "dense drizzle", 56: "light freezing drizzle",
    57: "dense freezing drizzle", 61: "slight rain", 63: "moderate rain", 65: "heavy rain", 66: "light freezing rain",
    67: "heavy freezing rain", 71: "slight snow fall", 73: "moderate snow fall", 75: "heavy snow fall",
    77: "snow grains", 80: "slight rain showers", 81: "moderate rain showers", 82: "violent rain showers",
    85: "slight snow showers", 86: "heavy snow showers", 95: "thunderstorm", 96: "thunderstorm with slight hail",
    99: "thunderstorm with heavy hail",
}  # fmt: skip
# Where OpenWeatherMap's codes are not ISO's (https://openweathermap.org/current#multi)
LANGUAGES = {"cs": "cz", "ko": "kr", "lv": "la", "nb": "no", "uk": "ua", "zh": "zh_cn", "zh-tw": "zh_tw"}
LANGUAGES |= {"zh-hk": "zh_tw", "pt-br": "pt_br"}
Get = Callable[..., Any]  # get(url, **params): the JSON that a provider answers

NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# Control characters, separators of lines and paragraphs, bidirectional controls, surrogates, the byte order mark.
UNPRINTABLE = re.compile(
    f"[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff{NONCHARACTERS}]+"
)


class WeatherError(Exception):
    """There is no weather; the subclass says why. retry_s: after so many seconds there may be, if not infinite."""

    def __init__(self, message: str, retry_s: float = INFINITE_S) -> None:
        super().__init__(message)
        self.retry_s = retry_s


# fmt: off
class CityNotFound(WeatherError):
    """The geocoder knows no such place; the message has near names, if there are some."""
class BadKey(WeatherError):
    """The key is missing, or not accepted."""
class RateLimited(WeatherError):
    """Too many requests in a minute, an hour or a day."""
class ProviderFailed(WeatherError):
    """The provider is down, or answers something else than weather."""
class NoNetwork(WeatherError):
    """The provider cannot be reached from here."""
class TooSlow(WeatherError):
    """No answer within the time given."""
# fmt: on


def amount(value: float | None, unit: str, digits: int = 0) -> str:
    return "" if value is None else f"{value:z.{digits}f}{unit}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place that a geocoder found; its position in degrees."""

    name: str
    region: str | None
    country: str | None
    country_code: str | None
    latitude: float
    longitude: float

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.name, self.region, self.country)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A day to come, or today."""

    date: date
    description: str | None
    low: float | None
    high: float | None
    rain_chance_percent: float | None
    precipitation_mm: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The weather now. `units` are those of temperatures and wind; what a provider did not send is None.

    others: further places of that name. days: as many as were asked for; curve: their temperatures, by the hour or
    every third. Times are the place's own.
    """

    place: Place
    others: tuple[Place, ...] = ()
    units: Mapping[str, str]
    description: str | None
    temperature: float | None
    feels_like: float | None
    humidity_percent: float | None
    wind_speed: float | None
    wind_gust: float | None
    wind_from_deg: float | None
    pressure_hpa: float | None
    sunrise: datetime | None
    sunset: datetime | None
    observed_at: datetime | None
    days: tuple[Forecast, ...] = ()
    curve: tuple[tuple[datetime, float], ...] = ()

    def __str__(self) -> str:
        known = filter(None, (self.description, amount(self.temperature, self.units["temperature"], 1)))
        return f"The weather in {self.place.name} is {' with a temperature of '.join(known)}"


# Answers: what providers say, in our words and units.


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def dig(data: Any, path: str) -> Any:
    """dig(data, "list.0.dt") is data["list"][0]["dt"], or None where there is no such thing."""
    with contextlib.suppress(LookupError, TypeError):
        for step in path.split("."):
            data = data[int(step) if step.isdigit() else step]
        return data
    return None


def local_time(value: Any, offset_s: Any) -> datetime | None:
    """A place's own time, from ISO 8601 without an offset or from seconds since the epoch."""
    with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
        zone = timezone(timedelta(seconds=offset_s))
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=zone)
        return datetime.fromtimestamp(value, zone) if value and type(value) is int else None
    return None


def convert(field: str, value: Any, offset_s: Any, add: float) -> Any:
    """The value as the field has it. Texts are escaped here, where they come in, and so safe wherever they go."""
    if field in ("observed_at", "sunrise", "sunset", "date"):
        when = local_time(value, offset_s)
        return when.date() if when and field == "date" else when
    if field == "description" and isinstance(value, list):  # OpenWeatherMap has several at a time, or none
        return ", ".join(filter(None, (convert("name", dig(one, field), None, 0) for one in value))) or None
    if field in ("name", "region", "country", "country_code"):
        return printable(value) if isinstance(value, str) else None
    if type(value) not in (int, float) or not abs(value) < 1e10:  # subtle: NaN is not less
        return None
    if field == "description":
        return WMO.get(value, f"WMO code {value:g}")
    return round(value + add, 5) if field in ("temperature", "feels_like", "low", "high") else value


def read(data: Any, table: Mapping[str, str], row: str = "", offset_s: Any = None, add: float = 0) -> dict[str, Any]:
    """What a table {our name: path} leads to; None is what is not there, or is not of that kind.

    row: ".0" and so on where paths lead to lists; offset_s: the place's from UTC; add: makes the temperatures ours.
    """
    return {field: convert(field, dig(data, path + row), offset_s, add) for field, path in table.items()}


def folded(text: str | None) -> str:
    """The text without case and accents, to compare names."""
    parts = unicodedata.normalize("NFKD", (text or "").casefold())
    return "".join(char for char in parts if not unicodedata.combining(char)).strip()


def choose(city: str, found: Sequence[Place]) -> list[Place]:
    """Those of the places that are meant by `city`, as in 'London, Ontario, CA'. Raises CityNotFound.

    Londonderry is not meant by 'London', but Munich is by 'München': a name that differs throughout is another of it.
    """
    name, *qualifiers = map(folded, city.split(","))
    longer = re.compile(re.escape(name) + "[a-z]")
    near = [(place, {*map(folded, (place.region, place.country, place.country_code))}) for place in found]
    fitting = [p for p, known in near if known >= {*filter(None, qualifiers)} and not longer.match(folded(p.name))]
    if not fitting:
        raise CityNotFound(f"no such city; there is {'; '.join(dict.fromkeys(map(str, found[:NEAR_NAMES])))}")
    return sorted(fitting, key=lambda place: folded(place.name) != name)


def places(found: Sequence[Any], **theirs: str) -> list[Place]:
    """What a geocoder found, if it has a name and a position, by `theirs` for our fields. Raises CityNotFound."""
    table = {field.name: field.name for field in dataclasses.fields(Place)} | theirs
    known = [read(one, table) for one in found]
    placed = [Place(**one) for one in known if one["name"] and None not in (one["latitude"], one["longitude"])]
    if not placed:
        raise CityNotFound("no such city")
    return placed


# HTTP: requests, their faults, and the cache.


def base_url(url: str) -> str:
    """The URL, if a key may go there. Raises ValueError."""
    parts = urlsplit(url)
    loopback = re.fullmatch(r"localhost|::1|127(\.\d+){3}", parts.hostname or "")
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        return url.rstrip("/")
    raise ValueError(f"{printable(url)} is not an https URL; plain http is for loopback only")


def check(title: str, status: int, retry_after: str, answer: Any) -> None:
    """Raise WeatherError unless this is an answer; it is None if it was not JSON.

    OpenWeatherMap's own status is in `cod`, a number or a string: 404 even within a 200. Open-Meteo's 429 has a reason.
    """
    status = max(status, int(dig(answer, "cod") or 0))
    reason = printable(str(dig(answer, "reason") or dig(answer, "message") or ""))
    says = f" (status {status}{', ' if reason else ''}{reason})"
    if status == 429:
        limit_s = next((limit_s for word, limit_s in LIMITS_S.items() if word in reason.lower()), INFINITE_S)
        wait_s = float(retry_after) if retry_after.isdecimal() and limit_s not in (3600, DAY_S) else limit_s
        when = f"in {wait_s:.0f} s" if wait_s < INFINITE_S else printable(retry_after) or "later, it does not say when"
        raise RateLimited(f"{title} has had too many requests; come back {when}{says}", wait_s)
    if status in (500, 502, 503, 504):
        raise ProviderFailed(f"{title} is down{says}", 0)
    if 300 <= status < 400:
        raise ProviderFailed(f"{title} redirects to another address, which is not followed{says}")
    if not isinstance(answer, dict | list):
        raise ProviderFailed(f"{title} sent something that is not its JSON{says}")
    if status == 401:
        raise BadKey(f"{title} does not accept the key; a new one takes some hours to work")
    if status == 404 or reason == "Nothing to geocode":
        raise CityNotFound("no such city")
    if status != 200:
        raise ProviderFailed(f"{title} refuses the question{says}")


def explain_fault(title: str, error: Exception) -> WeatherError:
    """The cause of an exception of requests: the innermost one knows it."""
    cause: BaseException = error
    while cause.__context__:
        cause = cause.__context__
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or "it broke the connection off"
    if isinstance(error, ValueError):  # not shown: it can hold the proxy's password
        return NoNetwork("the proxy's address is none (HTTPS_PROXY)")
    if cause is error:  # requests itself refuses, as without the file in REQUESTS_CA_BUNDLE
        return ProviderFailed(f"{title} cannot be asked: {printable(str(error))}")
    if type(error).__name__ == "ProxyError":
        return NoNetwork("the proxy lets nothing through (HTTPS_PROXY)", 0)
    if type(error).__name__ == "SSLError":
        return ProviderFailed(f"TLS with {title} failed: {words}")
    if isinstance(cause, TimeoutError):
        unheard = type(error).__name__ == "ConnectTimeout"  # that may be a packet lost
        return TooSlow(f"{title}: no answer in time (--timeout)", 0 if unheard else INFINITE_S)
    if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
        return NoNetwork(f"{title} cannot be reached ({words}); is there a network?", 0)
    return ProviderFailed(f"{title} is down: {words}", 0)


def adapter_with(secret: str) -> Any:
    """An adapter of requests that adds `secret` to the URL only as http.client writes the request line.

    What is above does not know it, and so no exception, no log and no redirect can give it away.
    """
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def cert_verify(self, conn: Any, *args: Any) -> None:  # called with the pool before each request
            super().cert_verify(conn, *args)  # type: ignore[no-untyped-call]
            plain = type(conn).ConnectionCls
            own = {"putrequest": lambda self, verb, url, **more: plain.putrequest(self, verb, url + secret, **more)}
            conn.ConnectionCls = type("Connection", (plain,), own)

    return Adapter(pool_maxsize=AT_ONCE)


def cache_file() -> Path:
    default = {"darwin": "~/Library/Caches", "win32": "~/AppData/Local"}.get(sys.platform, "~/.cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(default), "netscripts-weather.json")


def load_cache() -> dict[str, tuple[float, Any]]:
    """The answers of the last ten minutes, by their URLs; a damaged file has none."""
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        kept = dict(json.loads(cache_file().read_bytes()))
        return {url: (at, answer) for url, (at, answer) in kept.items() if abs(time.time() - at) < CACHE_S}
    return {}


def save_cache(kept: Mapping[str, Any]) -> None:
    path, part = cache_file(), cache_file().with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.write_text(json.dumps({**load_cache(), **kept}))
        part.replace(path)  # whoever reads finds all of it or what was there before
    except OSError as error:
        log.warning("the cache is of no use: %s", error)


class Provider:
    """Where weather comes from: one session, and a deadline of `timeout_s` for each city.

    A subclass has two methods, which ask through get(url, **params). Raises ValueError for a URL that is not https.
    units: metric, imperial or standard; lang: an ISO code; urls: instead of those in the variables or in `bases`.
    """

    title = terms = attribution = ""
    bases: tuple[tuple[str, str], ...] = ()  # the variable that overrides each, and the URL
    needs_key, most_days = False, 16

    def __init__(
        self, key: str = "", *, units: str = "metric", lang: str = "en", urls: Sequence[str] = (),
        timeout_s: float = 10.0, cache: bool = True,
    ) -> None:  # fmt: skip
        import requests

        self.urls = [base_url(url) for url in urls or (os.environ.get(name) or base for name, base in self.bases)]
        self.key, self.units, self.lang = key if self.needs_key else "", units, lang.lower().replace("_", "-")
        self.language = self.lang.partition("-")[0]
        self.timeout_s, self.cache = timeout_s, cache
        self._session = requests.Session()
        self._session.trust_env = all(url.startswith("https:") for url in self.urls)  # loopback needs no proxy
        for url in self.urls:
            self._session.mount(url, adapter_with(f"&{urlencode({'appid': self.key})}" if self.key else ""))

    def find(self, get: Get, city: str) -> list[Place]:
        """The places that `city` can mean, the likeliest first. Raises CityNotFound."""
        raise NotImplementedError

    def weather(self, get: Get, place: Place, days: int) -> Weather:
        """The weather of the place, now and on so many days."""
        raise NotImplementedError

    def ask(self, cities: Sequence[str], days: int = 0) -> Iterator[Weather | WeatherError]:
        """The weather of each city, or why there is none, in the order asked; several are asked at once."""
        if days > self.most_days:
            log.warning("%s knows %d days at most", self.title, self.most_days)
        days = min(days, self.most_days)
        self._kept = load_cache() if self.cache else {}
        try:
            for first in range(0, len(cities), AT_ONCE):
                deadline = time.monotonic() + self.timeout_s
                for future in [self._start(city, days, deadline) for city in cities[first : first + AT_ONCE]]:
                    try:
                        yield future.result(max(0, deadline - time.monotonic()))
                    except TimeoutError:
                        yield TooSlow(f"{self.title}: no answer in {self.timeout_s:g} s (--timeout)")
        finally:
            if self.cache:
                save_cache(self._kept)

    def _start(self, *question: Any) -> "Future[Weather | WeatherError]":
        """Ask in a thread that can be given up: nothing ends the lookup of a name, or an answer that drips."""
        future: Future[Weather | WeatherError] = Future()
        threading.Thread(target=lambda: future.set_result(self._answer(*question)), daemon=True).start()
        return future

    def _answer(self, city: str, days: int, deadline: float) -> Weather | WeatherError:
        try:
            place, *others = self.find(get := partial(self._get, deadline), city)
            weather = self.weather(get, place, days)
        except WeatherError as error:
            return error
        except Exception as error:  # what is sent can be of any shape, and costs this city only
            failure = ProviderFailed(f"{self.title} sent something that is not its JSON")
            failure.__cause__ = error
            return failure
        if (weather.temperature is None and not weather.description) or (days and not weather.days):
            return ProviderFailed(f"{self.title} sent no weather")
        named = {str(other): other for other in others if folded(other.name) == folded(place.name)}
        named.pop(str(place), None)
        rise, fall = weather.sunrise, weather.sunset
        if rise and fall and not (fall - rise) % timedelta(days=1):
            rise = fall = None  # it stays up or down: these are made up
        return dataclasses.replace(weather, others=tuple(named.values()), sunrise=rise, sunset=fall)

    def _get(self, deadline: float, url: str, **params: Any) -> Any:
        """The answer, from the cache or with up to two retries. Raises WeatherError."""
        url = f"{url}?{urlencode(params, errors='replace')}"
        if self.cache and url in self._kept:
            return self._kept[url][1]
        for backoff_s in BACKOFF_S:
            try:
                answer = self._try(url, max(0.01, deadline - time.monotonic()))
                break
            except WeatherError as failure:
                wait_s = max(backoff_s, failure.retry_s)
                if wait_s > min(PATIENCE_S, deadline - time.monotonic()):
                    raise
            time.sleep(wait_s)
        self._kept[url] = (time.time(), answer)
        return answer

    def _try(self, url: str, left_s: float) -> Any:
        timeout_s = (min(left_s, CONNECT_S), left_s)
        try:
            with self._session.get(url, stream=True, timeout=timeout_s, allow_redirects=False) as response:
                body = b"".join(itertools.islice(response.iter_content(READ_BYTES), MAX_READS))
        except (OSError, ValueError) as error:
            raise explain_fault(self.title, error) from error
        text, answer = body.decode("utf-8", "replace"), None
        if len(self.key) > 8:  # what is shorter is no key
            for secret in (self.key, quote_plus(self.key)):
                text = text.replace(secret, "***")  # should it be echoed
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(text)
        check(self.title, response.status_code, response.headers.get("Retry-After", ""), answer)
        return answer


class OpenMeteo(Provider):
    """See https://open-meteo.com/en/docs and https://open-meteo.com/en/docs/geocoding-api."""

    title, terms = "Open-Meteo", "for non-commercial use, data CC BY 4.0, https://open-meteo.com/en/licence"
    attribution = "Weather data by Open-Meteo.com (https://open-meteo.com/), CC BY 4.0"
    bases = (
        ("OPEN_METEO_URL", "https://api.open-meteo.com"),
        ("OPEN_METEO_GEOCODING_URL", "https://geocoding-api.open-meteo.com"),
    )

    def find(self, get: Get, city: str) -> list[Place]:
        name = city.partition(",")[0].strip()
        found = dig(get(f"{self.urls[1]}/v1/search", name=name, count=10, language=self.language), "results")
        return choose(city, places(found or [], region="admin1"))

    def weather(self, get: Get, place: Place, days: int) -> Weather:
        question: dict[str, Any] = {"latitude": place.latitude, "longitude": place.longitude, "timezone": "auto"}
        question |= {"current": ",".join(OPEN_METEO_NOW.values()), "hourly": "temperature_2m"}
        question |= {"daily": ",".join(["sunrise", "sunset", *OPEN_METEO_DAY.values()]), "wind_speed_unit": "ms"}
        if self.units == "imperial":
            question |= {"wind_speed_unit": "mph", "temperature_unit": "fahrenheit"}
        answer = get(f"{self.urls[0]}/v1/forecast", **question, forecast_days=max(days, 1))
        part = partial(read, offset_s=dig(answer, "utc_offset_seconds"), add=KELVIN if self.units == "standard" else 0)
        now = part(answer["current"], OPEN_METEO_NOW | {"observed_at": "time"})
        sun = part(answer["daily"], {"sunrise": "sunrise", "sunset": "sunset"}, ".0")
        daily = [part(answer["daily"], OPEN_METEO_DAY | {"date": "time"}, f".{day}") for day in range(days)]
        coming = tuple(Forecast(**day) for day in daily if day["date"])
        hour = {"observed_at": "time", "temperature": "temperature_2m"}
        curve = curve_of(part(answer["hourly"], hour, f".{index}") for index in range(24 * days))
        return Weather(place=place, units=UNITS[self.units], **now, **sun, days=coming, curve=curve)


class OpenWeatherMap(Provider):
    """See https://openweathermap.org/api/geocoding-api, https://openweathermap.org/current and /forecast5."""

    title, terms = "OpenWeatherMap", "https://openweathermap.org/terms"
    attribution = "Weather data provided by OpenWeather (https://openweathermap.org/)"
    bases, needs_key, most_days = (("OPENWEATHERMAP_URL", "https://api.openweathermap.org"),), True, 5

    def find(self, get: Get, city: str) -> list[Place]:
        if not self.key:
            raise BadKey(f"OpenWeatherMap needs a key, in {KEY_VARIABLES[0]} or --api-key; Open-Meteo needs none")
        query = ",".join(part.strip() for part in city.split(","))
        found = get(f"{self.urls[0]}/geo/1.0/direct", q=query, limit=5)[:]  # anything but a list fails here
        return places(found, region="state", country_code="country", latitude="lat", longitude="lon")

    def weather(self, get: Get, place: Place, days: int) -> Weather:
        lang = LANGUAGES.get(self.lang) or LANGUAGES.get(self.language, self.language)
        question = {"lat": place.latitude, "lon": place.longitude, "units": self.units, "lang": lang}
        answer = get(f"{self.urls[0]}/data/2.5/weather", **question)
        coming = get(f"{self.urls[0]}/data/2.5/forecast", **question)["list"] if days else []
        part = partial(read, offset_s=dig(answer, "timezone"))
        dated = filter(itemgetter("date"), (part(step, OPENWEATHERMAP_STEP) for step in coming))
        by_day = [[*group] for _, group in itertools.groupby(dated, itemgetter("date"))][:days]
        now, curve = part(answer, OPENWEATHERMAP_NOW), curve_of(itertools.chain(*by_day))
        return Weather(place=place, units=UNITS[self.units], **now, days=tuple(map(gather, by_day)), curve=curve)


def gather(steps: Sequence[Mapping[str, Any]]) -> Forecast:
    """A day from OpenWeatherMap's steps of three hours."""
    sent = {name: [step[name] for step in steps if step[name] is not None] for name in steps[0]}
    fallen = sent["rain"] + sent["snow"]
    return Forecast(
        date=steps[0]["date"],
        description=max(sent["description"], key=sent["description"].count, default=None),
        low=min(sent["low"], default=None),
        high=max(sent["high"], default=None),
        rain_chance_percent=max((100 * share for share in sent["chance"]), default=None),
        precipitation_mm=sum(fallen) if fallen else None,
    )


def curve_of(steps: Iterable[Mapping[str, Any]]) -> tuple[tuple[datetime, float], ...]:
    return tuple(pair for pair in map(itemgetter("observed_at", "temperature"), steps) if None not in pair)


PROVIDERS: dict[str, type[Provider]] = {"openweathermap": OpenWeatherMap, "open-meteo": OpenMeteo}


def pick_provider(provider: str = "auto", api_key: str | None = None, **options: Any) -> Provider:
    keys = (api_key or "", *(os.environ.get(name, "") for name in KEY_VARIABLES))
    key = next(filter(None, map(str.strip, keys)), "")
    if provider == "auto":
        provider = "openweathermap" if key else "open-meteo"
    return PROVIDERS[provider](key=key, **options)


def get_weather(city: str, days: int = 0, **options: Any) -> Weather:
    """The weather now, and on so many days (at most 16, from OpenWeatherMap 5); its str() is a sentence.

    options: provider (auto, openweathermap or open-meteo), api_key, and those of Provider.
    Raises WeatherError, whose subclasses tell the causes apart.
    """
    [answer] = pick_provider(**options).ask([city], days)
    if isinstance(answer, WeatherError):
        raise answer
    return answer


# Formats: the weather as text.


def details(weather: Weather, now: datetime) -> list[str]:
    """What is known besides the sentence, a line each."""
    degrees, speed, deg = weather.units["temperature"], f" {weather.units['wind_speed']}", weather.wind_from_deg
    rise, fall, observed = weather.sunrise, weather.sunset, weather.observed_at
    course = "" if deg is None else f"from {COMPASS[round(deg / 22.5) % 16]}"
    wind = amount(weather.wind_speed, speed, 1), course, amount(weather.wind_gust, f"{speed} in gusts", 1)
    lines = {
        "place": str(weather.place),
        "other places": "; ".join(map(str, weather.others[:NEAR_NAMES])),
        "feels like": amount(weather.feels_like, degrees, 1),
        "humidity": amount(weather.humidity_percent, "%"),
        "wind": ", ".join(filter(None, wind)),
        "pressure": amount(weather.pressure_hpa, " hPa"),
        "sunrise": f"{rise:%H:%M (%Z)}" if rise else "",
        "sunset": f"{fall:%H:%M (%Z)}" if fall else "",
        "observed": f"{max(0, (now - observed) / timedelta(minutes=1)):.0f} min ago" if observed else "",
    }
    return [f"  {label}: {text}" for label, text in lines.items() if text]


def day_line(day: Forecast, degrees: str) -> str:
    warmth = " to ".join(f"{value:z5.1f}" for value in (day.low, day.high) if value is not None)
    chance = amount(day.rain_chance_percent, "% chance of rain")
    parts = filter(None, (day.description, chance, amount(day.precipitation_mm or None, " mm", 1)))
    return f"  {day.date:%a %d %b}  {warmth + degrees if warmth else '':16}  {', '.join(parts)}".rstrip()


def draw_curve(curve: Sequence[tuple[datetime, float]], width: int) -> list[str]:
    """The temperatures in rows of blocks, from the lowest to the highest, and the days below."""
    if not curve:
        return []
    columns = max(8, min(width, CURVE_COLUMNS) - 10)
    shown = [curve[column * len(curve) // columns] for column in range(columns)]
    low, high = min(value for _, value in shown), max(value for _, value in shown)
    steps = [1 + round((value - low) / (high - low or 1) * (CURVE_ROWS * 8 - 1)) for _, value in shown]
    rows = ["".join(BLOCKS[max(0, min(8, step - 8 * row))] for step in steps) for row in reversed(range(CURVE_ROWS))]
    days = ""
    for column, (at, _) in enumerate(shown):
        if not column or at.date() != shown[column - 1][0].date():
            days = f"{days[:column]:{column}}{at:%a} "
    labels = [f"{high:z.1f}", *[""] * (CURVE_ROWS - 2), f"{low:z.1f}", ""]
    return [f"{label:>7} {row[:columns]}".rstrip() for label, row in zip(labels, [*rows, days], strict=True)]


def as_text(weather: Weather) -> str:
    colour = sys.stdout and sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    bold, blue, plain = ("\x1b[1m", "\x1b[36m", "\x1b[0m") if colour else ("", "", "")
    days = [day_line(day, weather.units["temperature"]) for day in weather.days]
    curve = draw_curve(weather.curve, shutil.get_terminal_size().columns)
    lines = [f"{bold}{weather}{plain}", *details(weather, datetime.now(UTC)), *days]
    return "\n".join([*lines, *(f"{blue}{line}{plain}" for line in curve)])


def as_json(city: str, result: Weather | WeatherError, provider: Provider) -> str:
    known = {"error": str(result), "cause": type(result).__name__}
    if isinstance(result, Weather):
        known = {**dataclasses.asdict(result), "provider": provider.title, "attribution": provider.attribution}
    return json.dumps({"city": city, **known}, default=lambda when: when.isoformat())


# The command line.


def reserve_standard_descriptors() -> None:
    """Open /dev/null on every closed descriptor of 0 to 2, so that no socket or file gets that number."""
    descriptor = 0
    while descriptor <= 2:
        descriptor = os.open(os.devnull, os.O_RDONLY)  # Writing to a closed standard output remains an error.
    os.close(descriptor)


def print_message(level: str, message: str) -> None:
    """Print a message to standard error, after the name of the program."""
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(f"{PROGRAM}: {level}: {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """Handle errors of standard output: exit quietly on a closed pipe, print one error line on a full disk."""
    try:
        yield
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # The buffered output would fail again at exit.
        if isinstance(error, BrokenPipeError):
            sys.exit(0)
        print_message("error", f"cannot write the output: {error.strerror}")
        sys.exit(1)


def bounded(kind: type[float], low: float, high: float, text: str) -> float:
    """Return the number in `text`, which must be from `low` to `high`: an argparse type, once these are bound."""
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")


def new_parser() -> argparse.ArgumentParser:
    """Return a parser whose --help prints the module's docstring, wrapped to the terminal, and the examples."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    description = textwrap.fill(" ".join(summary.split()), shutil.get_terminal_size().columns - 2)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=description, epilog=examples, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def show_city(city: str, result: Weather | WeatherError, provider: Provider, json_wanted: bool) -> None:
    with output_errors():
        if json_wanted:
            print(as_json(city, result, provider), flush=True)
        elif isinstance(result, WeatherError):
            print_message("error", f"{printable(city)}: {result}")
        else:
            print(as_text(result), flush=True)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser()
    add, seconds = parser.add_argument, partial(bounded, float, 0.01, DAY_S)
    add("city", nargs="+", metavar="CITY", help="a city, or 'CITY, COUNTRY' or 'CITY, REGION, COUNTRY'")
    add("--units", choices=UNITS, default="metric", help="°C and m/s, °F and mph, or K and m/s (%(default)s)")
    add("--lang", default="en", metavar="LANG", help="language of names or, by OpenWeatherMap, words (%(default)s)")
    days = "and so many days (%(const)s); at most 16, from OpenWeatherMap 5"
    add("--forecast", type=partial(bounded, int, 1, 16), nargs="?", const=5, default=0, metavar="DAYS", help=days)
    add("--provider", choices=["auto", *PROVIDERS], default="auto", help="auto: openweathermap if there is a key")
    add("--api-key", metavar="KEY", help=f"for OpenWeatherMap; others see it here, not in {', '.join(KEY_VARIABLES)}")
    add("--json", action="store_true", help="print a JSON object for each city")
    add("--no-cache", action="store_true", help="neither use nor keep answers of the last ten minutes")
    add("--timeout", type=seconds, default=10.0, metavar="S", help="seconds for each city as a whole (%(default)g)")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z]{2,4})?", args.lang):
        parser.error(f"argument --lang: {args.lang!r} is not a language, as en or pt-BR")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    logging.basicConfig(format=f"{PROGRAM}: warning: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where the terminal's alphabet lacks a letter
    options = {"units": args.units, "lang": args.lang, "timeout_s": args.timeout, "cache": not args.no_cache}
    status = 0
    try:
        provider = pick_provider(args.provider, args.api_key, **options)
        print_message("info", f"from {provider.title}: {provider.terms}")
        for city, result in zip(args.city, provider.ask(args.city, args.forecast), strict=True):
            show_city(city, result, provider, args.json)
            status |= isinstance(result, WeatherError)
    except KeyboardInterrupt:
        return 130
    except ImportError:
        print_message("error", "it needs requests: pip install requests")
        return 1
    except ValueError as error:
        print_message("error", str(error))
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
