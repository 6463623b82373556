"""What runs at a node: fedkit's client."""

from flwr.clientapp import ClientApp

from fedkit_clients.flower import clientapp

app = ClientApp()
app.query("hello")(clientapp.hello)
app.train()(clientapp.work)
