"""Flower at the boundary: fedkit on a Flower fleet, and Flower's parts inside fedkit.

guard       which Flower versions are supported, and what fedkit uses of them
parcel      what travels in one Flower message: fedkit messages and verdicts, as one blob
federation  FlowerFederation: a Federation over Flower's Grid
node        what a SuperNode does with a parcel, and what it keeps between messages
clientapp   the ClientApp around it
serverapp   the ServerApp that runs a scenario
loopback    a SuperLink and SuperNodes on this machine, started and stopped
strategies  Flower's strategies as fedkit strategies; adapter is what they share
records     models and messages in Flower's form
trainers    NumPyClient-shaped objects as fedkit trainers
apps        ClientApps as fedkit trainers

Only this package imports flwr. Needs the extra `fedkit[flower]`.
"""
