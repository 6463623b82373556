"""What runs at the server: fedkit's training loop."""

from flwr.serverapp import ServerApp

from fedkit_clients.flower import serverapp

app = ServerApp()
app.main()(serverapp.main)
