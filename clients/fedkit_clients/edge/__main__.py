"""`python -m fedkit_clients.edge SETTINGS`: what `fedkit client` becomes once its words are understood."""

import sys

if __name__ == "__main__":
    from fedkit_clients.edge.start import main

    sys.exit(main(sys.argv[1]))
