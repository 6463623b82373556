"""Flower at the boundary: fedkit on a Flower fleet, and Flower's parts inside fedkit.

guard       which Flower versions are supported
parcel      what travels in one Flower message, and what a node keeps between two
fleet, grid what fedkit uses of Flower's Grid
federation  FlowerFederation, and `nodes`, which it sends to
node        what a node does with a parcel, and `setup`, what it is
clientapp   the ClientApp around it
serverapp   the ServerApp that runs a scenario
loopback    `federation.kind=flower`: a fleet on this machine; with `programs`, `attendant` and `bridge`
strategies  Flower's strategies as fedkit strategies; adapter is what they share
records     models and messages in Flower's form
trainers    NumPyClient-shaped objects as fedkit trainers
apps        ClientApps as fedkit trainers

Only this package imports flwr. Needs the extra `fedkit[flower]`.
"""
