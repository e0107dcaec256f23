#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = ["requests>=2.31"]
# ///
# SPDX-FileCopyrightText: 2026 the netscripts authors
# SPDX-License-Identifier: 0BSD
"""Print the weather of any city, now and with --forecast for the next days. It comes from Open-Meteo, which needs no
key, or from OpenWeatherMap if there is a key. The script does not guess where you are.

examples:
  python weather.py London                     the weather now, without a key
  python weather.py 'Paris, USA' Tokyo 'Portland, OR'
  python weather.py 52.52,13.41 '10115, DE'    coordinates, a postcode
  python weather.py Oslo --forecast 7          a week, with a curve
  python weather.py Paris --line               one line for a status bar
  OPENWEATHER_API_KEY=... python weather.py Prague --lang cs --json
"""

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import html
import io
import itertools
import json
import logging
import os
import random
import re
import shutil
import ssl
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
from urllib.parse import quote, quote_plus, urlencode, urlsplit

__all__ = [
    "BadKey", "CityNotFound", "Forecast", "NoNetwork", "OpenMeteo", "OpenWeatherMap", "Place", "Provider",
    "ProviderFailed", "RateLimited", "TooSlow", "Weather", "WeatherError", "get_weather",
]  # fmt: skip
__version__ = "2.0.0"

log = logging.getLogger(__name__)

PROGRAM = os.path.basename(__file__)
KEY_VARIABLES = ("OPENWEATHER_API_KEY", "OPENWEATHERMAP_API_KEY", "OWM_API_KEY")
CACHE_S = 600  # Neither provider has new data earlier, and both ask clients not to repeat requests.
CONNECT_S = 2.5  # for each address of a host: a dead IPv6 address leaves time for IPv4
INFINITE_S = float("inf")
BACKOFF_S = (0.3, 0.6, INFINITE_S)  # pause before the first and the second repetition; there is no third
BUSY_S = 0.3  # pause before a request that was refused because of concurrency is repeated
MAX_RETRY_AFTER_S = 5.0  # A longer Retry-After is reported to the user.
MAX_ANSWER_BYTES = 1_048_576  # 16 days of hourly data are 20,000 bytes.
READ_BYTES = 65_536
AT_ONCE = 4  # requests at a time (Open-Meteo handles one and queues six: open-meteo/open-meteo issue 1493)
MAX_PLACES = 100  # results of Open-Meteo's geocoder; OpenWeatherMap returns at most 5
MAX_TEXT_CHARS = 100  # A name is cut to this length before it is compared or printed.
DAY_S = 86_400.0
LIMITS_S = {"concurrent": BUSY_S, "minut": 60.0, "hour": 3600.0, "daily": DAY_S}  # words in Open-Meteo's reasons
KELVIN = 273.15
COMPASS = ("N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW")
NEAR_NAMES = 4
BLOCKS = " ▁▂▃▄▅▆▇█"
CURVE_ROWS = 4
CURVE_COLUMNS = 96
UNITS = {
    "metric": {"temperature": "°C", "wind_speed": "m/s"},
    "imperial": {"temperature": "°F", "wind_speed": "mph"},
    "standard": {"temperature": "K", "wind_speed": "m/s"},
}
# field of Weather or Forecast: its path in the answers of Open-Meteo and OpenWeatherMap
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
# The codes of WMO table 4677 that Open-Meteo uses, with its words
WMO = {
    0: "clear sky", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog", 48: "depositing rime fog",
    51: "light drizzle", 53: "moderate drizzle", 55: "dense drizzle", 56: "light freezing drizzle",
    57: "dense freezing drizzle", 61: "slight rain", 63: "moderate rain", 65: "heavy rain", 66: "light freezing rain",
    67: "heavy freezing rain", 71: "slight snow fall", 73: "moderate snow fall", 75: "heavy snow fall",
    77: "snow grains", 80: "slight rain showers", 81: "moderate rain showers", 82: "violent rain showers",
    85: "slight snow showers", 86: "heavy snow showers", 95: "thunderstorm", 96: "thunderstorm with slight hail",
    99: "thunderstorm with heavy hail",
}  # fmt: skip
# OpenWeatherMap's language codes that differ from ISO's (https://openweathermap.org/current#multi)
LANGUAGES = {"cs": "cz", "ko": "kr", "lv": "la", "nb": "no", "uk": "ua", "zh": "zh_cn", "zh-tw": "zh_tw"}
LANGUAGES |= {"zh-hk": "zh_tw", "pt-br": "pt_br"}
Get = Callable[..., Any]  # get(url, **params) returns the JSON of a provider's answer.
# ISO 3166 codes of two and three letters with the English names and aliases of countries, as geocoders may lack them
COUNTRIES = """AD AND Andorra|AE ARE United Arab Emirates/UAE/Emirates|AF AFG Afghanistan
AG ATG Antigua and Barbuda/Antigua|AI AIA Anguilla|AL ALB Albania|AM ARM Armenia|AO AGO Angola|AQ ATA Antarctica
AR ARG Argentina|AS ASM American Samoa|AT AUT Austria|AU AUS Australia|AW ABW Aruba|AX ALA Aland Islands/Aland
AZ AZE Azerbaijan|BA BIH Bosnia and Herzegovina/Bosnia-Herzegovina/Bosnia|BB BRB Barbados|BD BGD Bangladesh
BE BEL Belgium|BF BFA Burkina Faso|BG BGR Bulgaria|BH BHR Bahrain|BI BDI Burundi|BJ BEN Benin
BL BLM Saint Barthelemy/St Barthelemy|BM BMU Bermuda|BN BRN Brunei/Brunei Darussalam|BO BOL Bolivia
BQ BES Bonaire/Caribbean Netherlands|BR BRA Brazil|BS BHS Bahamas|BT BTN Bhutan|BW BWA Botswana|BY BLR Belarus
BZ BLZ Belize|CA CAN Canada|CD COD DR Congo/DRC/Democratic Republic of the Congo|CF CAF Central African Republic
CG COG Congo/Republic of the Congo|CH CHE Switzerland|CI CIV Ivory Coast/Cote d'Ivoire|CK COK Cook Islands
CL CHL Chile|CM CMR Cameroon|CN CHN China/PRC|CO COL Colombia|CR CRI Costa Rica|CU CUB Cuba
CV CPV Cape Verde/Cabo Verde|CW CUW Curacao|CX CXR Christmas Island|CY CYP Cyprus|CZ CZE Czech Republic/Czechia
DE DEU Germany|DJ DJI Djibouti|DK DNK Denmark|DM DMA Dominica|DO DOM Dominican Republic|DZ DZA Algeria|EC ECU Ecuador
EE EST Estonia|EG EGY Egypt|EH ESH Western Sahara|ER ERI Eritrea|ES ESP Spain|ET ETH Ethiopia|FI FIN Finland
FJ FJI Fiji|FK FLK Falkland Islands/Falklands|FM FSM Micronesia|FO FRO Faroe Islands|FR FRA France|GA GAB Gabon
GB GBR United Kingdom/UK/Great Britain/Britain/England/Scotland/Wales/Northern Ireland/N Ireland|GD GRD Grenada
GE GEO Georgia|GF GUF French Guiana|GG GGY Guernsey|GH GHA Ghana|GI GIB Gibraltar|GL GRL Greenland|GM GMB Gambia
GN GIN Guinea|GP GLP Guadeloupe|GQ GNQ Equatorial Guinea|GR GRC Greece|GT GTM Guatemala|GU GUM Guam
GW GNB Guinea-Bissau|GY GUY Guyana|HK HKG Hong Kong|HN HND Honduras|HR HRV Croatia|HT HTI Haiti|HU HUN Hungary
ID IDN Indonesia|IE IRL Ireland/Republic of Ireland/Eire|IL ISR Israel|IM IMN Isle of Man|IN IND India|IQ IRQ Iraq
IR IRN Iran|IS ISL Iceland|IT ITA Italy|JE JEY Jersey|JM JAM Jamaica|JO JOR Jordan|JP JPN Japan|KE KEN Kenya
KG KGZ Kyrgyzstan|KH KHM Cambodia|KI KIR Kiribati|KM COM Comoros
KN KNA Saint Kitts and Nevis/St Kitts and Nevis/St Kitts|KP PRK North Korea/N Korea
KR KOR South Korea/S Korea/Korea/Republic of Korea|KW KWT Kuwait|KY CYM Cayman Islands|KZ KAZ Kazakhstan|LA LAO Laos
LB LBN Lebanon|LC LCA Saint Lucia/St Lucia|LI LIE Liechtenstein|LK LKA Sri Lanka|LR LBR Liberia|LS LSO Lesotho
LT LTU Lithuania|LU LUX Luxembourg|LV LVA Latvia|LY LBY Libya|MA MAR Morocco|MC MCO Monaco|MD MDA Moldova
ME MNE Montenegro|MF MAF Saint Martin/St Martin|MG MDG Madagascar|MH MHL Marshall Islands
MK MKD North Macedonia/Macedonia|ML MLI Mali|MM MMR Myanmar/Burma|MN MNG Mongolia|MO MAC Macau/Macao
MP MNP Northern Mariana Islands|MQ MTQ Martinique|MR MRT Mauritania|MS MSR Montserrat|MT MLT Malta|MU MUS Mauritius
MV MDV Maldives|MW MWI Malawi|MX MEX Mexico|MY MYS Malaysia|MZ MOZ Mozambique|NA NAM Namibia|NC NCL New Caledonia
NE NER Niger|NF NFK Norfolk Island|NG NGA Nigeria|NI NIC Nicaragua|NL NLD Netherlands/Holland|NO NOR Norway
NP NPL Nepal|NR NRU Nauru|NU NIU Niue|NZ NZL New Zealand|OM OMN Oman|PA PAN Panama|PE PER Peru
PF PYF French Polynesia/Tahiti|PG PNG Papua New Guinea|PH PHL Philippines|PK PAK Pakistan|PL POL Poland
PM SPM Saint Pierre and Miquelon|PR PRI Puerto Rico|PS PSE Palestine/Palestinian Territories|PT PRT Portugal
PW PLW Palau|PY PRY Paraguay|QA QAT Qatar|RE REU Reunion|RO ROU Romania|RS SRB Serbia|RU RUS Russia/Russian Federation
RW RWA Rwanda|SA SAU Saudi Arabia/KSA|SB SLB Solomon Islands|SC SYC Seychelles|SD SDN Sudan|SE SWE Sweden
SG SGP Singapore|SH SHN Saint Helena/St Helena|SI SVN Slovenia|SJ SJM Svalbard/Svalbard and Jan Mayen|SK SVK Slovakia
SL SLE Sierra Leone|SM SMR San Marino|SN SEN Senegal|SO SOM Somalia|SR SUR Suriname|SS SSD South Sudan
ST STP Sao Tome and Principe/Sao Tome|SV SLV El Salvador|SX SXM Sint Maarten|SY SYR Syria|SZ SWZ Eswatini/Swaziland
TC TCA Turks and Caicos Islands/Turks and Caicos|TD TCD Chad|TG TGO Togo|TH THA Thailand|TJ TJK Tajikistan
TL TLS East Timor/Timor-Leste|TM TKM Turkmenistan|TN TUN Tunisia|TO TON Tonga|TR TUR Turkey/Turkiye
TT TTO Trinidad and Tobago/Trinidad|TV TUV Tuvalu|TW TWN Taiwan|TZ TZA Tanzania|UA UKR Ukraine|UG UGA Uganda
US USA United States/United States of America/America|UY URY Uruguay|UZ UZB Uzbekistan|VA VAT Vatican City/Vatican
VC VCT Saint Vincent and the Grenadines/St Vincent and the Grenadines/St Vincent|VE VEN Venezuela
VG VGB British Virgin Islands/BVI|VI VIR US Virgin Islands|VN VNM Vietnam/Viet Nam|VU VUT Vanuatu
WF WLF Wallis and Futuna|WS WSM Samoa|XK XKX Kosovo|YE YEM Yemen|YT MYT Mayotte|ZA ZAF South Africa|ZM ZMB Zambia
ZW ZWE Zimbabwe"""
# codes of the states of the USA and Australia and of Canadian provinces, with the country's code
STATES = """US AL Alabama|AK Alaska|AZ Arizona|AR Arkansas|CA California|CO Colorado|CT Connecticut|DE Delaware
US FL Florida|DC District of Columbia|GA Georgia|HI Hawaii|ID Idaho|IL Illinois|IN Indiana|IA Iowa|KS Kansas|KY Kentucky
US ME Maine|LA Louisiana|MD Maryland|MA Massachusetts|MI Michigan|MN Minnesota|MS Mississippi|MO Missouri|MT Montana
US NE Nebraska|NV Nevada|NH New Hampshire|NJ New Jersey|NM New Mexico|NY New York|NC North Carolina|ND North Dakota
US OH Ohio|OK Oklahoma|OR Oregon|PA Pennsylvania|RI Rhode Island|SC South Carolina|SD South Dakota|TN Tennessee|TX Texas
US UT Utah|VT Vermont|VA Virginia|WA Washington|WV West Virginia|WI Wisconsin|WY Wyoming|PR Puerto Rico
CA AB Alberta|BC British Columbia|MB Manitoba|NB New Brunswick|NL Newfoundland and Labrador|NS Nova Scotia|ON Ontario
CA PE Prince Edward Island|QC Quebec|SK Saskatchewan|YT Yukon|NT Northwest Territories|NU Nunavut
AU NSW New South Wales|QLD Queensland|VIC Victoria|TAS Tasmania|ACT Australian Capital Territory
AU WA Western Australia|SA South Australia|NT Northern Territory"""
DEGREES = r"([+-]?\d{1,3}(?:\.\d*)?) ?°? ?"
COORDINATES = re.compile(rf"{DEGREES}([NS]?) ?[,; ] ?{DEGREES}([EW]?)")
POSTCODE = re.compile(r"(?=.*\d)[\w -]{3,10}")

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # controls of the text direction (UAX 9)
NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
# The pattern also contains control characters, line and paragraph separators, surrogates and the byte order mark.
UNPRINTABLE = re.compile(f"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff{BIDIRECTIONAL}{NONCHARACTERS}]+")


class WeatherError(Exception):
    """There is no answer. The subclass is the cause; retry_s is the time after which a repetition is useful."""

    def __init__(self, message: str, retry_s: float = INFINITE_S) -> None:
        super().__init__(message)
        self.retry_s = retry_s


# fmt: off
class CityNotFound(WeatherError):
    """The geocoder found no place that fits. The message lists the places that it found."""
class BadKey(WeatherError):
    """The key is missing, or the provider does not accept it."""
class RateLimited(WeatherError):
    """There were too many requests at a time, or in a minute, an hour or a day."""
class ProviderFailed(WeatherError):
    """The provider is down, or its answer is not weather."""
class NoNetwork(WeatherError):
    """The provider cannot be reached."""
class TooSlow(WeatherError):
    """There was no answer within the timeout."""
# fmt: on


def amount(value: float | None, unit: str, digits: int = 0) -> str:
    return "" if value is None else f"{value:z.{digits}f}{unit}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place that a geocoder found. Its position is in degrees."""

    name: str
    region: str | None
    country: str | None
    country_code: str | None
    latitude: float
    longitude: float
    population: int | None = None

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.name, self.region, self.country)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The forecast of a day."""

    date: date
    description: str | None
    low: float | None
    high: float | None
    rain_chance_percent: float | None
    precipitation_mm: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """The weather now. A value that the provider did not send is None.

    units: units of temperatures and wind
    others: further places of that name
    days: the forecast
    curve: (time, temperature) for each hour or each third hour of these days, in the time zone of the place
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


# Answers: from the JSON of providers to values.


def printable(text: str) -> str:
    """Return the text with every character escaped that could control a terminal or forge a line."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def get_path(data: Any, path: str) -> Any:
    """Return data["list"][0]["dt"] for the path "list.0.dt", or None if there is no such value."""
    with contextlib.suppress(LookupError, TypeError):
        for step in path.split("."):
            data = data[int(step) if step.isdigit() else step]
        return data
    return None


def local_time(value: Any, offset_s: Any) -> datetime | None:
    """Return the local time of a place, from ISO 8601 without an offset or from epoch seconds."""
    with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
        zone = timezone(timedelta(seconds=offset_s))
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=zone)
        return datetime.fromtimestamp(value, zone) if value and type(value) is int else None
    return None


def convert(field: str, value: Any, offset_s: Any, add: float) -> Any:
    """Return a value as the field needs it, or None if it is of another kind. Texts from the network are escaped."""
    if field in ("observed_at", "sunrise", "sunset", "date"):
        when = local_time(value, offset_s)
        return when.date() if when and field == "date" else when
    if field == "description" and isinstance(value, list):  # OpenWeatherMap sends a list of conditions.
        return ", ".join(filter(None, (convert("name", get_path(one, field), None, 0) for one in value))) or None
    if field in ("name", "region", "country", "country_code"):
        return printable(value[:MAX_TEXT_CHARS]) if isinstance(value, str) else None
    if type(value) not in (int, float) or not abs(value) < 1e10:  # NaN is not less.
        return None
    if field == "description":
        return WMO.get(value, f"WMO code {value:g}")
    return round(value + add, 5) if field in ("temperature", "feels_like", "low", "high") else value


def extract(data: Any, table: Mapping[str, str], row: str = "", offset_s: Any = None, add: float = 0) -> dict[str, Any]:
    """Return the values of a table {field: path}.

    row: an index such as ".0" if the paths lead to lists
    offset_s: the place's seconds from UTC
    add: a number that is added to temperatures
    """
    return {field: convert(field, get_path(data, path + row), offset_s, add) for field, path in table.items()}


# Places: what a person means by "Portland, OR".


def folded(text: str | None) -> str:
    """Return a name without case, accents, dots and a leading "The", and with "and" for "&", to compare it."""
    parts = unicodedata.normalize("NFKD", (text or "")[:MAX_TEXT_CHARS].casefold())
    plain = "".join(char for char in parts if not unicodedata.combining(char) and char not in ".'\u2019")
    return " ".join(plain.replace("-", " ").replace("&", " and ").split()).removeprefix("the ")


def country_codes() -> dict[str, str]:
    """Return {name or code of a country: its ISO code}."""
    codes = dict[str, str]()
    for entry in COUNTRIES.replace("\n", "|").split("|"):
        code, code_3, names = entry.split(" ", 2)
        codes |= dict.fromkeys(map(folded, (code, code_3, *names.split("/"))), code)
    return codes


def state_names() -> dict[str, list[tuple[str, str, str]]]:
    """Return {name or code of a state: the states that it means, as (code, name, the country's ISO code)}."""
    states: dict[str, list[tuple[str, str, str]]] = collections.defaultdict(list)
    for line in STATES.splitlines():
        country, _, entries = line.partition(" ")
        for code, _, name in (entry.partition(" ") for entry in entries.split("|")):
            for key in (folded(code), folded(name)):
                states[key].append((code, folded(name), country))
    return dict(states)


CODES = country_codes()
STATE_NAMES = state_names()


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """A place as a person types it: a name or postcode, and qualifiers such as a region or country."""

    name: str
    qualifiers: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Query":
        name, *qualifiers = (part.strip()[:MAX_TEXT_CHARS] for part in text.split(","))
        return cls(name, tuple(filter(None, map(folded, qualifiers))))

    def without_comma(self) -> "Query | None":
        """Return "Paris, France" for "Paris France", or None if the last words name no country or state."""
        words = self.name.split()
        for number in range(1, len(words)):
            end = folded(" ".join(words[number:]))
            if end in CODES or end in STATE_NAMES:
                return Query(" ".join(words[:number]), (end, *self.qualifiers))
        return None

    @property
    def country_code(self) -> str | None:
        """The country's ISO code, if a qualifier names one and cannot mean a state as well, as CA can."""
        codes = [CODES[word] for word in self.qualifiers if word in CODES and word not in STATE_NAMES]
        return codes[-1] if codes else None

    def fits(self, place: Place, regions: Iterable[str | None] = ()) -> bool:
        """Return whether each qualifier names the country, its code or a region of the place."""
        names = {*map(folded, (place.region, place.country, place.country_code, *regions))}
        return all(self._fits(qualifier, place, names) for qualifier in self.qualifiers)

    @staticmethod
    def _fits(qualifier: str, place: Place, names: set[str]) -> bool:
        states = STATE_NAMES.get(qualifier, ())
        in_state = any(name in names and country == place.country_code for _, name, country in states)
        is_country = qualifier in CODES and CODES[qualifier] == place.country_code
        is_nation = qualifier in ("england", "scotland", "wales", "northern ireland")
        return qualifier in names or in_state or (is_country and not is_nation)

    def is_prefix(self, place: Place) -> bool:
        """Return whether the geocoder found a longer name: Londonderry for London. Another name, as Munich, is none."""
        return bool(re.match(re.escape(folded(self.name)) + "[a-z]", folded(place.name)))


def choose(query: Query, candidates: Sequence[tuple[Place, Sequence[str | None]]]) -> list[Place]:
    """Return the places that fit, the one with the most inhabitants first. Raise CityNotFound if there is none.

    candidates: places, each with the names of further regions that it is in.
    """
    fitting = [place for place, regions in candidates if query.fits(place, regions) and not query.is_prefix(place)]
    if not fitting:
        names = "; ".join(dict.fromkeys(str(place) for place, _ in candidates[:NEAR_NAMES]))
        raise CityNotFound(f"no such city; there is {names}" if names else "no such city; check the spelling")
    return sorted(fitting, key=lambda place: -(place.population or 0))


def parse_places(entries: Sequence[Any], **paths: str) -> list[Place | None]:
    """Return the places of a geocoder's answer; None for an entry without a name or a position."""
    table = {field.name: field.name for field in dataclasses.fields(Place)} | paths
    places = []
    for values in (extract(entry, table) for entry in entries):
        has_all = values["name"] and None not in (values["latitude"], values["longitude"])
        places.append(Place(**values) if has_all else None)
    return places


def parse_coordinates(text: str) -> Place | None:
    """Return the place at "52.52,13.41" or "52.52° N, 13.41° E", or None for other text.

    Raise CityNotFound if there is no such place.
    """
    match = COORDINATES.fullmatch(" ".join(text[:MAX_TEXT_CHARS].upper().split()))
    if not match:
        return None
    latitude = float(match[1]) * (-1 if match[2] == "S" else 1)
    longitude = float(match[3]) * (-1 if match[4] == "W" else 1)
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise CityNotFound("no such place: a latitude is from -90 to 90, a longitude from -180 to 180")
    name = f"{latitude:g}, {longitude:g}"
    return Place(name=name, region=None, country=None, country_code=None, latitude=latitude, longitude=longitude)


# HTTP: requests, their errors, and the cache.


def base_url(url: str) -> str:
    """Return the URL if a key may be sent to it. Raise ValueError if it is neither https nor on loopback."""
    parts = urlsplit(url)
    loopback = re.fullmatch(r"localhost|::1|127(\.\d+){3}", parts.hostname or "")
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        return url.rstrip("/")
    raise ValueError(f"{printable(url)} is not an https URL; plain http is allowed for loopback only")


def redact(value: Any, secret: str) -> Any:
    """Return a decoded JSON value or text without a key that the provider or a proxy has sent back."""
    if isinstance(value, dict):
        return {redact(key, secret): redact(item, secret) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item, secret) for item in value]
    if not isinstance(value, str) or len(secret) < 4:
        return value
    forms = {secret, quote_plus(secret), quote(secret, safe=""), quote(secret), html.escape(secret)}
    return re.sub("|".join(map(re.escape, forms)), "***", value, flags=re.IGNORECASE)


def check(title: str, status: int, retry_after: str, answer: Any) -> None:
    """Raise WeatherError if an answer is an error. answer is None if it was not JSON.

    OpenWeatherMap has its own status in `cod`, a number or a string: 404 even in a 200. Open-Meteo's 429 has a reason.
    """
    code = str(get_path(answer, "cod") or 0)
    status = max(status, int(code) if code.isdecimal() and len(code) == 3 else 0)
    reason = printable(str(get_path(answer, "reason") or get_path(answer, "message") or "")[:MAX_TEXT_CHARS])
    details = f" (status {status}{', ' if reason else ''}{reason})"
    if status == 429:
        limit_s = next((limit_s for word, limit_s in LIMITS_S.items() if word in reason.lower()), INFINITE_S)
        wait_s = limit_s
        if retry_after.isdecimal() and len(retry_after) < 7 and limit_s not in (3600, DAY_S):
            wait_s = float(retry_after)
        known = printable(retry_after[:MAX_TEXT_CHARS]) or "later; it does not state when"
        when = f"in {wait_s:.0f} s" if wait_s < INFINITE_S else known
        raise RateLimited(f"{title} has had too many requests; come back {when}{details}", wait_s)
    if status in (500, 502, 503, 504):
        raise ProviderFailed(f"{title} is down{details}; try again later", 0)
    if 300 <= status < 400:
        raise ProviderFailed(f"{title} redirects to another address, which is not followed{details}")
    if not isinstance(answer, dict | list):
        raise ProviderFailed(f"{title} sent something that is not its JSON{details}")
    if status == 401:
        raise BadKey(f"{title} does not accept the key; a new key works after some hours")
    if status == 404 or reason == "Nothing to geocode":
        raise CityNotFound("no such city; check the spelling")
    if status != 200:
        raise ProviderFailed(f"{title} refuses the request{details}")


def parse_answer(title: str, status: int, body: bytes, secret: str) -> Any:
    """Return the JSON of an answer without the key. Raise ProviderFailed with the cause if it is not JSON."""
    try:
        return redact(json.loads(body.decode("utf-8", "replace")), secret)
    except RecursionError:
        cause = "JSON that is nested too deeply"
    except ValueError:
        is_html = body.lstrip()[:1] == b"<"
        cause = "HTML instead of JSON; a proxy or a login page may be in the way" if is_html else "incomplete JSON"
    if status == 200:
        raise ProviderFailed(f"{title} sent something that is not its JSON: {cause}")
    return None


def explain_fault(title: str, error: Exception) -> WeatherError:
    """Return the cause of an exception of requests. The innermost exception contains it."""
    cause: BaseException = error
    while cause.__context__:
        cause = cause.__context__
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or "it closed the connection"
    kind = type(error).__name__
    hint = "check HTTPS_PROXY and ALL_PROXY"
    if "SOCKS support" in str(error):
        return NoNetwork(f"the proxy is a SOCKS proxy, which needs the package PySocks: pip install PySocks; or {hint}")
    if kind == "SSLError" or isinstance(cause, ssl.SSLError):
        return ProviderFailed(f"TLS with {title} failed: {words}; check the date of this machine and its certificates")
    if isinstance(error, ValueError):  # The text is not printed, because it can contain the proxy's password.
        return NoNetwork(f"the proxy's URL is not valid; {hint}")
    if cause is error:  # requests itself refuses, for example if the file of REQUESTS_CA_BUNDLE does not exist.
        return ProviderFailed(f"{title} cannot be asked: {printable(str(error))}")
    if kind == "ProxyError":
        return NoNetwork(f"the proxy does not connect to {title}; {hint}", 0)
    if isinstance(cause, TimeoutError):
        return TooSlow(f"{title}: no answer in time (--timeout)", 0 if kind == "ConnectTimeout" else INFINITE_S)
    if isinstance(cause, OSError) and not isinstance(cause, ConnectionError):
        return NoNetwork(f"{title} cannot be reached ({words}); check the network connection", 0)
    return ProviderFailed(f"{title} is down: {words}; try again later", 0)


def adapter_with(secret: str) -> Any:
    """Return an adapter of requests that adds `secret` to the URL when http.client writes the request line.

    requests and urllib3 do not have the key, so that no exception, log or redirect of theirs can contain it.
    """
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def cert_verify(self, conn: Any, *args: Any) -> None:  # requests calls it before each request.
            super().cert_verify(conn, *args)  # type: ignore[no-untyped-call]
            plain = type(conn).ConnectionCls
            own = {"putrequest": lambda self, verb, url, **more: plain.putrequest(self, verb, url + secret, **more)}
            conn.ConnectionCls = type("Connection", (plain,), own)

    return Adapter(pool_maxsize=AT_ONCE)


def user_cache_root() -> str:
    """Return the folder for the caches of this user; "" if there is none, as in a container without home folders."""
    default = {"darwin": "~/Library/Caches", "win32": "~/AppData/Local"}.get(sys.platform, "~/.cache")
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(default)
    return root if os.path.isabs(root) else ""


class Cache:
    """Answers of the last ten minutes, one file for each URL. Any content of a file is harmless."""

    def __init__(self, root: str) -> None:
        self._folder = Path(root, "netscripts-weather")
        self._lock = threading.Lock()
        self._warned = False

    def _file(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"

    def load(self, url: str) -> Any:
        """Return the answer, or None if there is none that is younger than CACHE_S."""
        with contextlib.suppress(OSError, ValueError, TypeError, OverflowError, RecursionError):
            saved_at, answer = json.loads(self._file(url).read_bytes())
            if abs(time.time() - saved_at) < CACHE_S and isinstance(answer, dict | list):
                return answer
        return None

    def save(self, url: str, answer: Any) -> None:
        """Write a file completely or not at all. Warn once if that is impossible."""
        file = self._file(url)
        part = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                part.write_text(json.dumps([time.time(), answer]))
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            with self._lock:
                if not self._warned:
                    log.warning("the cache cannot be written: %s; see --no-cache", error)
                self._warned = True

    def clean(self) -> None:
        """Delete old files."""
        with contextlib.suppress(OSError):
            for file in self._folder.iterdir():
                if file.stat().st_mtime < time.time() - CACHE_S:
                    file.unlink()


class Provider:
    """A source of weather, with one session and a deadline of `timeout_s` for each city.

    A subclass implements geocode() and current(); both request JSON with get(url, **params). Add it to PROVIDERS.
    units: metric, imperial or standard
    lang: an ISO code
    urls: URLs that replace those of `bases` and of the environment; ValueError is raised if one is not https
    """

    title = terms = attribution = ""
    bases: tuple[tuple[str, str], ...] = ()  # (variable of the environment that overrides the URL, the URL)
    needs_key = False
    most_days = 16

    def __init__(
        self, key: str = "", *, units: str = "metric", lang: str = "en", urls: Sequence[str] = (),
        timeout_s: float = 10.0, cache: bool = True,
    ) -> None:  # fmt: skip
        import requests

        self.urls = [base_url(url) for url in urls or (os.environ.get(name) or base for name, base in self.bases)]
        self.key = key if self.needs_key else ""
        self.units = units
        self.lang = lang.lower().replace("_", "-")
        self.language = self.lang.partition("-")[0]
        self.timeout_s = timeout_s
        cache_root = user_cache_root() if cache else ""
        self._cache = Cache(cache_root) if cache_root else None
        self._session = requests.Session()
        self._session.trust_env = all(url.startswith("https:") for url in self.urls)  # Loopback needs no proxy.
        self._session.auth = lambda request: request  # Without it, requests would send the entries of ~/.netrc.
        for url in self.urls:
            self._session.mount(url, adapter_with(f"&{urlencode({'appid': self.key})}" if self.key else ""))

    def geocode(self, get: Get, query: Query) -> list[Place]:
        """Return the places that fit the query, the likeliest first. Raise CityNotFound if there is none."""
        raise NotImplementedError

    def current(self, get: Get, place: Place, days: int) -> Weather:
        """Return the weather of the place, now and for that many days."""
        raise NotImplementedError

    def ask(self, cities: Sequence[str], days: int = 0) -> Iterator[Weather | WeatherError]:
        """Yield the weather of each city, or the cause why there is none, in the order of the cities."""
        if days > self.most_days:
            log.warning("%s has a forecast of %d days at most", self.title, self.most_days)
        days = min(days, self.most_days)
        for first in range(0, len(cities), AT_ONCE):
            deadline = time.monotonic() + self.timeout_s
            for future in [self._start(city, days, deadline) for city in cities[first : first + AT_ONCE]]:
                try:
                    yield future.result(max(0, deadline - time.monotonic()))
                except TimeoutError:
                    yield TooSlow(f"{self.title}: no answer in {self.timeout_s:g} s (--timeout)")
        if self._cache:
            self._cache.clean()

    def _start(self, city: str, days: int, deadline: float) -> "Future[Weather | WeatherError]":
        """Ask in a daemon thread: a name lookup and an answer that arrives byte by byte cannot be interrupted."""
        future: Future[Weather | WeatherError] = Future()
        threading.Thread(target=lambda: future.set_result(self._answer(city, days, deadline)), daemon=True).start()
        return future

    def _answer(self, city: str, days: int, deadline: float) -> Weather | WeatherError:
        """Return the weather, or the error. If a cached answer caused the error, ask again without the cache."""
        hits = list[str]()
        result = self._ask_once(partial(self._get, deadline, hits), city, days)
        if hits and isinstance(result, WeatherError):
            result = self._ask_once(partial(self._get, deadline, None), city, days)
        return result

    def _ask_once(self, get: Get, city: str, days: int) -> Weather | WeatherError:
        query = Query.parse(city)
        try:
            place = parse_coordinates(city)
            place, *others = [place] if place else self._find(get, query)
            weather = self.current(get, place, days)
        except WeatherError as error:
            return error
        except Exception as error:  # An answer can have any shape. An error of one city does not stop the others.
            failure = ProviderFailed(f"{self.title} sent something that is not its JSON")
            failure.__cause__ = error
            return failure
        if (weather.temperature is None and not weather.description) or (days and not weather.days):
            return ProviderFailed(f"{self.title} sent no weather")
        names = folded(place.name), folded(query.name)
        named = {str(other): other for other in others if folded(other.name) in names}
        named.pop(str(place), None)
        rise, fall = weather.sunrise, weather.sunset
        if rise and fall and not (fall - rise) % timedelta(days=1):
            rise = fall = None  # The sun does not rise or set; the times are placeholders.
        return dataclasses.replace(weather, others=tuple(named.values()), sunrise=rise, sunset=fall)

    def _find(self, get: Get, query: Query) -> list[Place]:
        """Return the places that fit. If there is none, take the last words of the name for a qualifier."""
        try:
            return self.geocode(get, query)
        except CityNotFound:
            shorter = query.without_comma()
            if shorter is None or len(shorter.qualifiers) > 2:  # "Portland OR USA" has two.
                raise
        return self._find(get, shorter)

    def _get(self, deadline: float, cache_hits: list[str] | None, url: str, **params: Any) -> Any:
        """Return an answer from the cache or from the provider. Repeat a request if that is useful.

        cache_hits: URLs that the cache answered are added to it; None means not to read the cache.
        """
        url = f"{url}?{urlencode(params, errors='replace')}"
        if self._cache and cache_hits is not None:
            answer = self._cache.load(url)
            if answer is not None:
                cache_hits.append(url)
                return answer
        answer = self._get_repeatedly(url, deadline)
        if self._cache:
            self._cache.save(url, answer)
        return answer

    def _get_repeatedly(self, url: str, deadline: float) -> Any:
        backoffs = iter(BACKOFF_S)
        while True:
            try:
                return self._request(url, max(0.01, deadline - time.monotonic()))
            except WeatherError as failure:
                wait_s = failure.retry_s
                # A request that was refused because of concurrency is repeated until the deadline.
                if wait_s == BUSY_S:
                    wait_s *= random.uniform(1, 2)
                else:
                    wait_s = max(wait_s, next(backoffs))
                if wait_s > min(MAX_RETRY_AFTER_S, deadline - time.monotonic()):
                    raise
            time.sleep(wait_s)

    def _request(self, url: str, timeout_s: float) -> Any:
        body = bytearray()
        try:
            timeouts = (min(timeout_s, CONNECT_S), timeout_s)
            with self._session.get(url, stream=True, timeout=timeouts, allow_redirects=False) as response:
                for piece in response.iter_content(READ_BYTES):
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise ProviderFailed(f"{self.title} sent an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        except (OSError, ValueError) as error:
            raise explain_fault(self.title, error) from error
        answer = parse_answer(self.title, response.status_code, bytes(body), self.key)
        check(self.title, response.status_code, redact(response.headers.get("Retry-After", ""), self.key), answer)
        return answer


# Providers. A third one is a subclass of Provider with two methods, and an entry in PROVIDERS.


class OpenMeteo(Provider):
    """See https://open-meteo.com/en/docs and https://open-meteo.com/en/docs/geocoding-api."""

    title = "Open-Meteo"
    terms = "for non-commercial use, data CC BY 4.0, https://open-meteo.com/en/licence"
    attribution = "Weather data by Open-Meteo.com (https://open-meteo.com/), CC BY 4.0"
    bases = (
        ("OPEN_METEO_URL", "https://api.open-meteo.com"),
        ("OPEN_METEO_GEOCODING_URL", "https://geocoding-api.open-meteo.com"),
    )

    def geocode(self, get: Get, query: Query) -> list[Place]:
        results = self._search(get, query, self.language)
        try:
            return choose(query, [(place, regions) for _, place, regions in results])
        except CityNotFound:
            if self.language == "en" or not query.qualifiers:
                raise
        # The geocoder names countries and regions in the user's language, but the qualifiers may be English.
        local = {key: place for key, place, _ in results if key}
        english = self._search(get, query, "en")
        candidates = [(local.get(key, place), [*names, place.region, place.country]) for key, place, names in english]
        return choose(query, candidates)

    def _search(self, get: Get, query: Query, language: str) -> list[tuple[Any, Place, list[str | None]]]:
        """Return (ID, place, names of the regions that it is in) for each result."""
        params: dict[str, Any] = {"name": query.name, "count": MAX_PLACES, "language": language}
        country = {"countryCode": query.country_code} if query.country_code else {}
        entries = get_path(get(f"{self.urls[1]}/v1/search", **params, **country), "results")
        if not entries and country:  # The places in other countries are listed in the message.
            entries = get_path(get(f"{self.urls[1]}/v1/search", **params), "results")
        results = []
        for entry in entries or []:
            [place] = parse_places([entry], region="admin1")
            regions = [convert("region", get_path(entry, f"admin{level}"), 0, 0) for level in range(1, 5)]
            results += [(get_path(entry, "id"), place, regions)] if place else []
        return results

    def current(self, get: Get, place: Place, days: int) -> Weather:
        question: dict[str, Any] = {"latitude": place.latitude, "longitude": place.longitude, "timezone": "auto"}
        question |= {"current": ",".join(OPEN_METEO_NOW.values()), "hourly": "temperature_2m"}
        question |= {"daily": ",".join(["sunrise", "sunset", *OPEN_METEO_DAY.values()]), "wind_speed_unit": "ms"}
        if self.units == "imperial":
            question |= {"wind_speed_unit": "mph", "temperature_unit": "fahrenheit"}
        answer = get(f"{self.urls[0]}/v1/forecast", **question, forecast_days=max(days, 1))
        add = KELVIN if self.units == "standard" else 0
        values = partial(extract, offset_s=get_path(answer, "utc_offset_seconds"), add=add)
        now = values(answer["current"], OPEN_METEO_NOW | {"observed_at": "time"})
        sun = values(answer["daily"], {"sunrise": "sunrise", "sunset": "sunset"}, ".0")
        daily = [values(answer["daily"], OPEN_METEO_DAY | {"date": "time"}, f".{day}") for day in range(days)]
        coming = tuple(Forecast(**day) for day in daily if day["date"])
        hour = {"observed_at": "time", "temperature": "temperature_2m"}
        curve = curve_of(values(answer["hourly"], hour, f".{index}") for index in range(24 * days))
        return Weather(place=place, units=UNITS[self.units], **now, **sun, days=coming, curve=curve)


class OpenWeatherMap(Provider):
    """See https://openweathermap.org/api/geocoding-api, https://openweathermap.org/current and /forecast5."""

    title = "OpenWeatherMap"
    terms = "https://openweathermap.org/terms"
    attribution = "Weather data provided by OpenWeather (https://openweathermap.org/)"
    bases = (("OPENWEATHERMAP_URL", "https://api.openweathermap.org"),)
    needs_key = True
    most_days = 5

    def geocode(self, get: Get, query: Query) -> list[Place]:
        if not self.key:
            raise BadKey(f"OpenWeatherMap needs a key, in {KEY_VARIABLES[0]} or --api-key; Open-Meteo needs none")
        country = query.country_code or next((CODES[word] for word in query.qualifiers if word in CODES), None)
        if POSTCODE.fullmatch(query.name):
            answer = get(f"{self.urls[0]}/geo/1.0/zip", zip=f"{query.name},{country or 'US'}")
            return choose(Query(query.name, ()), [(place, ()) for place in self._places([answer]) if place])
        candidates = list[Place]()
        for words in self._questions(query, country):
            entries = get(f"{self.urls[0]}/geo/1.0/direct", q=words, limit=5)[:]  # Anything but a list fails here.
            places = [place for place in self._places(entries) if place]
            candidates += places
            if any(query.fits(place) for place in places):
                break
        return choose(query, [(place, ()) for place in candidates])

    @staticmethod
    def _questions(query: Query, country: str | None) -> list[str]:
        """Return what to ask for, the most exact first: a state needs its code and the country's."""
        states = [state for word in query.qualifiers for state in STATE_NAMES.get(word, ())]
        exact = [state for state in states if state[2] == query.country_code]
        in_state = [f"{query.name},{code},{its_country}" for code, _, its_country in exact or states]
        in_country = [f"{query.name},{country}"] if country else []
        questions = in_state + in_country if exact else in_country + in_state
        return questions if questions and len(query.qualifiers) == 1 else [*questions, query.name]

    def _places(self, entries: Sequence[Any]) -> list[Place | None]:
        """Return the places, with their names in the user's language where OpenWeatherMap has them."""
        places = parse_places(entries, region="state", country_code="country", latitude="lat", longitude="lon")
        for number, (entry, place) in enumerate(zip(entries, places, strict=True)):
            name = convert("name", get_path(entry, f"local_names.{self.language}"), 0, 0)
            if place and name and self.language != "en":
                places[number] = dataclasses.replace(place, name=name)
        return places

    def current(self, get: Get, place: Place, days: int) -> Weather:
        lang = LANGUAGES.get(self.lang) or LANGUAGES.get(self.language, self.language)
        question = {"lat": place.latitude, "lon": place.longitude, "units": self.units, "lang": lang}
        answer = get(f"{self.urls[0]}/data/2.5/weather", **question)
        coming = get(f"{self.urls[0]}/data/2.5/forecast", **question)["list"] if days else []
        values = partial(extract, offset_s=get_path(answer, "timezone"))
        dated = filter(itemgetter("date"), (values(step, OPENWEATHERMAP_STEP) for step in coming))
        by_day = [[*group] for _, group in itertools.groupby(dated, itemgetter("date"))][:days]
        now = values(answer, OPENWEATHERMAP_NOW)
        curve = curve_of(itertools.chain(*by_day))
        return Weather(place=place, units=UNITS[self.units], **now, days=tuple(map(gather, by_day)), curve=curve)


def gather(steps: Sequence[Mapping[str, Any]]) -> Forecast:
    """Return the forecast of a day from OpenWeatherMap's steps of three hours."""
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
    """Return the weather now and for that many days (at most 16; OpenWeatherMap: 5). Its str() is a sentence.

    options: provider (auto, openweathermap or open-meteo), api_key, and those of Provider.
    Raises WeatherError; its subclasses are the causes.
    """
    [answer] = pick_provider(**options).ask([city], days)
    if isinstance(answer, WeatherError):
        raise answer
    return answer


# Formats: the weather as text.


def details(weather: Weather, now: datetime) -> list[str]:
    """Return the lines below the sentence."""
    degrees = weather.units["temperature"]
    speed = f" {weather.units['wind_speed']}"
    deg = weather.wind_from_deg
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
    """Return the temperatures as rows of blocks, with the days below."""
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
        sys.exit(f"{PROGRAM}: error: cannot write the output: {error.strerror}")  # with status 1


def bounded(kind: type[float], low: float, high: float, text: str) -> float:
    """Return the number in `text`, which must be from `low` to `high`: an argparse type, once these are bound."""
    with contextlib.suppress(ValueError):
        if low <= kind(text) <= high:
            return kind(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:,.15g} to {high:,.15g}")


def new_parser() -> argparse.ArgumentParser:
    """Return a parser whose --help prints the module's docstring, wrapped to the terminal, and the examples."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    description = textwrap.fill(" ".join(summary.split()), max(20, shutil.get_terminal_size().columns - 2))
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(PROGRAM, description=description, epilog=examples, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def line_of(weather: Weather) -> str:
    """Return one line for status bars and prompts: "Paris: overcast 12.3°C"."""
    temperature = amount(weather.temperature, weather.units["temperature"], 1)
    return f"{weather.place.name}: {' '.join(filter(None, (weather.description, temperature)))}"


def print_result(city: str, result: Weather | WeatherError, provider: Provider, args: argparse.Namespace) -> None:
    with output_errors():
        if args.json:
            print(as_json(city, result, provider), flush=True)
        elif isinstance(result, WeatherError):
            print_message("error", f"{printable(city[:MAX_TEXT_CHARS])}: {result}")
        else:
            print(line_of(result) if args.line else as_text(result), flush=True)


def locale_language() -> str:
    """Return the language of the locale for messages (POSIX: LC_ALL, LC_MESSAGES, LANG); "en" for C."""
    value = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    language = re.match(r"[A-Za-z]{2,3}(_[A-Za-z]{2,4})?(?![A-Za-z])", value)
    return language[0].replace("_", "-") if language else "en"


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = new_parser()
    add = parser.add_argument_group("places").add_argument
    add("city", nargs="*", metavar="CITY", help="CITY, 'CITY, COUNTRY OR REGION', 'POSTCODE, COUNTRY' or LAT,LON")
    add("--lang", metavar="LANG", help="language of names, as en or pt-BR (default: that of the locale)")
    add = parser.add_argument_group("output").add_argument
    add("--units", choices=UNITS, default="metric", help="°C and m/s, °F and mph, or K and m/s (default: %(default)s)")
    add("--forecast", nargs="?", const="5", metavar="DAYS", help="DAYS from 1 to 16 (default: %(const)s)")
    form = parser.add_argument_group("format").add_mutually_exclusive_group().add_argument
    form("--json", action="store_true", help="print a JSON object for each city")
    form("--line", action="store_true", help="print one line for each city, for status bars")
    add("-q", "--quiet", action="store_true", help="do not print the note about the source")
    add = parser.add_argument_group("provider").add_argument
    add("--provider", choices=["auto", *PROVIDERS], default="auto", help="auto: openweathermap if there is a key")
    add("--api-key", metavar="KEY", help=f"key of OpenWeatherMap; safer in the environment: {', '.join(KEY_VARIABLES)}")
    add("--no-cache", action="store_true", help="do not read or write answers of the last ten minutes")
    seconds = partial(bounded, float, 0.01, DAY_S)
    add("--timeout", type=seconds, default=10.0, metavar="S", help="seconds for each city (default: %(default)g)")
    words = sys.argv[1:] if argv is None else argv
    # The space keeps argparse from taking coordinates south of the equator for an option.
    args = parser.parse_intermixed_args([f" {word}" if re.match(r"-[\d.]+\D", word) else word for word in words])
    args.city = [city.strip() for city in args.city]
    if args.forecast and not re.fullmatch(r"[+-]?[\d.]+", args.forecast):  # --forecast London
        args.city.insert(0, args.forecast)
        args.forecast = "5"
    try:
        args.forecast = bounded(int, 1, 16, args.forecast) if args.forecast else 0
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --forecast: {error}")
    if not args.city or not all(city.strip(" ,") for city in args.city):
        parser.error("name a city, as in: weather.py London")
    if args.lang and not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z]{2,4})?", args.lang):
        parser.error(f"argument --lang: {args.lang!r} is not a language such as en or pt-BR")
    args.lang = args.lang or locale_language()
    return args


def main(argv: Sequence[str] | None = None) -> int:
    reserve_standard_descriptors()
    args = parse_args(argv)
    logging.basicConfig(format=f"{PROGRAM}: warning: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal's encoding lacks
    options = {"units": args.units, "lang": args.lang, "timeout_s": args.timeout, "cache": not args.no_cache}
    errors = list[WeatherError]()
    try:
        provider = pick_provider(args.provider, args.api_key, **options)
        if not args.quiet and not args.line:
            print_message("info", f"from {provider.title}: {provider.terms}")
        for city, result in zip(args.city, provider.ask(args.city, args.forecast), strict=True):
            print_result(city, result, provider, args)
            errors += [result] if isinstance(result, WeatherError) else []
    except KeyboardInterrupt:
        return 130
    except ImportError:
        print_message("error", "requests is missing; install it with: pip install requests")
        return 1
    except ValueError as error:
        print_message("error", str(error))
        return 2
    are_words = len(args.city) > 1 and not any(" " in city for city in args.city)
    if are_words and any(isinstance(error, CityNotFound) for error in errors):
        words = printable(" ".join(args.city)[:MAX_TEXT_CHARS])
        print_message("info", f"a name of several words needs quotes: {PROGRAM} '{words}'")
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
