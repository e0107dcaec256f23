"""The tutorial's sniffer, as it goes around, for the tests to show where it breaks."""

import sys

from scapy.all import IP, Raw, sniff


def show(packet):
    if IP in packet:
        print(f"{packet[IP].src} -> {packet[IP].dst}", flush=True)
        if Raw in packet:
            print(packet[Raw].load.decode(errors="ignore"), flush=True)


source = {"offline": sys.argv[2]} if sys.argv[1] == "-r" else {"iface": sys.argv[1]}
print("Starting packet capture...", flush=True)
sniff(prn=show, **source)
