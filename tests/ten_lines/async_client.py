"""The tutorial's asyncio client, as it goes around, for the tests to show where it breaks."""

import asyncio
import sys


async def talk(message, port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    print(f"Sending: {message}", flush=True)
    writer.write(message.encode())
    data = await reader.read(100)
    print(f"Received: {data.decode()}", flush=True)
    writer.close()
    await writer.wait_closed()


async def main():
    await asyncio.gather(*(talk("Hello, World!", int(port)) for port in sys.argv[1:]))


asyncio.run(main())
