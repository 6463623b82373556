"""Certificates for devices: invites, requests, a CA in a directory of its own. Cryptography only, no network.

texts.py          what is signed                    certificates.py   X.509: certificates, revocations
invites.py        one line for a device             authority.py      the CA's directory
requests.py       what a device asks, what it gets
"""
