"""Both providers on loopback, as their documentation has them: they check what they are asked, and fail to order."""

import datetime
import json
import math
import socket
import struct
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "SENTINEL/key+of&tests"  # characters that a URL must quote
NOW = 1_772_366_400  # 2026-03-01T12:00:00Z
DAY_S = 86_400


PLACE = ("name", "admin1", "country", "country_code", "latitude", "longitude", "offset_s")


def place(*values):
    return {"offset_s": 0, **dict(zip(PLACE, values, strict=False))}


PLACES = [
    place("London", "England", "United Kingdom", "GB", 51.50853, -0.12574),
    place("London", "Ontario", "Canada", "CA", 42.98339, -81.23304, -18_000),
    place("London", "Kentucky", "United States", "US", 37.12898, -84.08326, -18_000),
    place("Londonderry", "Northern Ireland", "United Kingdom", "GB", 54.9981, -7.30934),
    place("Paris", "Île-de-France", "France", "FR", 48.85341, 2.3488, 3_600),
    place("Paris", "Texas", "United States", "US", 33.66094, -95.55551, -21_600),
    place("東京", "東京都", "日本", "JP", 35.6895, 139.69171, 32_400),
    place("Kiritimati", "Line Islands", "Kiribati", "KI", 1.872, -157.4278, 50_400),
    place("Pago Pago", "Eastern District", "American Samoa", "AS", -14.27806, -170.7025, -39_600),
    place("Tromsø", "Troms", "Norway", "NO", 69.6489, 18.95508, 3_600),
    *(place(f"City {number}", "Region", "Country", "XX", number, number) for number in range(20)),
]


def find(name):
    return [one for one in PLACES if one["name"].casefold().startswith(name.strip().casefold())]


def at(latitude, longitude):
    return next(one for one in PLACES if (one["latitude"], one["longitude"]) == (float(latitude), float(longitude)))


def degrees(celsius, units):
    return {"metric": celsius, "imperial": celsius * 9 / 5 + 32, "standard": celsius + 273.15}[units]


def local(epoch, offset_s, form="%Y-%m-%dT%H:%M"):
    return datetime.datetime.fromtimestamp(epoch + offset_s, datetime.UTC).strftime(form)


def deny(status, **body):
    return status, body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body does not wait for the ACK of its headers

    def do_GET(self):
        path, _, query = self.path.partition("?")
        asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.server.asked.append((path, asked))
        fault = self.server.next_fault(path)
        if fault:
            fault(self)
        else:
            try:
                route = self.server.routes.get(path)
                status, answer = (200, route) if route else ROUTES[path](self.server, asked)
            except (KeyError, AssertionError) as error:
                self.server.complaints.append(f"{self.path}: {error!r}")
                status, answer = 400, {"error": True, "reason": repr(error)}
            self.reply(status, json.dumps(answer))

    def reply(self, status, body, content_type="application/json", **headers):
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class FakeWeather(ThreadingHTTPServer):
    """A server that answers like both providers.

    faults: for each path, the functions that replace its next answers; the last one is permanent
    edit: for each path, a function that changes its answer
    routes: for each path, a function that returns its answer
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked, self.complaints = [], []
        self.faults, self.edit, self.routes = {}, {}, {}
        self.finished = threading.Event()  # Hanging requests wait for this event.

    def serve_forever(self):
        super().serve_forever(poll_interval=0.01)

    def next_fault(self, path):
        faults = self.faults.get(path, self.faults.get("*", []))
        return faults.pop(0) if len(faults) > 1 else faults[0] if faults else None

    def edited(self, path, answer):
        self.edit.get(path, lambda _: None)(answer)
        return 200, answer

    def paths(self):
        return [path for path, _ in self.asked]

    def close(self):
        self.finished.set()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is one of the cases


def exactly(asked, **expected):
    for name, value in expected.items():
        assert asked.get(name) == value, f"{name} is {asked.get(name)!r}, not {value!r}"


# OpenWeatherMap


def with_key(route):
    def check(server, asked):
        if asked.get("appid") != KEY:
            return deny(401, cod=401, message="Invalid API key. Please see https://openweathermap.org/faq#error401")
        return route(server, asked)

    return check


@with_key
def direct(server, asked):
    exactly(asked, limit="5")
    name, *qualifiers = asked["q"].split(",")
    if not name:
        return deny(400, cod="400", message="Nothing to geocode")
    places = [one for one in find(name) if not qualifiers or qualifiers[-1].upper() == one["country_code"]]
    places = [one for one in places if one["name"].casefold() == name.casefold()]
    answer = [
        {
            "name": one["name"],
            "local_names": {"en": one["name"], "cs": f"{one['name']} česky", "la": "Latin"},
            "lat": one["latitude"],
            "lon": one["longitude"],
            "country": one["country_code"],
            "state": one["admin1"],
        }
        for one in places
    ]
    return server.edited("/geo/1.0/direct", answer[:5])


def openweathermap_units(asked):
    assert asked["units"] in ("metric", "imperial", "standard")
    assert asked["lang"] in ("en", "cz", "kr", "ua", "zh_cn", "zh_tw", "pt_br", "de", "pt", "la"), asked["lang"]
    return asked["units"], 2.23694 if asked["units"] == "imperial" else 1


@with_key
def current(server, asked):
    one, (units, speed) = at(asked["lat"], asked["lon"]), openweathermap_units(asked)
    midnight = (NOW + one["offset_s"]) // DAY_S * DAY_S - one["offset_s"]
    answer = {
        "coord": {"lon": one["longitude"], "lat": one["latitude"]},
        "weather": [{"id": 802, "main": "Clouds", "description": "scattered clouds", "icon": "03d"}],
        "base": "stations",
        "main": {"temp": degrees(12.3, units), "feels_like": degrees(11.0, units), "pressure": 1012, "humidity": 81},
        "visibility": 10000,
        "wind": {"speed": 4.1 * speed, "deg": 250, "gust": 8.2 * speed},
        "clouds": {"all": 40},
        "dt": NOW,
        "sys": {"country": one["country_code"], "sunrise": midnight + 6 * 3600, "sunset": midnight + 18 * 3600},
        "timezone": one["offset_s"],
        "id": 1,
        "name": one["name"],
        "cod": 200,
    }
    return server.edited("/data/2.5/weather", answer)


@with_key
def five_days(server, asked):
    one, (units, _) = at(asked["lat"], asked["lon"]), openweathermap_units(asked)
    steps = [
        {
            "dt": NOW + 3 * 3600 * step,
            "main": {
                "temp": degrees(step, units),
                "temp_min": degrees(step - 1, units),
                "temp_max": degrees(step + 1, units),
            },
            "weather": [{"id": 500, "main": "Rain", "description": "light rain", "icon": "10d"}],
            "pop": 0.32 if step else 0.7,
            "rain": {"3h": 0.5},
        }
        for step in range(40)
    ]
    answer = {"cod": "200", "message": 0, "cnt": 40, "list": steps, "city": {"timezone": one["offset_s"]}}
    return server.edited("/data/2.5/forecast", answer)


# Open-Meteo


def search(server, asked):
    exactly(asked, count="100")
    assert "," not in asked["name"]
    assert asked["language"].isalpha()
    places = find(asked["name"]) if len(asked["name"]) > 1 else []
    places = [one for one in places if asked.get("countryCode", one["country_code"]) == one["country_code"]]
    places = [{"id": number, "timezone": "GMT", **one} for number, one in enumerate(places, 1)]
    answer = {"results": places, "generationtime_ms": 0.5} if places else {"generationtime_ms": 0.5}
    return server.edited("/v1/search", answer)


def forecast(server, asked):
    exactly(asked, timezone="auto")
    imperial = asked.get("temperature_unit") == "fahrenheit"
    exactly(asked, wind_speed_unit="mph" if imperial else "ms")
    units, speed = ("imperial", 2.23694) if imperial else ("metric", 1)
    one, days = at(asked["latitude"], asked["longitude"]), int(asked["forecast_days"])
    midnight = (NOW + one["offset_s"]) // DAY_S * DAY_S - one["offset_s"]
    now = {
        "temperature_2m": degrees(12.3, units),
        "apparent_temperature": degrees(11.0, units),
        "relative_humidity_2m": 81,
        "precipitation": 0.0,
        "weather_code": 3,
        "pressure_msl": 1012.4,
        "wind_speed_10m": 4.1 * speed,
        "wind_direction_10m": 250,
        "wind_gusts_10m": 8.2 * speed,
    }
    daily = {
        "weather_code": [61] * days,
        "temperature_2m_max": [degrees(10 + day, units) for day in range(days)],
        "temperature_2m_min": [degrees(day, units) for day in range(days)],
        "precipitation_probability_max": [70] * days,
        "precipitation_sum": [2.5] * days,
        "sunrise": [local(midnight + day * DAY_S + 6 * 3600, one["offset_s"]) for day in range(days)],
        "sunset": [local(midnight + day * DAY_S + 18 * 3600, one["offset_s"]) for day in range(days)],
    }
    waves = [5 + hour / 24 - 5 * math.cos(hour / 24 * 2 * math.pi) for hour in range(24 * days)]
    hourly = {"temperature_2m": [degrees(round(celsius, 1), units) for celsius in waves]}
    dates = [local(midnight + day * DAY_S, one["offset_s"], "%Y-%m-%d") for day in range(days)]
    hours = [local(midnight + hour * 3600, one["offset_s"]) for hour in range(24 * days)]
    answer = {
        "utc_offset_seconds": one["offset_s"],
        "current": {"time": local(NOW, one["offset_s"]), "interval": 900} | chosen(now, asked["current"]),
        "daily": {"time": dates} | chosen(daily, asked["daily"]),
        "hourly": {"time": hours} | chosen(hourly, asked["hourly"]),
    }
    return server.edited("/v1/forecast", answer)


def chosen(known, names):
    return {name: known[name] for name in names.split(",")}


ROUTES = {
    "/geo/1.0/direct": direct,
    "/data/2.5/weather": current,
    "/data/2.5/forecast": five_days,
    "/v1/search": search,
    "/v1/forecast": forecast,
}


# Faults


def answering(status, body, content_type="application/json", **headers):
    return lambda handler: handler.reply(status, body, content_type, **headers)


def html(status):
    """A page that echoes the URL, as error pages do."""
    return lambda handler: handler.reply(status, f"<html><h1>Oh</h1>{handler.path}</html>", "text/html")


def echo(status):
    """JSON that echoes the URL."""
    return lambda handler: handler.reply(
        status, json.dumps({"cod": status, "message": f"no {handler.path} {urllib.parse.unquote(handler.path)}"})
    )


def hang(handler):
    handler.server.finished.wait(30)


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.rfile.close()
    handler.wfile.close()
    handler.connection.close()


def hang_up(handler):
    handler.close_connection = True


def truncate(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"results": [')
    handler.close_connection = True


def drip(handler):
    """A byte now and then: no single read ever times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    trickle(handler)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    trickle(handler)


def trickle(handler):
    handler.close_connection = True
    while not handler.server.finished.wait(0.05):
        handler.wfile.write(b" ")


def babble(handler):
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")
    handler.close_connection = True
