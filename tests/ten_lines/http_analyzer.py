"""The tutorial's HTTP analyzer, as it goes around, for the tests to show where it breaks."""

import sys

from scapy.all import IP, TCP, Raw, sniff


def analyze_packet(packet):
    if packet.haslayer(TCP) and packet[TCP].dport == 80 and packet.haslayer(Raw):
        payload = packet[Raw].load.decode(errors="ignore")
        if payload.startswith(("GET", "POST")):
            print(f"HTTP request from {packet[IP].src}: {payload.splitlines()[0]}", flush=True)


sniff(offline=sys.argv[1], prn=analyze_packet, store=False)
