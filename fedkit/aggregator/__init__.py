"""The deployed server: a journal on disk, the requests of devices, and the Federation between them."""
