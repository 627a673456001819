"""``python -m lanceloader``."""

from lanceloader.cli import main

if __name__ == "__main__":
    main()
