"""Hazardous: cryptographic building blocks without a protocol. Only `fedkit.secagg` imports them."""
