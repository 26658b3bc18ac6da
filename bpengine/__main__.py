"""``python -m bpengine``."""

from bpengine.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
