"""The tutorial's weather script, as it goes around, for the tests to show where it breaks."""

import sys

import requests


def get_weather(city):
    api_key = "SENTINEL"
    base_url = f"{sys.argv[1]}/data/2.5/weather"
    params = {"q": city, "appid": api_key, "units": "metric"}
    response = requests.get(base_url, params=params)
    if response.status_code == 200:
        data = response.json()
        description, temperature = data["weather"][0]["description"], data["main"]["temp"]
        print(f"The weather in {city} is {description} with a temperature of {temperature}°C")
    else:
        print("Error fetching the weather data.")


get_weather(sys.argv[2])
