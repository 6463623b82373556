"""`python -m fedkit_clients.edge SETTINGS`: what `fedkit client` becomes once its words are understood."""

import sys
from typing import cast

if __name__ == "__main__":
    # httpx would load its own command, and with it click, rich and pygments: 5 MB that no client needs
    cast("dict[str, object]", sys.modules)["httpx._main"] = None
    from fedkit_clients.edge.start import main

    sys.exit(main(sys.argv[1]))
