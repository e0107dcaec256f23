"""weather.py against both providers on loopback; nothing else is ever contacted."""

import contextlib
import dataclasses
import datetime
import errno
import gc
import ipaddress
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse

import fake_weather as fake
import pytest
from conftest import ROOT, free_port
from fake_weather import KEY

import weather

VARIABLES = ("OPENWEATHERMAP_URL", "OPEN_METEO_URL", "OPEN_METEO_GEOCODING_URL")
PATHS = {"open-meteo": "/v1/forecast", "openweathermap": "/data/2.5/weather"}
GEOCODERS = {"open-meteo": "/v1/search", "openweathermap": "/geo/1.0/direct"}
BLOCKED = []  # the hosts that a request would have left the machine for

both = pytest.mark.parametrize("provider", list(PATHS))
ten_lines = ROOT / "tests" / "ten_lines" / "weather.py"

WATCHING = []  # An audit hook cannot be removed, and the tests of other modules have their own networks.


def guard(event, arguments):
    """Let nothing but loopback be reached: what a process without a network sees."""
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.sendto") or not WATCHING:
        return
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return
    BLOCKED.append(host)
    if event == "socket.getaddrinfo":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    raise OSError(errno.ENETUNREACH, "Network is unreachable")


sys.addaudithook(guard)


@pytest.fixture(autouse=True)
def world(monkeypatch, tmp_path):
    """A user's environment: no keys, no proxies, a cache folder of its own, and no way out but loopback."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in weather.KEY_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(weather, "BACKOFF_S", (0.001, 0.001, weather.INFINITE_S))
    BLOCKED.clear()
    WATCHING.append(True)
    yield
    WATCHING.clear()
    assert not BLOCKED


@pytest.fixture
def server(serving, monkeypatch):
    """Both providers, at the addresses in the environment."""
    server = serving(fake.FakeWeather())
    for variable in VARIABLES:
        monkeypatch.setenv(variable, server.url)
    yield server
    server.finished.set()
    server.shutdown()
    assert not server.complaints


@pytest.fixture
def get(server):
    """get(city, provider) asks in this process, without a cache."""

    def ask(city, provider="open-meteo", days=0, **options):
        options = {"provider": provider, "api_key": KEY, "cache": False} | options
        return weather.get_weather(city, days, **options)

    return ask


def options_for(provider):
    return ["--provider", provider, "--no-cache"] + (["--api-key", KEY] if provider == "openweathermap" else [])


# What a user sees


def test_the_first_run_needs_no_key(run, server):
    status, out, err = run("weather.py", "London")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "The weather in London is overcast with a temperature of 12.3°C"
    assert lines[1:-1] == [
        "  place: London, England, United Kingdom",
        "  other places: London, Ontario, Canada; London, Kentucky, United States",
        "  feels like: 11.0°C",
        "  humidity: 81%",
        "  wind: 4.1 m/s, from WSW, 8.2 m/s in gusts",
        "  pressure: 1012 hPa",
        "  sunrise: 06:00 (UTC)",
        "  sunset: 18:00 (UTC)",
    ]
    assert re.fullmatch(r"  observed: \d+ (min|h) ago", lines[-1])
    assert err.count("\n") == 1
    assert "Open-Meteo" in err
    assert "non-commercial" in err
    assert "CC BY 4.0" in err
    assert "https://open-meteo.com/en/licence" in err


@pytest.mark.parametrize("variable", weather.KEY_VARIABLES)
def test_a_key_in_the_environment_means_openweathermap(variable, run, server, monkeypatch):
    monkeypatch.setenv(variable, KEY)
    status, out, err = run("weather.py", "London")
    assert (status, out.splitlines()[0]) == (
        0,
        "The weather in London is scattered clouds with a temperature of 12.3°C",
    )
    assert "from OpenWeatherMap" in err
    assert server.paths() == ["/geo/1.0/direct", "/data/2.5/weather"]


def test_the_keys_are_taken_in_order(server, monkeypatch):
    for variable, key in zip(weather.KEY_VARIABLES, ("first", "second", "third"), strict=True):
        monkeypatch.setenv(variable, key)
    assert weather.pick_provider(api_key="flag").key == "flag"
    for variable, key in zip(weather.KEY_VARIABLES, ("first", "second", "third"), strict=True):
        assert weather.pick_provider().key == key
        monkeypatch.setenv(variable, " ")
    assert weather.pick_provider().title == "Open-Meteo"


@both
def test_describe_returns_the_sentence(provider, get):
    words = {"open-meteo": "overcast", "openweathermap": "scattered clouds"}[provider]
    assert str(get("London", provider)) == f"The weather in London is {words} with a temperature of 12.3°C"


@both
@pytest.mark.parametrize(
    ("units", "degrees", "wind"),
    [("metric", "12.3°C", "4.1 m/s"), ("imperial", "54.1°F", "9.2 mph"), ("standard", "285.4K", "4.1 m/s")],
)
def test_all_units(provider, units, degrees, wind, get):
    answer = get("London", provider, days=2, units=units)
    assert str(answer).endswith(degrees.replace("285.4", f"{answer.temperature:.1f}"))
    assert answer.temperature == pytest.approx(fake.degrees(12.3, units))
    assert answer.feels_like == pytest.approx(fake.degrees(11.0, units))
    assert f"  wind: {wind}, from WSW" in "\n".join(weather.details(answer, answer.observed_at))
    first = {"open-meteo": (0, 10), "openweathermap": (-1, 4)}[provider]
    assert (answer.days[0].low, answer.days[0].high) == pytest.approx([fake.degrees(t, units) for t in first])
    assert answer.curve[0][1] == pytest.approx(fake.degrees(0, units))
    assert answer.units["temperature"] in str(answer)


def test_several_cities_keep_their_order_and_one_that_fails_loses_no_other(run, server):
    gate = threading.Event()
    server.edit["/v1/search"] = lambda answer: gate.wait(10) if "England" in str(answer) else gate.set()
    status, out, err = run("weather.py", "London", "Nowhere", "Paris")
    sentences = [line for line in out.splitlines() if line.startswith("The weather")]
    assert [line.split()[3] for line in sentences] == ["London", "Paris"]
    assert status == 1
    assert err.splitlines()[1:] == [
        "weather.py: error: Nowhere: no such city; check the spelling",
        "weather.py: info: a name of several words needs quotes: weather.py 'London Nowhere Paris'",
    ]
    assert "quotes" not in run("weather.py", "London, UK", "Nowhere")[2]


def test_four_cities_are_asked_at_the_same_time_and_twenty_in_order(run, server):
    """Each answer waits until four are asked for."""
    barrier = threading.Barrier(4)
    server.edit["/v1/forecast"] = lambda answer: barrier.wait(10)
    assert run("weather.py", *(f"City {number}" for number in range(4)), "--no-cache")[0] == 0
    server.edit.clear()
    cities = [f"City {number}" for number in range(19, -1, -1)]
    status, out, err = run("weather.py", *cities)
    assert (status, re.findall(r"The weather in (.*) is", out), err.count("\n")) == (0, cities, 1)


@both
def test_a_forecast_has_a_day_a_line_and_a_curve(provider, run, server, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    status, out, _ = run("weather.py", "London", "--forecast", *options_for(provider))
    lines = out.splitlines()
    days = [line for line in lines if "chance of rain" in line]
    expected = {
        "open-meteo": "  Sun 01 Mar    0.0 to  10.0°C  slight rain, 70% chance of rain, 2.5 mm",
        "openweathermap": "  Sun 01 Mar   -1.0 to   4.0°C  light rain, 70% chance of rain, 2.0 mm",
    }
    assert status == 0
    assert (len(days), days[0]) == (5, expected[provider])
    curve = lines[lines.index(days[-1]) + 1 :]
    assert len(curve) == weather.CURVE_ROWS + 1
    assert max(map(len, curve)) <= 60
    assert "█" in curve[0]
    assert curve[-1].split() == ["Sun", "Mon", "Tue", "Wed", "Thu"]


def test_the_longest_forecasts(run, server):
    status, out, err = run("weather.py", "London", "--forecast", "16")
    assert (status, out.count("chance of rain"), err.count("\n")) == (0, 16, 1)
    status, out, err = run("weather.py", "London", "Paris", "--forecast", "6", *options_for("openweathermap"))
    assert (status, out.count("chance of rain"), err.count("\n")) == (0, 2 * 5, 2)
    assert err.splitlines()[1] == "weather.py: warning: OpenWeatherMap has a forecast of 5 days at most"


def test_without_a_forecast_there_are_no_days(get, server):
    assert get("London", "openweathermap").days == get("London").days == get("London").curve == ()


@pytest.mark.parametrize("width", [1, 20, 80, 500])
def test_the_curve_fits(width):
    start = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
    curve = [(start + datetime.timedelta(hours=hour), float(hour % 7)) for hour in range(100)]
    lines = weather.draw_curve(curve, width)
    assert max(map(len, lines)) <= max(18, min(width, weather.CURVE_COLUMNS))
    assert weather.draw_curve([], width) == []


# The flags


@both
def test_json_has_an_object_for_each_city(provider, run, server):
    status, out, err = run("weather.py", "London", "Nowhere", "--json", "--forecast", "2", *options_for(provider))
    good, bad = map(json.loads, out.splitlines())
    fields = {field.name for field in dataclasses.fields(weather.Weather)}
    assert status == 1
    assert set(good) == fields | {"city", "provider", "attribution"}
    assert good["units"] == {"temperature": "°C", "wind_speed": "m/s"}
    assert good["temperature"] == 12.3
    assert good["place"]["region"] == "England"
    assert good["observed_at"] == "2026-03-01T12:00:00+00:00"
    assert [day["date"] for day in good["days"]] == ["2026-03-01", "2026-03-02"]
    assert "http" in good["attribution"]
    assert bad == {"city": "Nowhere", "error": "no such city; check the spelling", "cause": "CityNotFound"}
    assert "error" not in err


def test_plain_http_is_for_loopback_only(run, monkeypatch):
    for url in ("ftp://127.0.0.1", "http://127.0.0.1.evil.example", "http://127.0.0.1@evil.example", "x", "http://"):
        with pytest.raises(ValueError, match="https"):
            weather.OpenWeatherMap(urls=[url])
    for url in ("https://example.com", "http://localhost:1", "http://[::1]:1/", "http://127.9.9.9:1"):
        assert weather.OpenWeatherMap(urls=[url]).urls == [url.rstrip("/")]
    monkeypatch.setenv("OPENWEATHERMAP_URL", "http://192.0.2.1:80")
    status, out, err = run("weather.py", "London", "--api-key", KEY)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_without_variables_the_providers_have_their_public_addresses(monkeypatch):
    for provider in weather.PROVIDERS.values():
        for variable, _ in provider.bases:
            monkeypatch.delenv(variable, raising=False)
    assert weather.OpenMeteo().urls == ["https://api.open-meteo.com", "https://geocoding-api.open-meteo.com"]
    assert weather.OpenWeatherMap().urls == ["https://api.openweathermap.org"]


def test_the_wind_comes_from_one_of_sixteen_points(get):
    answer = get("London")
    points = ["N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE", "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW", "N"]
    for number, point in enumerate(points):
        windy = dataclasses.replace(answer, wind_from_deg=22.5 * number)
        assert f", from {point}, " in "\n".join(weather.details(windy, answer.observed_at))


@pytest.mark.parametrize(
    ("lang", "sent"),
    [
        ("cs", "cz"),
        ("ko", "kr"),
        ("uk", "ua"),
        ("zh-CN", "zh_cn"),
        ("zh-TW", "zh_tw"),
        ("pt-BR", "pt_br"),
        ("pt_BR", "pt_br"),
        ("de-AT", "de"),
        ("lv", "la"),
    ],
)
def test_languages_are_sent_with_openweathermaps_codes(lang, sent, get, server):
    assert get("London", "openweathermap", lang=lang).place.name == ("London česky" if lang == "cs" else "London")
    assert server.asked[-1][1]["lang"] == sent
    get("London", lang=lang)
    assert server.asked[-2][1]["language"] == lang[:2]


def test_help_loads_no_requests():
    code = "import sys, weather\ntry: weather.main(['--help'])\nexcept SystemExit: assert 'requests' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_without_requests_the_error_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    assert run("weather.py", "London") == (
        1,
        "",
        "weather.py: error: requests is missing; install it with: pip install requests\n",
    )


def test_colour_is_for_terminals(server, monkeypatch):
    """On a terminal there is colour, unless NO_COLOR is set."""
    import pty

    for no_color in (False, True):
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        terminal, end = pty.openpty()
        command = [sys.executable, str(ROOT / "weather.py"), "London"]
        with subprocess.Popen(command, stdout=end, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"}):
            os.close(end)
            printed = b""
            with contextlib.suppress(OSError):
                while data := os.read(terminal, 65_536):
                    printed += data
        os.close(terminal)
        assert b"The weather in London" in printed
        assert (b"\x1b[" in printed) != no_color


# Places


@pytest.mark.parametrize(
    ("city", "place"),
    [
        ("London", "London, England, United Kingdom"),
        ("london, ca", "London, Ontario, Canada"),
        ("London, Canada", "London, Ontario, Canada"),
        ("London, Kentucky, US", "London, Kentucky, United States"),
        ("PARIS,FR", "Paris, Île-de-France, France"),
        ("Paris, ile-de-france", "Paris, Île-de-France, France"),
        ("東京", "東京, 東京都, 日本"),
        ("Londonderry", "Londonderry, Northern Ireland, United Kingdom"),
    ],
)
def test_the_place_is_the_one_that_was_asked_for(city, place, get):
    assert str(get(city).place) == place


@pytest.mark.parametrize(("city", "country"), [("London,CA", "CA"), ("London, GB", "GB"), ("Paris ,US", "US")])
def test_openweathermap_matches_qualifiers_itself(city, country, get):
    assert get(city, "openweathermap").place.country_code == country


def test_a_place_has_another_name_in_another_language(get, server):
    server.edit["/v1/search"] = lambda answer: answer["results"][0].update(name="Munich")
    assert get("Tromsø").place.name == "Munich"


@pytest.mark.parametrize("city", ["London, FR", "London, Ontario, US", "Londo", "London, CA, XX"])
def test_if_no_place_fits_the_places_that_were_found_are_listed(city, get):
    with pytest.raises(weather.CityNotFound, match=r"there is .*(England, United Kingdom|Kentucky, United States)"):
        get(city)


@pytest.mark.parametrize("city", ["Nowhere", "", ",", " , FR", "\udcff"])
@both
def test_an_unknown_city_is_an_error(provider, city, get):
    with pytest.raises(weather.CityNotFound, match=r"^no such city; check the spelling$"):
        get(city, provider)


@pytest.mark.parametrize(
    ("city", "offset_h", "date"),
    [("Kiritimati", 14, "2026-03-02"), ("Pago Pago", -11, "2026-03-01"), ("東京", 9, "2026-03-01")],
)
@both
def test_times_are_those_of_the_place(provider, city, offset_h, date, get):
    answer = get(city, provider, days=1)
    assert answer.observed_at.timestamp() == fake.NOW
    assert answer.observed_at.utcoffset() == datetime.timedelta(hours=offset_h)
    assert (answer.sunrise.hour, answer.sunset.hour) == (6, 18)
    assert answer.days[0].date.isoformat() == date
    assert {at.date().isoformat() for at, _ in answer.curve} == {date}


# What providers send


def test_every_wmo_code_has_words(get, server):
    documented = "0 1 2 3 45 48 51 53 55 56 57 61 63 65 66 67 71 73 75 77 80 81 82 85 86 95 96 99"
    assert [*weather.WMO] == [int(code) for code in documented.split()]
    for code, words in weather.WMO.items():
        server.edit["/v1/forecast"] = lambda answer, code=code: answer["current"].update(weather_code=code)
        assert str(get("London")) == f"The weather in London is {words} with a temperature of 12.3°C"


def lines_of(answer):
    return "\n".join([str(answer), *weather.details(answer, answer.observed_at or datetime.datetime.now(datetime.UTC))])


@pytest.mark.parametrize(
    ("change", "has", "has_not"),
    [
        ({"snow": {}}, "12.3°C", "snow"),
        ({"wind": {"speed": 4.1}}, "wind: 4.1 m/s\n", "from"),
        ({"wind": {}}, "12.3°C", "wind"),
        ({"weather": []}, "The weather in London is 12.3°C\n", "None"),
        ({"weather": [{"description": "light rain"}, {"description": "mist"}]}, "is light rain, mist with", None),
        ({"main": {"temp": None, "humidity": "81"}}, "The weather in London is scattered clouds\n", "humidity"),
        ({"main": {"temp": 10**400}}, "The weather in London is scattered clouds\n", "inf"),
        ({"sys": {"sunrise": 0, "sunset": 0}}, "12.3°C", "sun"),
        ({"sys": {"sunrise": fake.NOW, "sunset": fake.NOW}}, "12.3°C", "sun"),
        ({"sys": {}, "dt": None}, "12.3°C", "observed"),
        ({"timezone": "UTC", "dt": 10**30}, "12.3°C", "observed"),
        ({"timezone": 10**6}, "12.3°C", "sun"),
        ({"main": {"temp": -0.04, "humidity": 0}}, "of 0.0°C", "-0.0"),
        ({"weather": [{"description": "\x1b]0;x\x07rain\nforged"}]}, r"\x1b]0;x\x07rain\nforged", "\x1b"),
    ],
)
def test_what_openweathermap_may_send(change, has, has_not, get, server):
    server.edit["/data/2.5/weather"] = lambda answer: answer.update(change)
    text = lines_of(get("London", "openweathermap"))
    assert has in text
    assert has_not is None or has_not not in text


@pytest.mark.parametrize(
    ("section", "change", "has", "has_not"),
    [
        ("current", {"weather_code": 42, "relative_humidity_2m": None}, "is WMO code 42 with", "humidity"),
        ("current", {"weather_code": 1e30}, "The weather in London is 12.3°C\n", "1e"),
        ("current", {"weather_code": None}, "The weather in London is 12.3°C\n", "None"),
        ("current", {"temperature_2m": None}, "The weather in London is overcast\n", "None"),
        ("current", {"temperature_2m": True, "wind_speed_10m": "4"}, "The weather in London is overcast\n", "True"),
        ("current", {"time": "yesterday"}, "sunset: 18:00", "observed"),
        ("daily", {"sunrise": [None], "sunset": [None]}, "12.3°C", "sun"),
        ("daily", {"sunrise": ["6 o'clock"], "sunset": [[]]}, "12.3°C", "sun"),
        ("daily", {"sunrise": ["2026-03-01T00:00"], "sunset": ["2026-03-02T00:00"]}, "12.3°C", "sun"),
    ],
)
def test_what_open_meteo_may_send(section, change, has, has_not, get, server):
    server.edit["/v1/forecast"] = lambda answer: answer[section].update(change)
    text = lines_of(get("London"))
    assert has in text
    assert has_not is None or has_not not in text


def test_snow_and_rain_add_up_and_an_empty_object_is_neither(get, server):
    def snow(answer):
        answer["list"][0] |= {"snow": {"3h": 1.5}}
        answer["list"][1] |= {"snow": {}, "rain": {}, "pop": None}

    server.edit["/data/2.5/forecast"] = snow
    assert get("London", "openweathermap", days=1).days[0].precipitation_mm == 0.5 * 3 + 1.5


def test_what_cannot_be_read_in_a_forecast_is_left_out(get, server):
    def garble(answer):
        answer["daily"]["time"][0] = "Monday"
        answer["daily"]["precipitation_sum"] = None
        answer["hourly"]["time"][24] = 5.5

    server.edit["/v1/forecast"] = garble
    answer = get("London", days=3)
    assert [(day.date.day, day.description, day.precipitation_mm) for day in answer.days] == [
        (2, "slight rain", None),
        (3, "slight rain", None),
    ]
    assert len(answer.curve) == 71

    server.edit["/data/2.5/forecast"] = lambda answer: answer["list"][0].update(dt="now")
    assert get("London", "openweathermap", days=1).days[0].precipitation_mm == 0.5 * 3
    assert len(get("London", "openweathermap", days=1).curve) == 3


def test_null_in_a_forecast_is_left_out(run, server):
    def nulls(answer):
        for name in set(answer["daily"]) - {"time"}:
            answer["daily"][name][1] = None
        answer["daily"]["temperature_2m_min"][2] = None
        answer["hourly"]["temperature_2m"][:30] = [None] * 30

    server.edit["/v1/forecast"] = nulls
    status, out, _ = run("weather.py", "London", "--forecast", "3")
    assert status == 0
    assert "\n  Mon 02 Mar\n  Tue 03 Mar   12.0°C           slight rain, 70% chance of rain, 2.5 mm\n" in out
    assert "None" not in out


def test_escapes_in_names_do_not_reach_the_terminal(run, server):
    def poison(answer):
        answer["results"][:] = [
            answer["results"][0] | {"name": "London\x1b[31m", "admin1": "a\nb", "country": "c\u202ed"}
        ]

    server.edit["/v1/search"] = poison
    status, out, _ = run("weather.py", "London")
    assert status == 0
    assert out.splitlines()[1] == r"  place: London\x1b[31m, a\nb, c\u202ed"


# Faults


def limit(reason="", **headers):
    body = json.dumps({"error": True, "reason": reason, "message": reason})
    return fake.answering(429, body, **headers)


FAULTS = {
    "refused key": (
        [fake.answering(401, '{"cod": 401, "message": "Invalid API key"}')],
        weather.BadKey,
        "some hours",
        1,
    ),
    "cod 401 in 200": ([fake.answering(200, '{"cod": "401"}')], weather.BadKey, "key", 1),
    "404": (
        [fake.answering(404, '{"cod": "404", "message": "city not found"}')],
        weather.CityNotFound,
        "no such city",
        1,
    ),
    "cod 404 in 200": (
        [fake.answering(200, '{"cod": "404", "message": "x"}')],
        weather.CityNotFound,
        "no such city",
        1,
    ),
    "400": ([fake.answering(400, '{"error": true, "reason": "Latitude"}')], weather.ProviderFailed, "Latitude", 1),
    "400 echo": ([fake.echo(400)], weather.ProviderFailed, "refuses the request", 1),
    "html 200": ([fake.html(200)], weather.ProviderFailed, "not its JSON", 1),
    "html 401": ([fake.html(401)], weather.ProviderFailed, "not its JSON", 1),
    "html 404": ([fake.html(404)], weather.ProviderFailed, "not its JSON", 1),
    "html 503": ([fake.html(503)], weather.ProviderFailed, "down .status 503", 3),
    "500": ([fake.echo(500)], weather.ProviderFailed, "down .status 500", 3),
    "501": ([fake.html(501)], weather.ProviderFailed, "status 501", 1),
    "other json": ([fake.answering(200, "{}")], weather.WeatherError, "not its JSON|no such city|sent no weather", 1),
    "text": ([fake.answering(200, '"sunny"')], weather.ProviderFailed, "not its JSON", 1),
    "deep": ([fake.answering(200, "[" * 100_000)], weather.ProviderFailed, "not its JSON", 1),
    "long": ([fake.answering(200, " " * 2_000_000)], weather.ProviderFailed, "more than 1,048,576 bytes", 1),
    "redirect": (
        [fake.answering(302, "", Location="https://evil.example/")],
        weather.ProviderFailed,
        r"redirects to another address.*30",
        1,
    ),
    "reset": ([fake.reset], weather.ProviderFailed, "Connection reset", 3),
    "hang up": ([fake.hang_up], weather.ProviderFailed, "it closed the connection", 3),
    "truncated": ([fake.truncate], weather.ProviderFailed, "it closed the connection", 3),
    "no http": ([fake.babble], weather.ProviderFailed, "it closed the connection", 3),
    "hang": ([fake.hang], weather.TooSlow, "no answer", 1),
    "drip": ([fake.drip], weather.TooSlow, "no answer", 1),
    "drip of headers": ([fake.drip_headers], weather.TooSlow, "no answer", 1),
    "500, cod 200": ([fake.answering(500, '{"cod": 200}')], weather.ProviderFailed, "down .status 500", 3),
    "429": ([limit()], weather.RateLimited, "does not state when", 1),
    "429 later": ([limit(Retry_After="60")], weather.RateLimited, "in 60 s", 1),
    "429 date": ([limit(Retry_After="Sun, 01 Mar 2026 12:00:00 GMT")], weather.RateLimited, "come back Sun, 01 Mar", 1),
    "429 minute": ([limit("Minutely API request limit")], weather.RateLimited, "in 60 s", 1),
    "429 hour": ([limit("Hourly API request limit", Retry_After="1")], weather.RateLimited, "in 3600 s", 1),
    "429 day": ([limit("Daily API request limit", Retry_After="1")], weather.RateLimited, "in 86400 s", 1),
}


def everything_of(error):
    """Return the text of an exception and of its chain."""
    seen, todo, texts = set(), [error], []
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | type | None.__class__):
            texts.append(value)
            continue
        seen.add(id(value))
        texts += [repr(value), str(value)]
        if isinstance(value, BaseException):
            texts += traceback.format_exception(value)
            todo += [value.__context__, value.__cause__, *value.args, *getattr(value, "__notes__", [])]
        if isinstance(value, dict | list | tuple):
            todo += value.values() if isinstance(value, dict) else value
        if type(value).__module__.split(".")[0] in ("requests", "urllib3", "weather", "json", "http"):
            held = getattr(value, "__dict__", {})
            todo += [value for name, value in held.items() if name not in ("connection", "pool", "_pool")]
    return " ".join(map(repr, texts))


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("paths", [GEOCODERS, PATHS], ids=["finding", "asking"])
@both
def test_each_fault_is_reported_without_the_key(provider, paths, name, get, server, caplog, monkeypatch, capfd):
    if name == "deep":
        gc.collect()  # Collect the garbage of earlier tests, because nothing can be finalized at that depth.
    faults, kind, words, attempts = FAULTS[name]
    path = paths[provider]
    server.faults[path] = [*faults]
    timeout_s = 0.2 if kind is weather.TooSlow else 5
    with caplog.at_level(logging.DEBUG), pytest.raises(weather.WeatherError, match=words) as caught:
        get("London", provider, timeout_s=timeout_s)
    assert isinstance(caught.value, kind)
    assert "\n" not in str(caught.value)
    assert server.paths().count(path) == attempts
    assert caplog.records
    output = everything_of(caught.value) + caplog.text + "".join(capfd.readouterr())
    output += "".join(repr(vars(record)) for record in caplog.records)
    assert "SENTINEL" not in output


def test_an_invalid_key_is_an_error(get, server):
    """A short key is not redacted, because it would garble the output."""
    with pytest.raises(weather.BadKey, match="does not accept the key"):
        get("London", "openweathermap", api_key="4")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("REQUESTS_CA_BUNDLE", "/nonexistent", "cannot be asked: .*/nonexistent"),
        ("HTTPS_PROXY", "http://user:SENTINEL@[x/", "URL is not valid"),
    ],
)
def test_an_invalid_environment_variable_is_an_error(variable, value, words, get, server, monkeypatch, caplog):
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("OPENWEATHERMAP_URL", "https://weather.invalid")
    with caplog.at_level(logging.DEBUG), pytest.raises(weather.WeatherError, match=words) as caught:
        get("London", "openweathermap")
    assert "SENTINEL" not in str(caught.value) + caplog.text


def test_a_connection_that_takes_too_long_is_tried_again(get, server, monkeypatch):
    """A listener whose backlog is full answers nothing."""
    monkeypatch.setattr(weather, "BACKOFF_S", (0.001, 0.001, weather.INFINITE_S))
    monkeypatch.setattr(weather, "CONNECT_S", 0.1)
    tried = []
    monkeypatch.setattr(weather.Provider, "_request", counting(weather.Provider._request, tried))
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        monkeypatch.setenv("OPEN_METEO_GEOCODING_URL", f"http://127.0.0.1:{full.getsockname()[1]}")
        with pytest.raises(weather.TooSlow):
            get("London")
    assert len(tried) == 3


def counting(function, calls):
    return lambda *args: (calls.append(args), function(*args))[1]


def test_the_key_arrives(get, server):
    """And so the tests above would see it."""
    get("London", "openweathermap")
    assert [asked["appid"] for _, asked in server.asked] == [KEY, KEY]
    get("London")
    assert all("appid" not in asked for _, asked in server.asked[2:])


def test_a_temporary_fault_is_tried_again(get, server, monkeypatch):
    monkeypatch.setattr(weather, "BACKOFF_S", (0.001, 0.001, weather.INFINITE_S))
    server.faults["/v1/search"] = [fake.html(503), fake.reset, None]
    assert get("London").description == "overcast"
    server.faults["/v1/search"] = [limit(Retry_After="0"), None]
    assert get("London").description == "overcast"


def test_a_short_retry_after_is_obeyed(get, server, monkeypatch):
    waited = []
    monkeypatch.setattr(weather.time, "sleep", waited.append)
    server.faults["/v1/search"] = [limit("Minutely API request limit", Retry_After="3"), None]
    assert get("London").description == "overcast"
    assert waited == [3]


def test_no_wait_goes_beyond_the_deadline(get, server):
    server.faults["/v1/search"] = [limit(Retry_After="4")]
    started = time.monotonic()
    with pytest.raises(weather.RateLimited) as caught:
        get("London", timeout_s=2)
    assert time.monotonic() - started < 2
    assert caught.value.retry_s == 4


@pytest.mark.parametrize("fault", [fake.hang, fake.drip, fake.drip_headers])
def test_the_script_ends_at_its_timeout(fault, run, server):
    server.faults["*"] = [fault]
    started = time.monotonic()
    status, out, err = run("weather.py", "London", "Paris", "--timeout", "0.3")
    assert (status, out) == (1, "")
    assert err.count("no answer in") == 2
    assert 0.3 <= time.monotonic() - started < 3


@both
def test_a_redirect_gets_no_key(provider, get, server, serving):
    """The other host is another server here."""
    other = serving(fake.FakeWeather())
    server.faults["*"] = [fake.answering(307, "", Location=other.url + PATHS[provider])]
    with pytest.raises(weather.ProviderFailed, match="redirects to another address"):
        get("London", provider)
    assert not other.asked
    other.shutdown()


def closed_port(scheme="http"):
    return f"{scheme}://127.0.0.1:{free_port()}"


def test_a_refused_connection_is_an_error(get, server, monkeypatch):
    monkeypatch.setattr(weather, "BACKOFF_S", (0.001, 0.001, weather.INFINITE_S))
    monkeypatch.setenv("OPEN_METEO_GEOCODING_URL", closed_port())
    with pytest.raises(weather.ProviderFailed, match="is down: Connection refused"):
        get("London")


@pytest.mark.parametrize(("provider", "host"), [("open-meteo", "weather.invalid"), ("openweathermap", "192.0.2.1")])
def test_without_a_network_there_is_one_error_line(provider, host, run, monkeypatch):
    for variable in VARIABLES:
        monkeypatch.setenv(variable, f"https://{host}")
    started = time.monotonic()
    status, out, err = run("weather.py", "London", *options_for(provider))
    assert (status, out, err.count("\n")) == (1, "", 2)
    assert "check the network connection" in err
    assert time.monotonic() - started < 10
    assert host in BLOCKED
    BLOCKED.clear()


def test_without_environment_variables_the_real_hosts_are_asked(monkeypatch):
    """And the guard is what keeps these tests from them."""
    monkeypatch.setattr(weather, "BACKOFF_S", (weather.INFINITE_S,))
    for options in ({}, {"api_key": KEY}):
        with pytest.raises(weather.NoNetwork):
            weather.get_weather("London", cache=False, **options)
    hosts = ["geocoding-api.open-meteo.com", "api.openweathermap.org"]
    assert hosts == BLOCKED
    BLOCKED.clear()


@pytest.fixture
def over_tls(serving, tls, monkeypatch):
    """OpenWeatherMap over https, with a certificate that requests trusts only with REQUESTS_CA_BUNDLE."""
    server = fake.FakeWeather()
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    monkeypatch.setenv("OPENWEATHERMAP_URL", server.url.replace("http://127.0.0.1", "https://localhost"))
    yield serving(server)
    server.shutdown()


def test_the_key_goes_over_tls(over_tls, certificate, monkeypatch, caplog):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
    with caplog.at_level(logging.DEBUG):
        assert weather.get_weather("London", api_key=KEY, cache=False).description == "scattered clouds"
    assert [asked["appid"] for _, asked in over_tls.asked] == [KEY, KEY]
    assert "urllib3" in caplog.text
    assert "SENTINEL" not in caplog.text


def test_a_certificate_that_is_not_trusted(over_tls, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(weather.ProviderFailed, match=r"TLS.*self-signed") as caught:
        weather.get_weather("London", api_key=KEY, cache=False)
    assert "SENTINEL" not in everything_of(caught.value) + caplog.text
    assert not over_tls.asked


def test_a_proxy_that_refuses_is_named(run, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", closed_port())
    monkeypatch.setenv("OPENWEATHERMAP_URL", "https://weather.invalid")
    status, out, err = run("weather.py", "London", *options_for("openweathermap"))
    assert (status, out, err.count("\n"), "SENTINEL" in err) == (1, "", 2, False)
    assert "the proxy does not connect" in err


# The cache


def test_an_answer_is_kept_for_ten_minutes(run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OWM_API_KEY", KEY)
    first, asked, folder = run("weather.py", "London"), 2, tmp_path / "cache" / "netscripts-weather"
    assert (run("weather.py", "London"), len(server.asked)) == (first, asked)
    for arguments in (["--units", "imperial"], ["--lang", "de"], ["--no-cache"]):
        assert run("weather.py", "London", *arguments)[0] == 0
        assert len(server.asked) > asked
        asked = len(server.asked)
    files = [*folder.iterdir()]
    assert len(files) == 4  # a place, and its weather in metric, imperial and German
    assert not any("SENTINEL" in path.read_text() for path in files)
    for path in files:
        saved_at, answer = json.loads(path.read_text())
        path.write_text(json.dumps([saved_at - 601, answer]))
        os.utime(path, (saved_at - 601, saved_at - 601))
    assert run("weather.py", "London") == first
    assert len(server.asked) == asked + 2
    assert len([*folder.iterdir()]) == 2  # The old files are deleted.


def test_the_place_stays_in_the_cache_after_an_interruption(get, server, tmp_path):
    answers = weather.OpenMeteo().ask(["London", *["Paris"] * weather.AT_ONCE])
    next(answers)
    answers.close()
    assert any("London" in path.read_text() for path in (tmp_path / "cache").rglob("*.json"))


DAMAGE = [b"", b"{", b"[]", b"\xff", b'{"question": 1, "answer": []}', b"[" * 100_000, b"[1e999, {}]"]
DAMAGE += [b"[1%s, {}]" % (b"0" * 400), b'["x", {}]', b"[NOW, null]", b"[NOW, {}]"]


def test_no_cache_leaves_nothing(run, server, tmp_path):
    assert run("weather.py", "London", "--no-cache")[0] == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_ignored(damage, get, server, tmp_path, caplog):
    first = get("London", cache=True)
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_bytes(damage.replace(b"NOW", b"%d" % time.time()))
    assert get("London", cache=True) == first
    assert len(server.asked) == 4
    assert not caplog.records


def test_folders_in_place_of_the_cached_files_are_one_warning(run, server, tmp_path):
    assert run("weather.py", "London")[0] == 0
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()
        path.mkdir()
    status, out, err = run("weather.py", "London")
    assert (status, out.count("The weather"), err.count("warning")) == (0, 1, 1)
    assert all(path.suffix == ".json" for path in (tmp_path / "cache" / "netscripts-weather").iterdir())


def test_a_user_without_a_home_has_no_cache(run, server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "~/.cache")
    monkeypatch.chdir(tmp_path)
    status, out, err = run("weather.py", "London", "-q")
    assert (status, out[:22], err) == (0, "The weather in London ", "")
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_cache_is_one_warning(run, server, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    status, out, err = run("weather.py", "London", "Paris")
    assert (status, out.count("The weather"), err.count("warning")) == (0, 2, 1)


def test_a_third_provider_is_a_class_with_two_methods(monkeypatch):
    class Window(weather.Provider):
        def geocode(self, get, query):
            return [
                weather.Place(name=query.name, region=None, country=None, country_code=None, latitude=0, longitude=0)
            ]

        def current(self, get, place, days):
            nothing = dict.fromkeys([*weather.OPENWEATHERMAP_NOW])
            known = {"place": place, "units": weather.UNITS["metric"], "description": "sunny"}
            return weather.Weather(**nothing | known)

    monkeypatch.setitem(weather.PROVIDERS, "window", Window)
    assert str(weather.get_weather("here", provider="window")) == "The weather in here is sunny"


# Places as people type them

WORLD = [
    fake.place("London", "England", "United Kingdom", "GB", 51.5, -0.1),
    fake.place("Paris", "Île-de-France", "France", "FR", 48.9, 2.3),
    fake.place("Paris", "Texas", "United States", "US", 33.7, -95.6),
    fake.place("Portland", "Maine", "United States", "US", 43.7, -70.3),
    fake.place("Portland", "Oregon", "United States", "US", 45.5, -122.7),
    fake.place("Amsterdam", "North Holland", "Netherlands", "NL", 52.4, 4.9),
    fake.place("Prague", "Prague", "Czechia", "CZ", 50.1, 14.4),
    fake.place("Ankara", "Ankara", "Türkiye", "TR", 39.9, 32.9),
    fake.place("Seoul", "Seoul", "South Korea", "KR", 37.6, 127.0),
    fake.place("Tbilisi", "Tbilisi", "Georgia", "GE", 41.7, 44.8),
    fake.place("Atlanta", "Georgia", "United States", "US", 33.7, -84.4),
    fake.place("London", "Ontario", "Canada", "CA", 43.0, -81.2),
    fake.place("Perth", "Western Australia", "Australia", "AU", -32.0, 115.9),
    fake.place("Vancouver", "Washington", "United States", "US", 45.6, -122.6),
    fake.place("Riyadh", "Riyadh Region", "Saudi Arabia", "SA", 24.7, 46.7),
    fake.place("Hamilton", "Pembroke", "Bermuda", "BM", 32.3, -64.8),
    fake.place("Port of Spain", "Port of Spain", "Trinidad and Tobago", "TT", 10.7, -61.5),
]


@both
@pytest.mark.parametrize(
    ("city", "latitude"),
    [
        ("London, UK", 51.5), ("London, Great Britain", 51.5), ("LONDON, england", 51.5), ("London, U.K.", 51.5),
        ("Paris, USA", 33.7), ("Paris, U.S.A.", 33.7), ("Paris, TX", 33.7), ("Paris, France", 48.9),
        ("Portland, OR", 45.5), ("Portland, ME, USA", 43.7), ("Portland, Oregon", 45.5), ("London, ON", 43.0),
        ("Amsterdam, The Netherlands", 52.4), ("Amsterdam, Holland", 52.4), ("Prague, Czech Republic", 50.1),
        ("Ankara, Turkey", 39.9), ("Ankara, Turkiye", 39.9), ("Seoul, Korea", 37.6),
        ("Tbilisi, Georgia", 41.7), ("Atlanta, Georgia", 33.7), ("Atlanta, GA", 33.7), ("London, CA", 43.0),
        ("Perth, WA", -32.0), ("Perth, WA, Australia", -32.0), ("Vancouver, WA", 45.6), ("Riyadh, SA", 24.7),
        ("London UK", 51.5), ("paris texas", 33.7), ("Portland ME USA", 43.7), ("Portland OR, USA", 45.5),
        ("Prague Czech Republic", 50.1), ("Paris, FRA", 48.9), ("Seoul, KOR", 37.6), ("london gbr", 51.5),
        ("Hamilton, Bermuda", 32.3), ("Hamilton, BMU", 32.3), ("Port of Spain, Trinidad & Tobago", 10.7),
    ],
)  # fmt: skip
def test_qualifiers_are_countries_and_regions_as_people_write_them(city, latitude, provider, get, monkeypatch):
    monkeypatch.setattr(fake, "PLACES", WORLD)
    assert get(city, provider).place.latitude == latitude


@both
@pytest.mark.parametrize(
    "city", ["London, Scotland", "London, Wales", "London, Northern Ireland", "Londonderry, England"]
)
def test_a_nation_of_the_united_kingdom_is_not_the_whole_country(city, provider, get):
    with pytest.raises(weather.CityNotFound):
        get(city, provider)


def populated(**populations):
    def edit(answer):
        for number, population in enumerate(populations.values()):
            answer["results"][number]["population"] = population

    return edit


def test_the_place_with_the_most_inhabitants_is_used_and_the_others_are_listed(get, server):
    server.edit["/v1/search"] = populated(england=5, ontario=346_765, kentucky=7_000)
    result = get("London")
    assert result.place.region == "Ontario"
    assert {other.region for other in result.others} == {"England", "Kentucky"}


def test_a_qualifier_may_be_english_when_names_are_in_another_language(get, server):
    def translate(answer):
        if server.asked[-1][1]["language"] == "pl":
            answer["results"][0] |= {"name": "Londyn", "admin1": "Anglia", "country": "Wielka Brytania"}

    server.edit["/v1/search"] = translate
    assert str(get("London, England", lang="pl").place) == "Londyn, Anglia, Wielka Brytania"


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "pl_PL.UTF-8"}, "pl"), ({"LANG": "C"}, "en"), ({"LANG": ""}, "en"), ({"LANG": "POSIX"}, "en"),
        ({"LC_ALL": "C.UTF-8", "LANG": "pl_PL"}, "en"), ({"LC_MESSAGES": "de_DE@euro", "LANG": "pl_PL"}, "de"),
    ],
)  # fmt: skip
def test_names_are_in_the_language_of_the_locale(variables, language, run, server, monkeypatch):
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.setenv(name, variables.get(name, ""))
    run("weather.py", "London", "--no-cache")
    assert server.asked[-2][1]["language"] == language
    run("weather.py", "London", "--no-cache", "--lang", "fr")
    assert server.asked[-2][1]["language"] == "fr"


@both
@pytest.mark.parametrize(
    ("words", "position"),
    [
        ("51.50853,-0.12574", (51.50853, -0.12574)),
        ("-14.27806, -170.7025", (-14.27806, -170.7025)),
        ("51.50853° N, 0.12574° W", (51.50853, -0.12574)),
        ("14.27806s  170.7025w", (-14.27806, -170.7025)),
    ],
)
def test_coordinates_need_no_geocoder(words, position, provider, get, server):
    place = get(words, provider).place
    assert (place.latitude, place.longitude) == position
    assert not [path for path, _ in server.asked if "search" in path or "/geo/" in path]


@pytest.mark.parametrize("words", ["90.1,0", "0,180.1", "99,500", "-91,0"])
def test_coordinates_have_bounds(words, get, server):
    with pytest.raises(weather.CityNotFound, match="latitude"):
        get(words)
    assert not server.asked


def test_coordinates_south_of_the_equator_are_no_option_and_cities_may_follow_options(run, server):
    for words in (["-14.27806,-170.7025", "--line", "Paris"], ["--line", "--", "-14.27806,-170.7025", "Paris"]):
        status, out, _ = run("weather.py", *words)
        assert (status, [line.partition(": ")[0] for line in out.splitlines()]) == (0, ["-14.2781, -170.702", "Paris"])
    status, out, err = run("weather.py", "-33.87,", "151.21")
    assert (status, out) == (1, "")
    assert err.endswith("weather.py: info: a name of several words needs quotes: weather.py '-33.87, 151.21'\n")


def test_a_postcode_is_looked_up_by_openweathermap(get, server):
    server.routes = {
        "/geo/1.0/zip": {"zip": "10115", "name": "Berlin", "lat": 51.50853, "lon": -0.12574, "country": "DE"}
    }
    assert get("10115, DE", "openweathermap").place.name == "Berlin"
    assert server.asked[0][1]["zip"] == "10115,DE"


def test_a_request_that_was_refused_because_of_concurrency_is_repeated(get, server, monkeypatch):
    monkeypatch.setattr(weather, "BUSY_S", 0.001)
    monkeypatch.setitem(weather.LIMITS_S, "concurrent", 0.001)
    busy = fake.answering(429, '{"error": true, "reason": "Too many concurrent requests"}')
    server.faults["/v1/search"] = [*[busy] * 8, None]
    assert get("London").description == "overcast"


def test_many_cities_are_answered_in_their_order_with_at_most_four_requests_at_a_time(run, server):
    counted = threading.Condition()
    counts = [0]

    def count(_):
        with counted:
            counts.append(counts[-1] + 1)
            counted.notify_all()
            counted.wait_for(lambda: counts[-1] > 4, timeout=0.05)
            counts.append(counts[-1] - 1)

    server.edit["/v1/forecast"] = count
    cities = [f"City {number}" for number in range(20)]
    status, out, _ = run("weather.py", *cities, "--line", "--no-cache")
    assert (status, [line.partition(":")[0] for line in out.splitlines()]) == (0, cities)
    assert len(counts) == 41
    assert 1 < max(counts) <= 4


def test_forecast_before_a_city_does_not_take_its_name(run, server):
    status, out, _ = run("weather.py", "--forecast", "London")
    assert (status, out.count("chance of rain")) == (0, 5)


def test_one_line_for_status_bars_and_nothing_else(run, server):
    assert run("weather.py", "London", "Paris", "--line") == (
        0, "London: overcast 12.3°C\nParis: overcast 12.3°C\n", "",
    )  # fmt: skip


def test_quiet_leaves_the_note_about_the_source_out(run, server):
    status, out, err = run("weather.py", "London", "-q")
    assert (status, err, out.startswith("The weather")) == (0, "", True)


FORMS = [KEY, KEY.replace("/", "\\/"), "".join(f"\\u{ord(char):04x}" for char in KEY), urllib.parse.quote_plus(KEY)]


@pytest.mark.parametrize("form", FORMS, ids=["plain", "slash", "unicode", "url"])
@pytest.mark.parametrize("status", [200, 400, 401, 429])
def test_a_key_that_is_sent_back_is_not_printed(form, status, run, server, monkeypatch):
    monkeypatch.setenv("OWM_API_KEY", KEY)
    body = (
        f'[{{"name": "{form}", "lat": 1, "lon": 2}}]' if status == 200 else f'{{"cod": {status}, "message": "{form}"}}'
    )
    server.faults["/geo/1.0/direct"] = [fake.answering(status, body, Retry_After=KEY)]
    _, out, err = run("weather.py", "London", "--no-cache", *["--json"] * (status == 400))
    assert not any(word in out + err for word in ("SENTINEL", "of&tests"))


def test_the_entries_of_netrc_are_not_sent(get, server, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    session = weather.OpenMeteo(urls=["https://example.org", "https://example.org"])._session
    import requests

    prepared = session.prepare_request(requests.Request("GET", "https://example.org/"))
    assert "Authorization" not in prepared.headers


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("<html>login</html>", "HTML instead of JSON"), ('{"results": [', "incomplete JSON"),
        ("[" * 200_000, "nested too deeply"), ('"' + "x" * 1_100_000 + '"', "more than 1,048,576 bytes"),
    ],
    ids=["html", "cut", "deep", "large"],
)  # fmt: skip
def test_the_cause_of_an_unusable_answer_is_named(body, cause, get, server):
    server.faults["*"] = [fake.answering(200, body)]
    with pytest.raises(weather.ProviderFailed, match=cause):
        get("London")


def test_a_socks_proxy_without_pysocks_is_named(get, monkeypatch):
    pytest.importorskip("requests")
    monkeypatch.setitem(sys.modules, "socks", None)
    error = weather.explain_fault("Open-Meteo", ValueError("Missing dependencies for SOCKS support."))
    assert "PySocks" in str(error)


def test_names_of_many_combining_characters_are_cut_before_they_are_compared(get, server):
    name = "e" + "\u0301\u0327" * 200_000  # Normalising them takes longer than the limit for the time of a test.
    with pytest.raises(weather.CityNotFound):
        get(name)
    server.edit["/v1/search"] = lambda answer: answer["results"][0].update(name=name[:40_000], country=name[:40_000])
    assert len(str(get("London").place)) < 1_000


# What the ten lines get wrong


def ten(server, city="London", **options):
    return subprocess.run([sys.executable, ten_lines, server.url, city], capture_output=True, text=True, **options)


def test_ten_lines_have_no_timeout(get, server):
    server.faults["*"] = [fake.hang]
    with pytest.raises(subprocess.TimeoutExpired):
        ten(server, timeout=1)
    with pytest.raises(weather.TooSlow):
        get("London", timeout_s=0.1)


def test_ten_lines_show_their_key(run, server, monkeypatch):
    """No server listens at this address."""
    server.url = closed_port()
    monkeypatch.setenv("OPENWEATHERMAP_URL", server.url)
    assert "appid=SENTINEL" in ten(server).stderr
    status, out, err = run("weather.py", "London", *options_for("openweathermap"))
    assert (status, "SENTINEL" in out + err) == (1, False)


def test_ten_lines_call_every_fault_the_same(get, server):
    errors = set()
    for body in ({"cod": 401}, {"cod": "404"}, {"cod": 429}):
        server.faults["*"] = [fake.answering(int(body["cod"]), json.dumps(body))]
        assert ten(server).stdout == "Error fetching the weather data.\n"
        with pytest.raises(weather.WeatherError) as caught:
            get("London", "openweathermap")
        errors.add((type(caught.value), str(caught.value)))
    assert len(errors) == 3


def test_ten_lines_take_200_for_success(get, server):
    server.faults["*"] = [fake.answering(200, '{"cod": "404", "message": "city not found"}')]
    assert "Traceback" in ten(server).stderr
    with pytest.raises(weather.CityNotFound):
        get("London", "openweathermap")
